"""The one thing likelihoods ask of a model."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class LogitsFn(Protocol):
    """Logits of a block-diffusion denoiser for all blocks of a batch of sequences at once.

    The block of position i is i // block_length. Row i of the result is about token i (a prediction shift is already
    undone) and may depend on

    * ``noisy_ids`` at every position of its own block, and
    * ``clean_ids`` at every position of earlier blocks,

    and on nothing else: that is the 2L training forward, or a cached forward block by block. With ``block_length``
    equal to the sequence length it is full attention over ``noisy_ids``, with 1 an autoregressive model. Logits are
    raw: the mask's own logit is ignored by the caller.
    """

    def __call__(
        self, noisy_ids: Int[Tensor, "B L"], clean_ids: Int[Tensor, "B L"], block_length: int
    ) -> Float[Tensor, "B L V"]: ...
