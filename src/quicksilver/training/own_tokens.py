"""Edit noise from the model itself: some masks give way to the token that it would write there.

Random wrong tokens are easier to see than those that decoding leaves behind, which fit their surroundings. Source: the
multi-turn forward of LLaDA2.1 (arXiv:2602.08676). Differs: one pass without gradient, at a share of the masks.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from quicksilver.models.attention import plan_attention
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.batch import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnTokens:
    """Writes the model's tokens over the batch's drafted masks."""

    keep_weight: float
    """Loss weight of a written token that is right; a wrong one weighs 1."""
    num_special: int
    """Ids below this are never written. A mask for which one of them is likeliest stays a mask."""
    length_ids: tuple[int, ...]
    """Labels that only a mask can have: a token written there is not trained."""

    def __call__(self, denoiser: Denoiser, batch: MicroBatch) -> MicroBatch:
        """The batch after the model's likeliest tokens have been written; itself if nothing is drafted."""
        if batch.is_drafted is None:
            return batch
        return self.write(batch, _likeliest(denoiser, batch, batch.target_rows[batch.is_drafted]))

    def write(self, batch: MicroBatch, own_ids: Int[Tensor, " K"]) -> MicroBatch:
        """The batch with ``own_ids`` at its K drafted masks.

        Which masks are written depends on the draw and on the model's choice, never on a label: that would bias the
        labels of the masks that stay. A written token is trained as other edit noise and its kept sample are.
        """
        if batch.is_drafted is None:
            return batch
        at = batch.is_drafted.nonzero()[:, 0][own_ids >= self.num_special]
        own_ids, labels = own_ids[own_ids >= self.num_special], batch.labels[at]
        weights = torch.where(own_ids == labels, self.keep_weight, 1.0)
        weights[torch.isin(labels, labels.new_tensor(self.length_ids))] = 0.0
        return replace(
            batch,
            token_ids=batch.token_ids.flatten().index_copy(0, batch.target_rows[at], own_ids).view_as(batch.token_ids),
            weights=batch.weights.index_copy(0, at, weights),
            bound_weights=batch.bound_weights.index_fill(0, at, 0.0),
            is_drafted=None,
        )


@torch.no_grad()
def _likeliest(denoiser: Denoiser, batch: MicroBatch, rows: Int[Tensor, " K"]) -> Int[Tensor, " K"]:
    """Ids of highest probability at some of the flattened positions."""
    hidden = denoiser(batch.token_ids, batch.positions, plan_attention(batch.topology)).flatten(0, 1)
    return denoiser.logits(hidden[rows]).argmax(-1)
