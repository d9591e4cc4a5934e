"""Byte-level BPE, as GPT-2 and its successors have it, in TensorFlow's graph."""
