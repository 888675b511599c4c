"""The canvas: the array of tokens being denoised, with an explicit state per position.

A mask is never inferred from a token id: a prompt may contain the literal mask token and stays PROMPT.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.alternatives import Alternatives


class State(IntEnum):
    """What a position may still become."""

    PROMPT = 0
    """Given; never changes."""
    MASK = 1
    """Undecided. Holds the mask token, or a random one when the checkpoint denoises uniform noise."""
    DRAFT = 2
    """Written, and may still be edited or remasked."""
    FINAL = 3
    """Committed; never changes."""


NO_HOLE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """A value: every operation returns another canvas. All tensors live on the CPU."""

    token_ids: Int[Tensor, " L"]
    state: Int[Tensor, " L"]
    confidence: Float[Tensor, " L"]
    """Probability of the token when it was written; 1 for the prompt, 0 for masks."""
    step_committed: Int[Tensor, " L"]
    """Forward pass (from 1) that wrote the token; 0 for the prompt and for masks."""
    num_edits: Int[Tensor, " L"]
    """Times that what was written there was edited or remasked."""
    hole: Int[Tensor, " L"]
    """Hole number; ``NO_HOLE`` for the prompt."""
    alternatives: Alternatives | None = None
    """What else the forward thought likely that wrote a token; None: nobody asked for it."""

    @classmethod
    def of_prompt(cls, token_ids: Sequence[int]) -> "Canvas":
        return cls._filled(token_ids, State.PROMPT, 1.0, NO_HOLE)

    @classmethod
    def of_masks(cls, count: int, *, mask_id: int, hole: int) -> "Canvas":
        return cls._filled([mask_id] * count, State.MASK, 0.0, hole)

    @classmethod
    def _filled(cls, token_ids: Sequence[int], state: State, confidence: float, hole: int) -> "Canvas":
        count = len(token_ids)
        zeros = torch.zeros(count, dtype=torch.int64)
        return cls(
            token_ids=torch.tensor(list(token_ids), dtype=torch.int64),
            state=torch.full((count,), int(state), dtype=torch.int8),
            confidence=torch.full((count,), confidence),
            step_committed=zeros,
            num_edits=zeros,
            hole=torch.full((count,), hole),
        )

    @classmethod
    def join(cls, parts: "Sequence[Canvas]") -> "Canvas":
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _PER_POSITION},
            alternatives=Alternatives.join([part.alternatives for part in parts], [len(part) for part in parts]),
        )

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    @property
    def is_masked(self) -> Bool[Tensor, " L"]:
        return self.state == State.MASK

    @property
    def is_draft(self) -> Bool[Tensor, " L"]:
        return self.state == State.DRAFT

    @property
    def offset(self) -> Int[Tensor, " L"]:
        """Offset of every position in its hole, which is one stretch of the canvas; 0 for the prompt."""
        position = torch.arange(len(self))
        is_start = torch.ones_like(self.hole, dtype=torch.bool)
        is_start[1:] = self.hole[1:] != self.hole[:-1]
        start = torch.where(is_start, position, 0).cummax(dim=0).values
        return (position - start).masked_fill(self.hole == NO_HOLE, 0)

    def take(self, index: Int[Tensor, " M"]) -> "Canvas":
        """The positions ``index``, in that order; one may be repeated or left out."""
        return Canvas(
            **{name: getattr(self, name)[index] for name in _PER_POSITION},
            alternatives=None if self.alternatives is None else self.alternatives.rows(index),
        )

    def commit(
        self,
        where: Bool[Tensor, " L"],
        token_ids: Int[Tensor, " L"],
        confidence: Float[Tensor, " L"],
        *,
        step: int,
        state: State,
        alternatives: Alternatives | None = None,
    ) -> "Canvas":
        """Write tokens at masked positions; ``alternatives`` has a row for each position of the canvas."""
        return replace(
            self,
            token_ids=torch.where(where, token_ids, self.token_ids),
            state=self.state.masked_fill(where, int(state)),
            confidence=torch.where(where, confidence, self.confidence),
            step_committed=self.step_committed.masked_fill(where, step),
            alternatives=self.alternatives if alternatives is None else alternatives.over(self.alternatives, where),
        )

    def edit(
        self,
        where: Bool[Tensor, " L"],
        token_ids: Int[Tensor, " L"],
        confidence: Float[Tensor, " L"],
        *,
        step: int,
        alternatives: Alternatives | None = None,
    ) -> "Canvas":
        """Replace draft tokens."""
        written = self.commit(where, token_ids, confidence, step=step, state=State.DRAFT, alternatives=alternatives)
        return replace(written, num_edits=self.num_edits + where)

    def remask(self, where: Bool[Tensor, " L"], mask_id: int) -> "Canvas":
        """Put the mask back on draft tokens."""
        return replace(
            self,
            token_ids=self.token_ids.masked_fill(where, mask_id),
            state=self.state.masked_fill(where, int(State.MASK)),
            confidence=self.confidence.masked_fill(where, 0.0),
            step_committed=self.step_committed.masked_fill(where, 0),
            num_edits=self.num_edits + where,
            alternatives=None if self.alternatives is None else self.alternatives.without(where),
        )

    def finalize(self, where: Bool[Tensor, " L"]) -> "Canvas":
        """Make draft tokens final."""
        return replace(self, state=self.state.masked_fill(where & self.is_draft, int(State.FINAL)))


_PER_POSITION = ("token_ids", "state", "confidence", "step_committed", "num_edits", "hole")
