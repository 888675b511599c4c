"""The seam to a corpus: evaluation reads documents, whoever stores them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file of a split."""

    name: str
    """``package/path``."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A split, and how to read it."""

    documents: Documents
    decode: Callable[[list[int]], str]
    """Token ids to text, of the tokenizer the documents were written with."""
    bytes_of_token: Int[np.ndarray, " V"]
    """UTF-8 bytes per token id."""
    identity: Mapping[str, object]
    """Hash and name of the split, for reports."""
    tokenizer_fingerprint: str
    """A model scores these tokens only if its own tokenizer has the same."""

    def sources(self) -> list[SourceFile]:
        """The files of the split, in order."""
        documents = self.documents
        return [
            SourceFile(name=documents.doc_name(index), text=self.decode(documents.document(index).tolist()))
            for index in range(documents.num_docs)
        ]
