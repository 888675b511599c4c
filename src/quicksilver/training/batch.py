"""What one forward of training consumes, and the loss every cross-entropy objective shares.

Legend: R rows, T tokens per row (2L for a training pair), N predicted tokens of the whole micro-batch.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.models.attention import plan_attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Noisy input rows with the sparse list of positions that carry loss."""

    token_ids: Int[Tensor, "R T"]
    positions: Int[Tensor, "R T"]
    topology: Topology
    target_rows: Int[Tensor, " N"]
    """Index into the flattened [R * T] positions whose prediction is trained."""
    labels: Int[Tensor, " N"]
    weights: Float[Tensor, " N"]
    """Training weight of each prediction; the loss is their weighted sum over ``num_targets``."""
    bound_weights: Float[Tensor, " N"]
    """Weight in the unbiased likelihood bound; zero where a prediction is no part of it."""
    num_targets: int
    """Tokens that may carry loss, masked or not: the loss is normalised by their number in the global batch."""
    num_bound_targets: int
    """Tokens covered by the bound."""
    is_drafted: Bool[Tensor, " N"] | None = field(default=None, kw_only=True)
    """Masks over which the model's own token is written before the loss (``OwnTokens``); None: there are none."""

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        if self.token_ids.device == device:
            return self
        topology = Topology(*(getattr(self.topology, f.name).to(device) for f in fields(Topology)))
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, topology=topology, **moved)

    @property
    def num_tokens(self) -> int:
        """Rows times row length, both halves of a pair counted."""
        return self.token_ids.numel()


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over a micro-batch; dividing by global counts gives means."""

    loss: Float[Tensor, ""]
    """Weighted negative log-likelihood, nats; carries the gradient."""
    bound: Float[Tensor, ""]
    """Nats of the likelihood bound, detached."""


def cross_entropy_sums(denoiser: Denoiser, batch: MicroBatch) -> LossSums:
    """Weighted cross-entropy at the batch's target rows; the head is evaluated at no other row."""
    hidden = denoiser(batch.token_ids, batch.positions, plan_attention(batch.topology)).flatten(0, 1)
    loss, nats = denoiser.cross_entropy(hidden[batch.target_rows], batch.labels, batch.weights)
    return LossSums(loss, (nats * batch.bound_weights).sum())
