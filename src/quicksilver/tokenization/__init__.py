"""Byte-level BPE tokenizer and the reserved special tokens."""
