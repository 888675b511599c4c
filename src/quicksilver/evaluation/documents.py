"""The seam to a corpus: evaluation reads documents, whoever stores them."""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Documents(Protocol):
    """Tokenized source files of one split; ``training.corpus.token_file.TokenFile`` is one."""

    @property
    def num_docs(self) -> int: ...

    def document(self, index: int) -> np.ndarray:
        """Token ids of a file, integer [L]; decoding them gives its text back."""
        ...

    def doc_name(self, index: int) -> str:
        """``package/path``."""
        ...
