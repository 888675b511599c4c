"""How a hole of unknown length finds it: by the probabilities of expand and delete, before tokens are written.

The delete positions of a hole are its last ones (``diffusion.variable_length``), so "position i is deleted" says "the
hole has at most i tokens"; the expand positions are its last ones too, so "position i expands" says how long it is at
least. Over a hole of masks these probabilities are the length's distribution function. All trailing masks more likely
deleted than not go at once, and all more likely expanded than not double, which leads to the median. Differs from
DreamOn (Wu et al., arXiv:2602.01326), where delete competes with tokens for the most confident commit: being sure of an
end is easier than being sure of a token, so holes came out too short. Later looks may be asked to be surer than the
first, or a length near its median swings.

That is the rule ``median``. ``competing`` is DreamOn's own, for its checkpoints: expand and delete are tokens like any
other to the policy, and what it commits of them changes the length: an expand becomes two masks, a delete goes with all
masks behind it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.draws import Purpose, draw, hole_position
from quicksilver.diffusion.spec import SpecialIds


class LengthRule(StrEnum):
    """How a hole of unknown length finds it."""

    MEDIAN = "median"
    COMPETING = "competing"


MEDIAN = 0.5


@dataclass(kw_only=True, slots=True)
class HoleLength:
    """How far one hole may still change its length."""

    length: int
    cap: int
    changes_left: int
    """0 for a hole of known length. The budget ends any oscillation between expand and delete."""
    level: float = MEDIAN
    """Quantile of the length that is taken: one half, or one draw per request and hole when sampling, by which the
    length is a sample of its distribution."""
    margin: float = 0.0
    """Part of the remaining doubt, in [0, 1], by which later looks must be surer than the first to change the length
    again: 0 treats all looks alike, 1 keeps the length of the first."""
    has_been_seen: bool = False
    """Whether there was a look already."""

    @property
    def may_expand(self) -> bool:
        return self.changes_left > 0 and self.length < self.cap

    @property
    def may_delete(self) -> bool:
        return self.changes_left > 0

    @property
    def delete_from(self) -> float:
        """Probability above which a mask at the end goes."""
        return self.level + self._more * (1 - self.level)

    @property
    def expand_from(self) -> float:
        """Probability above which a mask doubles."""
        return 1 - self.level + self._more * self.level

    @property
    def _more(self) -> float:
        return self.margin if self.has_been_seen else 0.0

    def change(self, by: int) -> None:
        self.length += by
        self.changes_left -= 1


def sampled_level(seed: int, hole: int) -> float:
    """The level of a hole when sampling."""
    position = hole_position(torch.tensor(hole), torch.tensor(0))
    return float(draw(Purpose.LENGTH, torch.tensor(seed), position, torch.tensor(0)))


def length_changes(
    canvas: Canvas, expand: Float[Tensor, " L"], delete: Float[Tensor, " L"], lengths: Iterable[HoleLength]
) -> Int[Tensor, " L"]:
    """+1 where a mask expands, -1 where it is deleted, 0 elsewhere; ``lengths`` takes note.

    Both go from a hole's end, deletes to the first mask that stays, and stop at the hole's limits.

    Args:
        canvas: the canvas the probabilities were predicted for.
        expand: probability of expand per position; read at masks.
        delete: probability of delete per position; read at masks.
        lengths: one entry per hole.
    """
    change = torch.zeros(len(canvas), dtype=torch.int64)
    for number, entry in enumerate(lengths):
        positions = (canvas.hole == number).nonzero()[:, 0].tolist()
        for position in reversed(positions):
            if not (canvas.is_masked[position] and delete[position] > entry.delete_from and entry.may_delete):
                break
            change[position] = -1
            entry.change(-1)
        for position in reversed(positions):
            is_due = canvas.is_masked[position] and expand[position] > entry.expand_from and change[position] == 0
            if is_due and entry.may_expand:
                change[position] = 1
                entry.change(1)
        entry.has_been_seen = True
    return change


def withheld_tokens(
    canvas: Canvas, lengths: Iterable[HoleLength], expand_id: int | None, delete_id: int | None, vocab_size: int
) -> Bool[Tensor, "L V"]:
    """True for expand and delete at the masks of holes that may still change by them."""
    is_withheld = torch.zeros(len(canvas), vocab_size, dtype=torch.bool)
    for number, entry in enumerate(lengths):
        here = canvas.is_masked & (canvas.hole == number)
        if expand_id is not None and entry.may_expand:
            is_withheld[here, expand_id] = True
        if delete_id is not None and entry.may_delete:
            is_withheld[here, delete_id] = True
    return is_withheld


def chosen_changes(
    canvas: Canvas,
    token_ids: Int[Tensor, " L"],
    commit: Bool[Tensor, " L"],
    lengths: Sequence[HoleLength],
    special: SpecialIds,
) -> tuple[Int[Tensor, " L"], Bool[Tensor, " L"]]:
    """What a step of the competing rule does to lengths, and where it chose so instead of a token.

    Args:
        canvas: before the step.
        token_ids: what the step would write.
        commit: where.
        lengths: one entry per hole; they take note.
        special: of the checkpoint.
    """
    change = torch.zeros(len(canvas), dtype=torch.int64)
    is_expand, is_delete = (
        commit & (token_ids == (-1 if token is None else token)) for token in (special.expand, special.delete)
    )
    for number, entry in enumerate(lengths):
        is_here = canvas.is_masked & (canvas.hole == number)
        is_dropped = is_here & ((is_delete & is_here).cumsum(dim=0) > 0)
        change[is_dropped] = -1
        for _ in range(int(is_dropped.sum())):
            entry.change(-1)
        for position in reversed((is_expand & is_here & ~is_dropped).nonzero()[:, 0].tolist()):
            if entry.may_expand:
                change[position] = 1
                entry.change(1)
    return change, is_expand | is_delete
