"""Noise on packed rows: clean documents in, what the network sees and must predict out.

All draws are counters of (seed, step, global row, position), so they depend neither on the rank nor on the other rows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.estimator import Weighting, at_positions, draw_counts, mask_exact_count, target_counts, token_weights
from quicksilver.errors import ConfigError
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch
from quicksilver.training.data.rows import PackedRows

_SCORE, _EDIT_BLOCK, _EDIT_TOKEN, _EDIT_KEEP, _EDIT_WORD = range(101, 106)
"""Purposes of counter draws, so that no two share a counter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """How training noise is drawn and weighted."""

    weighting: Weighting = Weighting.CLIPPED
    clip: float = 4.0
    edit_rate: float = 0.12
    """Share of visible target tokens replaced in a block with edit noise."""
    edit_block_rate: float = 0.5
    """Share of blocks with edit noise, once it has begun."""
    edit_start: float = 0.7
    """Fraction of the run after which edit noise begins; 1 turns it off."""
    keep_weight: float = 0.2
    """Loss weight of sampled visible tokens that were not replaced: without it the editor learns that every token is wrong."""

    def __post_init__(self) -> None:
        for name in ("edit_rate", "edit_block_rate", "edit_start", "keep_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class NoiseDraw:
    """Where the draws of a step's rows come from."""

    seed: int
    step: int
    row_ids: Int[Tensor, " R"]
    """Global row of each row of the micro-batch."""
    slot_uniforms: Float[Tensor, "R S"]
    """The rows' share of the stratified draws of the global batch."""

    def uniform(self, purpose: int, positions: Int[Tensor, "1 L"]) -> Float[Tensor, "R L"]:
        """Independent draws per row and position."""
        return counter_uniform(self.seed, self.step, purpose, self.row_ids[:, None], positions)


def noise_training_pair(
    rows: PackedRows, draw: NoiseDraw, config: NoiseConfig, edit_rate: float, mask_id: int
) -> MicroBatch:
    """The [noisy ⊕ clean] rows of block diffusion: exact-count masks per block, loss on the noisy half only."""
    positions = torch.arange(rows.token_ids.shape[1])[None]
    num_slots = draw.slot_uniforms.shape[1]
    sizes = target_counts(rows.slots, rows.is_target, num_slots)
    counts = draw_counts(draw.slot_uniforms, sizes)
    is_masked = mask_exact_count(rows.slots, rows.is_target, counts, draw.uniform(_SCORE, positions))
    noisy = torch.where(is_masked, mask_id, rows.token_ids)
    weights = at_positions(token_weights(counts, sizes, config.weighting, clip=config.clip), rows.slots) * rows.loss_scale
    bound_weights = at_positions(token_weights(counts, sizes, Weighting.ELBO), rows.slots) * rows.loss_scale
    is_trained = is_masked
    num_targets = rows.num_targets
    in_noisy_half = torch.cat([is_trained, torch.zeros_like(is_trained)], dim=1)
    return MicroBatch(
        token_ids=torch.cat([noisy, rows.token_ids], dim=1),
        positions=torch.cat([rows.positions, rows.positions], dim=1),
        topology=Topology.training_pair(rows.blocks, rows.documents),
        target_rows=in_noisy_half.flatten().nonzero()[:, 0],
        labels=rows.token_ids[is_trained],
        weights=weights[is_trained].float(),
        bound_weights=bound_weights[is_trained].float(),
        num_targets=num_targets,
        num_bound_targets=num_targets,
    )
