"""Weights that other programs wrote, and the same for other programs to read.

`safetensors_files.py` reads and writes the files, `assign.py` puts their tensors into a model.
"""
