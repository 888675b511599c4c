"""Exact-count stratified estimator against plain loops and exact enumeration."""

import itertools

import pytest
import torch

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.estimator import (
    Weighting,
    at_positions,
    draw_counts,
    mask_exact_count,
    stratified_uniforms,
    target_counts,
    token_weights,
)
from quicksilver.errors import ConfigError


def naive_mask(block_index, is_target, counts, scores):
    result = torch.zeros_like(is_target)
    for row in range(block_index.shape[0]):
        for slot in range(counts.shape[1]):
            members = [i for i in range(block_index.shape[1]) if is_target[row, i] and block_index[row, i] == slot]
            members.sort(key=lambda i: (float(scores[row, i]), i))
            for i in members[: int(counts[row, slot])]:
                result[row, i] = True
    return result


def ragged_batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    block_index = torch.tensor([[0, 0, 0, -1, 1, 1, 2, 2, 2, 2, -1, -1], [-1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 3]])
    is_target = torch.rand(block_index.shape, generator=generator) < 0.8
    return block_index, is_target, torch.rand(block_index.shape, generator=generator, dtype=torch.float64)


def test_every_stratum_holds_one_draw():
    u = stratified_uniforms(6, 5, seed=3, step=11)
    assert u.dtype == torch.float64
    assert sorted((u.flatten() * 30).floor().long().tolist()) == list(range(30))


def test_uniforms_depend_on_seed_and_step_only():
    u = stratified_uniforms(8, 4, seed=3, step=11)
    assert torch.equal(u, stratified_uniforms(8, 4, seed=3, step=11))
    assert not torch.equal(u, stratified_uniforms(8, 4, seed=3, step=12))
    assert not torch.equal(u, stratified_uniforms(8, 4, seed=4, step=11))


def test_row_draws_are_uniform_over_steps():
    # Mean of 200 U(0, 1) draws: sigma = 0.2887 / sqrt(200) = 0.0204; 5 sigma.
    draws = torch.stack([stratified_uniforms(4, 2, seed=1, step=step)[2, 1] for step in range(200)])
    assert abs(draws.mean() - 0.5) < 0.102
    assert draws.min() >= 0
    assert draws.max() < 1


def test_every_count_is_drawn_equally_often():
    u = stratified_uniforms(16, 4, seed=0, step=0)
    counts = draw_counts(u, torch.full((16, 4), 16))
    assert torch.equal(counts.flatten().bincount(minlength=17), torch.tensor([0] + [4] * 16))


def test_counts_stay_in_range_and_empty_blocks_get_none():
    u = torch.tensor([0.0, 0.999, 1.0, 0.5, 0.2499, 0.25], dtype=torch.float64)
    sizes = torch.tensor([4, 4, 4, 0, 4, 4])
    assert draw_counts(u, sizes).tolist() == [1, 4, 4, 0, 1, 2]


def test_target_counts():
    block_index, is_target, _ = ragged_batch()
    sizes = target_counts(block_index, is_target, 4)
    for row, slot in itertools.product(range(2), range(4)):
        assert sizes[row, slot] == int((is_target[row] & (block_index[row] == slot)).sum())


@pytest.mark.parametrize("seed", range(20))
def test_mask_matches_the_plain_loop(seed: int):
    block_index, is_target, scores = ragged_batch(seed)
    sizes = target_counts(block_index, is_target, 4)
    counts = draw_counts(torch.rand(2, 4, generator=torch.Generator().manual_seed(seed)), sizes)
    is_masked = mask_exact_count(block_index, is_target, counts, scores)
    assert torch.equal(is_masked, naive_mask(block_index, is_target, counts, scores))
    assert torch.equal(target_counts(block_index, is_masked, 4), counts)


def test_ties_go_to_the_lower_position():
    is_masked = mask_exact_count(
        torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool), torch.tensor([[2]]), torch.zeros(1, 5)
    )
    assert is_masked.tolist() == [[True, True, False, False, False]]


