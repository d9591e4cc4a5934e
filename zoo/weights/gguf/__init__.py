"""Models in llama.cpp's format: the file, what it describes, its tokenizer."""
