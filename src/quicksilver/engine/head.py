"""From hidden rows to candidates, a few rows at a time.

Logits of all rows over a large vocabulary are the biggest tensors of a step (32 rows of 152k tokens take 20 MB in
float32, and choosing needs several such). Here at most ``TILE_ELEMENTS`` logits exist at once. A row's result depends
on its own hidden state and parameters only; ``decoding.selection`` chooses, as it does for the reference samplers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.selection import Candidates, select
from quicksilver.models.denoiser import Denoiser

TILE_ELEMENTS = 2**20
"""Logits held at once: 4 MB in float32, which stays in a CPU's cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadParams:
    """How each of N rows is decided; the fields mean what ``select``'s arguments mean."""

    is_forbidden: Bool[Tensor, "K V"]
    """The different sets of forbidden tokens among the rows."""
    forbidden_row: Int[Tensor, " N"]
    """Which of them each row has."""
    temperature: Float[Tensor, " N"]
    seed: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    step: Int[Tensor, " N"]
    top_k: Int[Tensor, " N"] | None = None
    """None if no row asks for it; rows that do not have the vocabulary's size."""
    top_p: Float[Tensor, " N"] | None = None
    """None if no row asks for it; rows that do not have 1."""

    def rows(self, index: slice) -> dict[str, Tensor | None]:
        """``select``'s arguments for some rows."""
        taken = {
            f.name: None if getattr(self, f.name) is None else getattr(self, f.name)[index]
            for f in fields(self)
            if f.name not in ("is_forbidden", "forbidden_row")
        }
        if self.is_forbidden.shape[0] == 1:
            return taken | {"is_forbidden": self.is_forbidden}
        return taken | {"is_forbidden": self.is_forbidden[self.forbidden_row[index]]}


def choose(denoiser: Denoiser, hidden: Float[Tensor, "N D"], params: HeadParams) -> Candidates:
    """One candidate per hidden row."""
    tile = max(1, TILE_ELEMENTS // denoiser.config.vocab_size)
    starts = range(0, hidden.shape[0], tile)
    found = [_choose_tile(denoiser, hidden, params, slice(start, start + tile)) for start in starts]
    return found[0] if len(found) == 1 else _joined(found)


def _choose_tile(denoiser: Denoiser, hidden: Tensor, params: HeadParams, rows: slice) -> Candidates:
    return select(denoiser.logits(hidden[rows]), **params.rows(rows))  # pyright: ignore[reportArgumentType]


def _joined(parts: Sequence[Candidates]) -> Candidates:
    return Candidates(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Candidates)})
