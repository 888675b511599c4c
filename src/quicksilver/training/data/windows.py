"""Windows of a token file: which tokens a training row is cut from.

A row's window is a pure function of (seed, row id): epochs are permutations of equal windows, shifted anew each epoch
so that document positions do not always fall at the same place. Nothing is stored, so a run resumes anywhere and on
any number of ranks.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quicksilver.errors import TrainingError
from quicksilver.training.corpus.token_file import TokenFile

MIN_PIECE_TOKENS = 8
"""Shorter scraps of a document at a window's edge are dropped: they teach nothing and cost a sentinel each."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one source file."""

    token_ids: np.ndarray
    """int64 [n]"""
    is_end_of_file: bool
    """The piece's last token is the file's last token."""


class Windows:
    """Random access to the windows of a token file, epoch after epoch."""

    def __init__(self, tokens: TokenFile, *, window_length: int, seed: int, newline_id: int | None) -> None:
        """``newline_id`` None: pieces start anywhere, for a tokenizer whose line ends are part of other tokens."""
        if tokens.num_tokens < 2 * window_length:
            raise TrainingError(
                f"the token file holds {tokens.num_tokens} tokens, fewer than two windows of {window_length}"
            )
        self._tokens = tokens
        self._length = window_length
        self._seed = seed
        self._newline_id = newline_id
        # One window fewer than fits, which leaves room for the epoch's shift.
        self.num_windows = tokens.num_tokens // window_length - 1
        self._permutation = lru_cache(maxsize=2)(self._epoch_permutation)

    def _epoch_permutation(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(self.num_windows)

    def pieces(self, row_id: int) -> list[Piece]:
        """The pieces of files in window ``row_id`` (counted over all epochs), each from the start of a line on."""
        epoch, index = divmod(row_id, self.num_windows)
        shift = int(np.random.Generator(np.random.Philox(key=[self._seed, ~epoch & 0xFFFFFFFF])).integers(self._length))
        start = int(self._permutation(epoch)[index]) * self._length + shift
        stop = start + self._length
        offsets = self._tokens.doc_offsets
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        last = int(np.searchsorted(offsets, stop, side="left"))
        found = []
        for doc in range(first, last):
            low, high = max(start, int(offsets[doc])), min(stop, int(offsets[doc + 1]))
            token_ids = np.asarray(self._tokens.tokens[low:high], dtype=np.int64)
            if low > offsets[doc]:
                token_ids = self._from_line_start(token_ids)
            if len(token_ids) >= MIN_PIECE_TOKENS:
                found.append(Piece(token_ids, is_end_of_file=high == int(offsets[doc + 1])))
        return found

    def _from_line_start(self, token_ids: np.ndarray) -> np.ndarray:
        if self._newline_id is None:
            return token_ids
        newlines = np.flatnonzero(token_ids == self._newline_id)
        return token_ids[newlines[0] + 1 :] if len(newlines) else token_ids[:0]
