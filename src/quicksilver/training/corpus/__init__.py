"""The corpus: Python source read straight from pinned wheels, filtered, split by package family and tokenized."""
