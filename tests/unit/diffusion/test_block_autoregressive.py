"""Block bookkeeping, the two-copy input and the autoregressive loss."""

import pytest
import torch

from quicksilver.diffusion.autoregressive import align_predictions, autoregressive_nats
from quicksilver.diffusion.block import block_grid, sum_blocks, training_pair
from quicksilver.errors import ConfigError


def test_block_grid_has_a_short_last_block():
    assert block_grid(2, 7, 3).tolist() == [[0, 0, 0, 1, 1, 1, 2]] * 2
    with pytest.raises(ConfigError, match="block_length"):
        block_grid(1, 7, 0)


def test_training_pair_is_noisy_then_clean():
    noisy, clean = torch.tensor([[9, 2, 9]]), torch.tensor([[1, 2, 3]])
    positions, blocks = torch.tensor([[4, 5, 6]]), torch.tensor([[0, 0, 1]])
    pair = training_pair(noisy, clean, positions, blocks)
    assert pair.token_ids.tolist() == [[9, 2, 9, 1, 2, 3]]
    assert pair.positions.tolist() == [[4, 5, 6, 4, 5, 6]]
    assert pair.block_index.tolist() == [[0, 0, 1, 0, 0, 1]]


def test_sum_blocks_leaves_out_positions_in_no_block():
    nats = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert sum_blocks(nats, torch.tensor([[0, -1, 2, 0]]), 3).tolist() == [[9.0, 0.0, 4.0]]


@pytest.mark.parametrize("shift", [0, 1])
def test_autoregressive_nats(shift: int):
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    token_ids = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0]])
    is_target = torch.tensor([[False, True, True, True], [False, True, False, True]])
    nats = autoregressive_nats(logits, token_ids, is_target, shift)
    for row in range(2):
        for i in range(4):
            expected = 0.0
            if is_target[row, i]:
                expected = -float(logits[row, i - shift].softmax(-1)[token_ids[row, i]].log())
            assert float(nats[row, i]) == pytest.approx(expected)


def test_the_first_token_has_no_shifted_prediction():
    logits, token_ids = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ConfigError, match="first token"):
        autoregressive_nats(logits, token_ids, torch.ones(1, 2, dtype=torch.bool), 1)
    with pytest.raises(ConfigError, match="prediction_shift"):
        align_predictions(logits, 2)
