"""Packed tokens of one split on disk, memory-mapped.

``{split}.bin``        uint16, little-endian: the tokens of all documents, back to back, without special tokens;
                       uint32 where ids go beyond 65,535, which shows in the file's size
``{split}.docs.npy``   int64 [N + 1]: where each document starts, in tokens; the last entry is the number of tokens
``{split}.bytes.npy``  int64 [N]: UTF-8 bytes per document
``{split}.names.txt``  one ``package/path`` per document
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int, Int64, UInt

from quicksilver.errors import CorpusError

TOKEN_DTYPE = np.dtype("<u2")
WIDE_TOKEN_DTYPE = np.dtype("<u4")
MAX_VOCAB_SIZE = 2**16
"""Of the narrow dtype."""


class TokenFile:
    """Read access to one split. Safe to open in many processes: nothing is written."""

    def __init__(
        self,
        tokens: UInt[np.ndarray, " T"],
        doc_offsets: Int64[np.ndarray, " N_plus_1"],
        doc_bytes: Int64[np.ndarray, " N"],
        doc_names: Sequence[str],
    ) -> None:
        """Take arrays as described in the module; ``open`` reads and checks them."""
        self._tokens = tokens
        self._doc_offsets = doc_offsets
        self._doc_bytes = doc_bytes
        self._doc_names = tuple(doc_names)

    @classmethod
    def open(cls, folder: Path, split: str) -> Self:
        """Map the split's files.

        Raises:
            CorpusError: a file is missing, or the files contradict each other.
        """
        try:
            offsets = np.load(folder / f"{split}.docs.npy", allow_pickle=False)
            doc_bytes = np.load(folder / f"{split}.bytes.npy", allow_pickle=False)
            names = (folder / f"{split}.names.txt").read_text(encoding="utf-8").splitlines()
            size = (folder / f"{split}.bin").stat().st_size
        except FileNotFoundError as error:
            missing = f"no {split} tokens in {folder}: {error.filename} is missing"
            raise CorpusError(f"{missing}; run `quicksilver corpus build`") from error
        except ValueError as error:
            raise CorpusError(f"the {split} tokens in {folder} are damaged: {error}; build the corpus again") from error
        _check(folder, split, offsets, doc_bytes, names, size)
        dtype = TOKEN_DTYPE if size == offsets[-1] * TOKEN_DTYPE.itemsize else WIDE_TOKEN_DTYPE
        # An empty file cannot be mapped.
        tokens = np.memmap(folder / f"{split}.bin", dtype, "r") if size else np.zeros(0, dtype)
        return cls(tokens, offsets, doc_bytes, names)

    @property
    def num_docs(self) -> int:
        """Number of documents, N."""
        return len(self._doc_bytes)

    @property
    def num_tokens(self) -> int:
        """Number of tokens, T."""
        return len(self._tokens)

    @property
    def tokens(self) -> UInt[np.ndarray, " T"]:
        """All tokens, mapped read-only."""
        return self._tokens

    @property
    def bytes_per_token(self) -> float:
        """Mean UTF-8 bytes of text per token."""
        return float(self._doc_bytes.sum()) / self.num_tokens

    @property
    def doc_offsets(self) -> Int64[np.ndarray, " N_plus_1"]:
        """Document i is ``tokens[doc_offsets[i] : doc_offsets[i + 1]]``."""
        return self._doc_offsets

    @property
    def doc_bytes(self) -> Int64[np.ndarray, " N"]:
        """UTF-8 bytes per document."""
        return self._doc_bytes

    def doc_name(self, index: int) -> str:
        """``package/path`` of a document."""
        return self._doc_names[index]

    def document(self, index: int) -> UInt[np.ndarray, " L"]:
        """Tokens of one document; decoding them gives its text back.

        Raises:
            IndexError: there is no such document.
        """
        if not 0 <= index < self.num_docs:
            raise IndexError(f"document {index} of {self.num_docs}")
        return self._tokens[self._doc_offsets[index] : self._doc_offsets[index + 1]]


def write_token_file(
    folder: Path,
    split: str,
    documents: Iterable[tuple[str, int, Sequence[int] | Int[np.ndarray, " L"]]],
    dtype: np.dtype = TOKEN_DTYPE,
) -> TokenFile:
    """Write one split and open it.

    Args:
        folder: exists already; files of the same split are replaced.
        split: first part of the file names.
        documents: name, UTF-8 bytes and tokens of each document.
        dtype: ``TOKEN_DTYPE`` for ids below 65,536, else ``WIDE_TOKEN_DTYPE``.
    """
    names: list[str] = []
    sizes: list[int] = []
    offsets = [0]
    with (folder / f"{split}.bin").open("wb") as file:
        for name, num_bytes, tokens in documents:
            file.write(np.asarray(tokens, dtype).tobytes())
            names.append(name)
            sizes.append(num_bytes)
            offsets.append(offsets[-1] + len(tokens))
    np.save(folder / f"{split}.docs.npy", np.array(offsets, np.int64))
    np.save(folder / f"{split}.bytes.npy", np.array(sizes, np.int64))
    (folder / f"{split}.names.txt").write_text("".join(name + "\n" for name in names), encoding="utf-8")
    return TokenFile.open(folder, split)


def _check(
    folder: Path, split: str, offsets: np.ndarray, doc_bytes: np.ndarray, names: Sequence[str], size: int
) -> None:
    problem = None
    if offsets.dtype != np.int64 or doc_bytes.dtype != np.int64 or offsets.ndim != 1 or doc_bytes.ndim != 1:
        problem = "document tables must be one-dimensional int64"
    elif not len(offsets) == len(doc_bytes) + 1 == len(names) + 1:
        problem = f"{len(offsets) - 1} offsets, {len(doc_bytes)} sizes and {len(names)} names"
    elif offsets[0] != 0 or (np.diff(offsets) < 0).any():
        problem = "document offsets do not rise from 0"
    elif size not in (offsets[-1] * TOKEN_DTYPE.itemsize, offsets[-1] * WIDE_TOKEN_DTYPE.itemsize):
        problem = f"{split}.bin has {size} bytes, the offsets say {offsets[-1] * TOKEN_DTYPE.itemsize}"
    if problem is not None:
        raise CorpusError(f"the {split} tokens in {folder} are inconsistent: {problem}; build the corpus again")
