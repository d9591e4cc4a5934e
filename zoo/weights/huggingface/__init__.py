"""Models of Hugging Face's transformers as bundles, both ways, without transformers or PyTorch."""
