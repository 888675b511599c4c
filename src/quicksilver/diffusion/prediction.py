"""What the rows of a denoiser mean, as types, so that two readings of the same numbers cannot be mixed.

Under noise that leaves no trace (uniform, hybrid) a visible token is evidence about itself, and there are two
predictions:

* trained by a likelihood bound, row i converges to p(x_i | z_-i), which does *not* use the token at its own position
  (``LeaveOneOutPrediction``); the reverse posterior multiplies that evidence in.
* trained by cross-entropy on every position (edit noise), row i converges to p(x_i | z), which does
  (``DirectPrediction``); it is used as it stands, and in the posterior it would count the evidence twice.

``InterpolatingNoise.to_direct`` and ``to_leave_one_out`` convert. At masked positions the two agree.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor


def clean_log_probs(logits: Float[Tensor, "*P V"], mask_id: int | None) -> Float[Tensor, "*P V"]:
    """Log-probabilities with the mask impossible ("zero masking probability" of SUBS, arXiv:2406.07524).

    Computed in float32, or in float64 for float64 logits.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if mask_id is not None:
        logits = logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf)
    return logits.log_softmax(-1)


@dataclass(frozen=True, slots=True)
class LeaveOneOutPrediction:
    """log p(x_i | z_-i), float64: the output of a denoiser trained by the bound of uniform or hybrid noise."""

    log_probs: Float[Tensor, "B L V"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "B L V"], mask_id: int | None = None) -> Self:
        """Read the logits of a bound-trained denoiser."""
        return cls(clean_log_probs(logits.double(), mask_id))


@dataclass(frozen=True, slots=True)
class DirectPrediction:
    """log p(x_i | z), float64: the output of a denoiser trained by cross-entropy on visible tokens."""

    log_probs: Float[Tensor, "B L V"]

    @classmethod
    def from_logits(cls, logits: Float[Tensor, "B L V"], mask_id: int | None = None) -> Self:
        """Read the logits of a cross-entropy-trained denoiser."""
        return cls(clean_log_probs(logits.double(), mask_id))
