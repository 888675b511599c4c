"""Which rows of a canvas a forward computes where every position sees every other one.

Under full attention every row's keys and values change with every step, so to be exact all of them are computed anew
each time. But far from where tokens are written they hardly change. So after a forward over all rows their keys and
values are kept, and the next forwards compute only the rows of what is being written, which see all others as they
were: stale. What is computed replaces what was kept.

The schedule is a function of the request's own steps. All rows are computed

- at the first forward, and at that of every block where a prompt is continued,
- at every ``refresh_every``-th,
- after positions have moved, because a hole changed its length. Turning the kept keys to their new positions would
  spare that forward, but what is kept would be further from exact for all of the rest (docs/log.md).

A row whose token has changed since it was computed is computed once more, wherever it stands: the keys of a token just
written would else be those of the mask before it.

Sources: prefix and dual, Fast-dLLM (Wu et al. 2025, arXiv:2505.22618); vicinity, dInfer (2025, arXiv:2510.08666); the
one forward more for a new token, dKV-Cache (Ma et al. 2025, arXiv:2505.15781).
"""

from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

VICINITY = 16
"""Positions on either side, as in dInfer."""


class Cache(StrEnum):
    """Which rows are computed between two forwards over all rows."""

    EXACT = "exact"
    """All: nothing is kept."""
    PREFIX = "prefix"
    """From the first position that is being written to the end."""
    DUAL = "dual"
    """What is being written: the holes, or the block."""
    VICINITY = "vicinity"
    """The same and ``VICINITY`` positions on either side."""


class KeptRows:
    """What is kept of one request's canvas."""

    def __init__(self, cache: Cache, refresh_every: int | None, prediction_shift: int) -> None:
        """Start with nothing kept; ``SamplingParams`` says what the arguments mean."""
        self._cache, self._refresh_every, self._shift = cache, refresh_every, prediction_shift
        self._computed_ids: Tensor | None = None
        """Every position's token when its row was last computed; None: nothing is kept."""
        self._age = 0
        """Forwards since all rows were computed, that one included."""

    @property
    def is_needed(self) -> bool:
        """Whether the coming forward reads what is kept."""
        is_due = self._refresh_every is not None and self._age >= self._refresh_every
        return self._cache is not Cache.EXACT and self._computed_ids is not None and not is_due

    def columns(self, token_ids: Int[Tensor, " L"], is_written: Bool[Tensor, " L"]) -> Int[Tensor, " C"]:
        """The positions whose rows the coming forward computes, in order; all where nothing is kept.

        Args:
            token_ids: the canvas.
            is_written: where tokens are being written: positions that are decided there must be among them.
        """
        if not self.is_needed or self._computed_ids is None:
            return torch.arange(len(token_ids))
        is_computed = _reach(self._cache, is_written) | (token_ids != self._computed_ids)
        if self._shift:
            # The row before a position predicts it.
            is_computed[:-1] |= is_written[1:]
        return is_computed.nonzero()[:, 0]

    def ran(self, token_ids: Int[Tensor, " L"], columns: Int[Tensor, " C"]) -> int:
        """A forward has computed ``columns`` of the canvas; returns how many stale rows it saw."""
        num_stale = len(token_ids) - len(columns)
        self._age = self._age + 1 if num_stale else 1
        before = token_ids if self._computed_ids is None else self._computed_ids
        self._computed_ids = before.index_copy(0, columns, token_ids[columns])
        return num_stale

    def drop(self) -> None:
        """Positions have moved, or another block begins."""
        self._computed_ids = None


def _reach(cache: Cache, is_written: Bool[Tensor, " L"]) -> Bool[Tensor, " L"]:
    match cache:
        case Cache.PREFIX:
            return is_written.cumsum(0) > 0
        case Cache.VICINITY:
            near = F.max_pool1d(is_written[None, None].float(), 2 * VICINITY + 1, stride=1, padding=VICINITY)
            return near[0, 0] > 0
        case _:
            return is_written.clone()