def test_every_subset_is_equally_likely():
    # 6 subsets of size 2 of 4, 6000 draws: sigma of a cell = sqrt(6000 * 5/36) = 29; 5 sigma.
    rows = 6000
    scores = counter_uniform(5, torch.arange(rows)[:, None], torch.arange(4))
    block_index = torch.zeros(rows, 4, dtype=torch.int64)
    is_masked = mask_exact_count(block_index, block_index == 0, torch.full((rows, 1), 2), scores)
    cells = (is_masked.long() * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16)
    assert int((cells > 0).sum()) == 6
    assert all(abs(int(cells[a + b]) - 1000) < 145 for a, b in itertools.combinations([1, 2, 4, 8], 2))


def test_impossible_counts_are_errors():
    block_index, is_target, scores = ragged_batch()
    with pytest.raises(ConfigError, match="exceeds the number of target"):
        mask_exact_count(block_index, is_target, torch.full((2, 4), 9), scores)
    with pytest.raises(ConfigError, match="block slots"):
        mask_exact_count(block_index, is_target, torch.zeros(2, 2, dtype=torch.int64), scores)


@pytest.mark.parametrize("weighting", list(Weighting))
@pytest.mark.parametrize("clip", [0.5, 1.0, 3.3, 4.0, 100.0])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 33])
def test_expected_total_weight_is_the_block_size(weighting: Weighting, clip: float, n: int):
    k = torch.arange(1, n + 1)
    weights = token_weights(k, torch.full_like(k, n), weighting, clip)
    assert float((k * weights).mean()) == pytest.approx(n, rel=1e-12)


def test_weight_shapes():
    k, n = torch.arange(1, 17), torch.full((16,), 16)
    torch.testing.assert_close(token_weights(k, n, Weighting.ELBO), 16 / k.double())
    assert token_weights(k, n, Weighting.UNWEIGHTED).unique().numel() == 1
    clipped = token_weights(k, n, Weighting.CLIPPED, clip=4.0)
    assert clipped[:4].unique().numel() == 1
    torch.testing.assert_close(clipped[4] / clipped[9], torch.tensor(2.0, dtype=torch.float64))


def test_empty_blocks_weigh_nothing():
    for weighting in Weighting:
        assert token_weights(torch.tensor([0, 1]), torch.tensor([0, 1]), weighting).tolist() == [0.0, 1.0]
    with pytest.raises(ConfigError, match="clip"):
        token_weights(torch.tensor([1]), torch.tensor([1]), Weighting.CLIPPED, clip=0.0)


def test_at_positions():
    values = torch.tensor([[1.5, 2.5]])
    assert at_positions(values, torch.tensor([[0, 1, -1, 1]])).tolist() == [[1.5, 2.5, 0.0, 2.5]]


def test_stratified_exact_count_varies_less_than_independent_t():
    # 16 blocks of 8 per batch, 100 batches. Per-token loss grows with the masked share, as for a real denoiser.
    blocks, n, batches = 16, 8, 100
    exact, independent = [], []
    for step in range(batches):
        k = draw_counts(stratified_uniforms(blocks, 1, seed=0, step=step)[:, 0], torch.full((blocks,), n)).double()
        exact.append(float((0.5 + 2 * k / n).sum()))
        t = counter_uniform(1, step, torch.arange(blocks)).clamp(min=1e-3)
        k = (counter_uniform(2, step, torch.arange(blocks)[:, None], torch.arange(n)) < t[:, None]).sum(1)
        independent.append(float((k / (n * t) * (0.5 + 2 * k / n)).sum()))
    exact_t, independent_t = torch.tensor(exact), torch.tensor(independent)
    assert exact_t.var() < independent_t.var() / 20
    # Exact mean: sum over blocks of the mean of 0.5 + 2 k / n over k = 1..n.
    assert float(exact_t.mean()) == pytest.approx(blocks * (0.5 + (n + 1) / n), abs=0.05)
