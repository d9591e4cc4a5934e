"""Models of Hugging Face's transformers as bundles, both ways, without transformers or PyTorch.

`reading.py` and `writing.py` are the ways in and out. The files between know one thing each:
`architectures.py` which class does which task, `reading_configs.py` and `writing_configs.py` the
two programs' settings, `tensor_names.py` their weights' names, `tokenizer_files.py` their
tokenizers, `sentence_modules.py` what sentence-transformers adds.
"""
