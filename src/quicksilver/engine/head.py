"""From hidden rows to candidates, a few rows at a time.

Logits of all rows over a large vocabulary are the biggest tensors of a step (32 rows of 152k tokens take 20 MB in
float32, and choosing needs several such). Here at most ``TILE_ELEMENTS`` logits exist at once. A row's result depends
on its own hidden state and parameters only; ``decoding.selection`` chooses, as it does for the reference samplers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments, adjust
from quicksilver.decoding.selection import Candidates, select
from quicksilver.models.denoiser import Denoiser

TILE_ELEMENTS = 2**20
"""Logits held at once: 4 MB in float32, which stays in a CPU's cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadParams:
    """How each of N rows is decided; the fields mean what ``select``'s arguments mean."""

    is_forbidden: Bool[Tensor, "K V"]
    """The different sets of forbidden tokens among the rows."""
    is_withheld: Bool[Tensor, "K V"] | None = None
    """The withheld tokens that go with them; None: no row has any."""
    rule: Int[Tensor, " N"]
    """Which of the sets each row has."""
    temperature: Float[Tensor, " N"]
    seed: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]
    step: Int[Tensor, " N"]
    top_k: Int[Tensor, " N"] | None = None
    """None if no row asks for it; rows that do not have the vocabulary's size."""
    top_p: Float[Tensor, " N"] | None = None
    """None if no row asks for it; rows that do not have 1."""

    adjustments: Adjustments | None = None
    """Of all rows."""
    has_entropy: bool = True
    """Whether a row's policy reads it."""
    watched: Int[Tensor, "N k"] | None = None
    """Tokens whose probabilities are wanted beside the candidates; None: no row asks for any."""

    def rows(self, start: int, stop: int) -> dict[str, Tensor | Adjustments | bool | None]:
        """``select``'s arguments for the rows [start, stop)."""
        index = slice(start, stop)
        per_row = ("temperature", "seed", "positions", "step", "top_k", "top_p")
        taken = {name: None if getattr(self, name) is None else getattr(self, name)[index] for name in per_row}
        # One set for all rows broadcasts.
        rule = slice(0, 1) if self.is_forbidden.shape[0] == 1 else self.rule[index]
        return taken | {
            "is_forbidden": self.is_forbidden[rule],
            "is_withheld": None if self.is_withheld is None else self.is_withheld[rule],
            "has_entropy": self.has_entropy,
            "adjustments": None if self.adjustments is None else self.adjustments.rows(start, stop),
        }


def choose(
    denoiser: Denoiser, hidden: Float[Tensor, "N D"], params: HeadParams, least_rows: int = 1
) -> tuple[Candidates, Float[Tensor, "N k"] | None]:
    """One candidate per hidden row, and the probabilities of the tokens watched.

    Args:
        denoiser: whose head is used.
        hidden: the rows.
        params: how each is decided.
        least_rows: rows of a product; fewer are filled up.
    """
    tile = max(1, TILE_ELEMENTS // denoiser.config.vocab_size)
    starts = range(0, hidden.shape[0], tile)
    found = [_choose_tile(denoiser, hidden[at : at + tile], params, at, least_rows) for at in starts]
    if len(found) == 1:
        return found[0]
    watched = [seen for _, seen in found if seen is not None]
    return Candidates.join([candidates for candidates, _ in found]), torch.cat(watched) if watched else None


def _choose_tile(
    denoiser: Denoiser, hidden: Tensor, params: HeadParams, start: int, least_rows: int
) -> tuple[Candidates, Tensor | None]:
    missing = max(least_rows - hidden.shape[0], 0)
    logits = denoiser.logits(F.pad(hidden, (0, 0, 0, missing)) if missing else hidden)[: hidden.shape[0]]
    stop = start + hidden.shape[0]
    given = params.rows(start, stop)
    candidates = select(logits, **given)  # pyright: ignore[reportArgumentType]
    if params.watched is None:
        return candidates, None
    allowed = adjust(logits, given["adjustments"]).masked_fill(given["is_forbidden"], -torch.inf)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return candidates, torch.softmax(allowed, dim=-1).gather(-1, params.watched[start:stop])
