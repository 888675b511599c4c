"""A split of a corpus without files, for tests of evaluation."""

import numpy as np

from quicksilver.evaluation.documents import Corpus


class CharDocuments:
    """One token per character."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    @property
    def num_docs(self) -> int:
        return len(self.texts)

    def document(self, index: int) -> np.ndarray:
        return np.array([ord(char) for char in self.texts[index]], dtype=np.uint16)

    def doc_name(self, index: int) -> str:
        return f"pack/{index}.py"


def decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def char_corpus(*texts: str) -> Corpus:
    """Those texts as a corpus."""
    return Corpus(
        documents=CharDocuments(*texts),
        decode=decode,
        bytes_of_token=np.ones(256, dtype=np.int64),
        identity={"tokens_sha256": "0" * 64},
        tokenizer_fingerprint="characters",
    )
