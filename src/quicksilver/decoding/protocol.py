"""The seam between decoding and models: logits of one canvas in, decisions out."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class CanvasLogits(Protocol):
    """Full recompute of one canvas: no cache, batch of one."""

    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        """Float32 logits of the token AT every position; any prediction shift is already undone.

        The arguments lie on the CPU; the logits may lie anywhere.

        Args:
            token_ids: the canvas, masks included.
            block_ids: attention rule ``key visible iff block_ids[key] <= block_ids[query]``. All zeros is full
                attention (in-place infill), rising blocks are block-causal, one block per position is causal.
                For an autoregressive checkpoint the last position is a dummy whose row predicts the next token.
        """
        ...


@runtime_checkable
class ConditionedLogits(CanvasLogits, Protocol):
    """One that sees, beside the canvas, what it predicted at the step before (self-conditioning)."""

    def with_predicted(
        self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"], predicted: Float[Tensor, "W V"] | None
    ) -> Float[Tensor, "L V"]:
        """The same.

        Args:
            token_ids: as without.
            block_ids: as without; the last block is the one being denoised.
            predicted: probabilities at its W positions; None at its first step.
        """
        ...


@runtime_checkable
class StaleLogits(CanvasLogits, Protocol):
    """One that can also see rows as they were: the reference of a cache, see ``kept_rows``."""

    def with_stale(
        self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"], is_computed: Bool[Tensor, " L"]
    ) -> Float[Tensor, "L V"]:
        """The same; rows that are not computed are seen as at the last call that computed them.

        Their own logits mean nothing. All calls from one that computes all rows on must be about one canvas.
        """
        ...
