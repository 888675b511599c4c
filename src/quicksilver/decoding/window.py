"""What a policy sees and what it answers. Rows are requests; columns are the positions being denoised together."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.canvas import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The open block of every request. Positions that must not be touched (void ones too) have state PROMPT."""

    token_ids: Int[Tensor, "B W"]
    state: Int[Tensor, "B W"]
    candidate_ids: Int[Tensor, "B W"]
    """Token proposed at every position; only read where the state is MASK or DRAFT, as the five that follow."""
    argmax_ids: Int[Tensor, "B W"]
    previous_argmax_ids: Int[Tensor, "B W"]
    """``argmax_ids`` one step earlier, -1 at the first step."""
    confidence: Float[Tensor, "B W"]
    """Of the candidate."""
    margin: Float[Tensor, "B W"]
    entropy: Float[Tensor, "B W"]
    commit_confidence: Float[Tensor, "B W"]
    """Confidence of the token on the canvas when it was written."""
    num_edits: Int[Tensor, "B W"]
    positions: Int[Tensor, "B W"]
    """Random-number positions, see ``draws``."""
    seed: Int[Tensor, " B"]
    step: Int[Tensor, " B"]
    """Denoising step within the block, from 0."""
    num_masks: Int[Tensor, " B"]
    """Masks that the block's first step began with."""
    num_post_steps: Int[Tensor, " B"]
    """Earlier steps of this block that began without a mask."""
    holds_ends: Bool[Tensor, " B"]
    """See ``ends``."""

    @property
    def is_masked(self) -> Bool[Tensor, "B W"]:
        return self.state == State.MASK

    @property
    def is_draft(self) -> Bool[Tensor, "B W"]:
        return self.state == State.DRAFT

    def rows(self, index: Int[Tensor, " N"]) -> "Window":
        return Window(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What happens to every position at this step. The three masks are disjoint."""

    commit: Bool[Tensor, "B W"]
    """Write the candidate at this MASK. It is FINAL at once unless the policy revises; then a DRAFT until settled."""
    edit: Bool[Tensor, "B W"]
    """Replace this DRAFT by the candidate."""
    remask: Bool[Tensor, "B W"]
    """Put the mask (or fresh noise) back on this DRAFT."""
    is_settled: Bool[Tensor, " B"]
    """The row wants no further step once it has no mask left."""
    takes_argmax: Bool[Tensor, " B"] | None = None
    """What the row writes are the argmax tokens, not the candidates; None: in no row."""

    def written(self, candidate: Tensor, argmax: Tensor) -> Tensor:
        """The token, or a number that belongs to it, that each position takes if it is written."""
        return candidate if self.takes_argmax is None else torch.where(self.takes_argmax[:, None], argmax, candidate)
