"""Block diffusion over any noise process: blocks left to right, diffusion within a block.

The bound of a sequence is the sum over blocks of the bound of each block given the clean blocks before it. One forward
over [noisy ⊕ clean] yields the logits of all blocks at once; who may see whom is an attention topology and lives with
the models.

Source: Arriola et al. 2025 (BD3-LM, arXiv:2503.09573). Differs: the noise level belongs to the block, not to the
sequence, and the last block may be short instead of padded.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.errors import ConfigError


class TrainingPair(NamedTuple):
    """Input of the one forward over both copies; only the rows of the first half are predictions."""

    token_ids: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]
    block_index: Int[Tensor, "B T"]


def block_grid(num_rows: int, length: int, block_length: int) -> Int[Tensor, "B L"]:
    """Block of every position, counted from position 0; the last block may be short."""
    if block_length < 1:
        raise ConfigError(f"block_length must be at least 1, got {block_length}")
    return (torch.arange(length) // block_length).expand(num_rows, length)


def training_pair(
    noisy_ids: Int[Tensor, "B L"],
    clean_ids: Int[Tensor, "B L"],
    positions: Int[Tensor, "B L"],
    block_index: Int[Tensor, "B L"],
) -> TrainingPair:
    """[noisy ⊕ clean]: T = 2 L rows, the noisy copy first, both copies with the same positions and blocks."""
    return TrainingPair(
        torch.cat([noisy_ids, clean_ids], dim=1),
        torch.cat([positions, positions], dim=1),
        torch.cat([block_index, block_index], dim=1),
    )


def sum_blocks(
    position_nats: Float[Tensor, "B L"], block_index: Int[Tensor, "B L"], num_slots: int
) -> Float[Tensor, "B S"]:
    """Sums per block; positions in no block (index -1) are left out."""
    slot = torch.where(block_index >= 0, block_index, num_slots).long()
    sums = position_nats.new_zeros(position_nats.shape[0], num_slots + 1)
    return sums.scatter_add(1, slot, position_nats)[:, :num_slots]


def prediction_rows(block_index: Int[Tensor, "B L"], prediction_shift: int) -> Int[Tensor, "B L"]:
    """Row of the training pair, in [0, 2 L), that predicts each token of the noisy half.

    With shift 1 that is the row before. Where a block begins it is a committed row, so one of the clean half: what is
    masked in an earlier block is known by then. Blocks of one token are predicted by the clean half alone, as an
    autoregressive model predicts them. Token 0 has no prediction; its row means nothing.

    Args:
        block_index: number of every token's block within its row; blocks of two documents differ.
        prediction_shift: see ``DiffusionSpec``.
    """
    own = torch.arange(block_index.shape[1], device=block_index.device).expand_as(block_index)
    if prediction_shift == 0:
        return own
    is_inside = torch.nn.functional.pad(block_index[:, 1:] == block_index[:, :-1], (1, 0), value=True)
    return torch.where(is_inside, own - 1, own - 1 + block_index.shape[1]).clamp(min=0)
