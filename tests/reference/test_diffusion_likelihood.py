"""The self-check ladder on a tabular model, where everything can be enumerated.

``TabularDenoiser`` answers with arbitrary logits for every context it may see, so identities that hold for it hold for
any network; the network itself is checked against the same identities with the models.
"""

import itertools
import math

import pytest
import torch

from quicksilver.diffusion.autoregressive import autoregressive_nats
from quicksilver.diffusion.block import block_grid, sum_blocks
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
from quicksilver.diffusion.hybrid import HybridNoise
from quicksilver.diffusion.interpolating import InterpolatingNoise
from quicksilver.diffusion.likelihood import (
    any_order_nats,
    bits_per_byte,
    chain_rule_nats,
    mask_bound,
    noise_bound,
)
from quicksilver.diffusion.prediction import clean_log_probs
from quicksilver.diffusion.protocol import LogitsFn
from quicksilver.diffusion.schedules import CosineSchedule, LinearSchedule
from quicksilver.diffusion.uniform import UniformNoise
from quicksilver.errors import ConfigError

NUM_REAL = 3
MASK = NUM_REAL
V = NUM_REAL + 1


class TabularDenoiser:
    """Logits as an arbitrary (hashed) function of exactly the context that ``LogitsFn`` allows."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.num_forwards = 0

    def __call__(self, noisy_ids: torch.Tensor, clean_ids: torch.Tensor, block_length: int) -> torch.Tensor:
        self.num_forwards += 1
        rows, length = noisy_ids.shape
        position = torch.arange(length)
        block = position // block_length
        digits = (V + 1) ** position
        context = torch.zeros(rows, length, dtype=torch.int64)
        for b in range(int(block.max()) + 1):
            past = (clean_ids * digits * (block < b)).sum(1)
            own = ((noisy_ids + 1) * digits * (block == b)).sum(1)
            context[:, block == b] = (past + own)[:, None]
        return 4 * counter_uniform(self.seed, context[..., None], position[:, None], torch.arange(V)) - 2


def uniform_logits(noisy_ids: torch.Tensor, clean_ids: torch.Tensor, block_length: int) -> torch.Tensor:
    return torch.zeros(*noisy_ids.shape, V, dtype=torch.float64)


def sequences(length: int, rows: int = 4) -> torch.Tensor:
    return (counter_uniform(99, torch.arange(rows)[:, None], torch.arange(length)) * NUM_REAL).long()


def all_targets(token_ids: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(token_ids, dtype=torch.bool)


def nats_at(model: LogitsFn, row: torch.Tensor, masked: list[int], position: int, block_length: int) -> float:
    """-log p(row[position]) when ``masked`` positions are hidden."""
    noisy = row.clone()
    noisy[masked] = MASK
    log_probs = model(noisy[None], row[None], block_length)[0, position, :NUM_REAL].log_softmax(-1)
    return -float(log_probs[row[position]])


def brute_force_any_order(model: LogitsFn, row: torch.Tensor, targets: list[int], block_length: int) -> float:
    """Average over every order of revealing each block, one token at a time: the definition."""
    total = 0.0
    for block in sorted({i // block_length for i in targets}):
        members = [i for i in targets if i // block_length == block]
        orders = list(itertools.permutations(members))
        for order in orders:
            for step, position in enumerate(order):
                total += nats_at(model, row, list(order[step:]), position, block_length) / len(orders)
    return total


OPTIONS = {"mask_id": MASK}


def test_tabular_model_is_a_logits_fn():
    assert isinstance(TabularDenoiser(0), LogitsFn)


@pytest.mark.parametrize("block_length", [1, 2, 3, 4, 7])
def test_uniform_logits_cost_exactly_log_v(block_length: int):
    token_ids = sequences(7)
    arguments = (uniform_logits, token_ids, all_targets(token_ids))
    expected = torch.full((4,), 7 * math.log(NUM_REAL), dtype=torch.float64)
    bound = mask_bound(*arguments, block_length=block_length, num_subsets=2, **OPTIONS)
    torch.testing.assert_close(bound.nats, expected, rtol=1e-12, atol=0)
    assert float(bound.standard_error.max()) < 1e-12
    chain = chain_rule_nats(*arguments, block_length=block_length, **OPTIONS)
    torch.testing.assert_close(chain.sum(1), expected, rtol=1e-12, atol=0)
    exact = any_order_nats(*arguments, block_length=block_length, **OPTIONS)
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("block_length", [20, 23, 64])
def test_uniform_logits_cost_log_v_on_the_strata_of_long_blocks(block_length: int):
    token_ids = sequences(50)
    bound = mask_bound(uniform_logits, token_ids, all_targets(token_ids), block_length=block_length, **OPTIONS)
    # k masked tokens of weight n / k: exact for any drawn count.
    torch.testing.assert_close(bound.nats, torch.full((4,), 50 * math.log(NUM_REAL), dtype=torch.float64))


@pytest.mark.parametrize(("length", "block_length"), [(3, 3), (4, 2), (5, 3), (7, 4)])
def test_any_order_is_the_average_over_orders(length: int, block_length: int):
    model, token_ids = TabularDenoiser(5), sequences(length, rows=2)
    exact = any_order_nats(model, token_ids, all_targets(token_ids), block_length=block_length, **OPTIONS)
    for row, value in zip(token_ids, exact, strict=True):
        expected = brute_force_any_order(model, row, list(range(length)), block_length)
        assert float(value) == pytest.approx(expected, rel=1e-9)


def test_given_tokens_stay_visible_and_are_not_scored():
    model, token_ids = TabularDenoiser(6), sequences(7, rows=2)
    targets = [2, 3, 5]
    is_target = torch.zeros_like(token_ids, dtype=torch.bool)
    is_target[:, targets] = True
    exact = any_order_nats(model, token_ids, is_target, block_length=4, **OPTIONS)
    chain = chain_rule_nats(model, token_ids, is_target, block_length=4, **OPTIONS)
    for row in range(2):
        assert float(exact[row]) == pytest.approx(brute_force_any_order(model, token_ids[row], targets, 4), rel=1e-9)
        expected = [nats_at(model, token_ids[row], masked, masked[0], 4) for masked in ([2, 3], [3], [5])]
        assert chain[row, targets].tolist() == pytest.approx(expected, rel=1e-9)
        assert chain[row].count_nonzero() == 3


def test_estimator_expectation_is_any_order_exactly_on_three_tokens():
    # L = 3, V = 3: enumerate every count and every subset, through the estimator's own weights.
    model, row = TabularDenoiser(7), sequences(3)[1]
    sizes = torch.tensor([3])
    total = 0.0
    for stratum in range(3):
        counts = draw_counts(torch.tensor([(stratum + 0.5) / 3]), sizes)
        weight = float(token_weights(counts, sizes, Weighting.ELBO))
        subsets = list(itertools.combinations(range(3), int(counts)))
        for subset in subsets:
            nats = sum(nats_at(model, row, list(subset), i, 3) for i in subset)
            total += weight * nats / len(subsets) / 3
    assert total == pytest.approx(brute_force_any_order(model, row, [0, 1, 2], 3), abs=1e-9)


def monte_carlo(model: LogitsFn, row: torch.Tensor, block_length: int, num_rows: int, step: int) -> torch.Tensor:
    """One training step's estimate for copies of one sequence: nats per row."""
    token_ids = row.expand(num_rows, -1)
    blocks = block_grid(num_rows, len(row), block_length)
    num_slots = int(blocks.max()) + 1
    sizes = target_counts(blocks, all_targets(token_ids), num_slots)
    counts = draw_counts(stratified_uniforms(num_rows, num_slots, seed=1, step=step), sizes)
    scores = counter_uniform(2, step, torch.arange(num_rows)[:, None], torch.arange(len(row)))
    is_masked = mask_exact_count(blocks, all_targets(token_ids), counts, scores)
    logits = model(torch.where(is_masked, MASK, token_ids), token_ids, block_length)
    nats = -clean_log_probs(logits, MASK).gather(-1, token_ids[..., None])[..., 0] * is_masked
    return (nats * at_positions(token_weights(counts, sizes, Weighting.ELBO), blocks)).sum(1)


@pytest.mark.parametrize(("length", "block_length"), [(3, 3), (7, 4)])
def test_estimator_is_unbiased(length: int, block_length: int):
    # 8000 rows; stratification only lowers the variance below the independent one used for the 4-sigma band.
    model, row = TabularDenoiser(8), sequences(length)[0]
    values = monte_carlo(model, row, block_length, 8000, step=0)
    exact = brute_force_any_order(model, row, list(range(length)), block_length)
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(8000)


def test_stratified_exact_count_beats_independent_times():
    # 60 steps of 16 rows each. The estimators share the model, so the ratio of variances is theirs.
    model, row, block_length = TabularDenoiser(9), sequences(8)[2], 4
    exact = torch.stack([monte_carlo(model, row, block_length, 16, step).mean() for step in range(60)])
    blocks, token_ids = block_grid(16, 8, block_length), row.expand(16, -1)
    independent = []
    for step in range(60):
        t = counter_uniform(3, step, torch.arange(16)[:, None], torch.arange(2)).clamp(min=1e-3)
        t = at_positions(t, blocks)
        is_masked = counter_uniform(4, step, torch.arange(16)[:, None], torch.arange(8)) < t
        logits = model(torch.where(is_masked, MASK, token_ids), token_ids, block_length)
        nats = -clean_log_probs(logits, MASK).gather(-1, token_ids[..., None])[..., 0]
        independent.append((nats * is_masked / t).sum(1).mean())
    assert exact.var() < torch.stack(independent).var() / 4


@pytest.mark.parametrize(("length", "block_length"), [(4, 4), (7, 3), (5, 16)])
def test_mask_bound_is_unbiased_and_knows_its_error(length: int, block_length: int):
    # 500 copies of one sequence draw independently: 4 sigma for the mean; the error estimate itself is good to 20 %.
    model, row = TabularDenoiser(10), sequences(length)[:1]
    copies = row.expand(500, -1)
    bound = mask_bound(model, copies, all_targets(copies), block_length=block_length, num_subsets=4, **OPTIONS)
    exact = any_order_nats(model, row, all_targets(row), block_length=block_length, **OPTIONS)
    spread = float(bound.nats.std())
    assert abs(float(bound.nats.mean() - exact)) < 4 * spread / math.sqrt(500)
    assert float(bound.standard_error.square().mean().sqrt()) == pytest.approx(spread, rel=0.2)


def test_mask_bound_on_long_blocks_is_unbiased():
    # n = 18 > 16, so counts come from strata. The model's loss depends on k only, so the exact value is a sum over k.
    n = 18

    def by_count(noisy_ids: torch.Tensor, clean_ids: torch.Tensor, block_length: int) -> torch.Tensor:
        k = (noisy_ids == MASK).sum(1).double()
        logits = torch.zeros(*noisy_ids.shape, V, dtype=torch.float64)
        boost = (2.0 - 3.0 * k / n)[:, None, None].expand(-1, n, 1)
        return logits.scatter(-1, clean_ids[..., None], boost)

    copies = sequences(n)[:1].expand(500, -1)
    bound = mask_bound(by_count, copies, all_targets(copies), block_length=n, **OPTIONS)
    exact = sum(math.log(1 + 2 * math.exp(-(2.0 - 3.0 * k / n))) for k in range(1, n + 1))
    spread = float(bound.nats.std())
    assert 0 < spread < 0.1 * exact
    assert abs(float(bound.nats.mean()) - exact) < 4 * spread / math.sqrt(500)


def test_one_repetition_has_no_standard_error():
    token_ids = sequences(3)
    bound = mask_bound(TabularDenoiser(0), token_ids, all_targets(token_ids), block_length=3, **OPTIONS)
    assert bound.standard_error.isnan().all()


@pytest.mark.parametrize("shift", [0, 1])
def test_block_length_one_is_the_autoregressive_likelihood(shift: int):
    token_ids = sequences(6)
    is_target = all_targets(token_ids)
    is_target[:, 0] = shift == 0
    model = TabularDenoiser(11)
    # A causal model: row i - shift of its output is about token i and has seen the tokens before i only.
    causal = torch.zeros(4, 6, V, dtype=torch.float64)
    for i in range(shift, 6):
        prefix = token_ids.clone()
        prefix[:, i:] = 0  # must not matter
        noisy = prefix.clone()
        noisy[:, i] = MASK
        causal[:, i - shift] = model(noisy, prefix, 1)[:, i]
    causal[..., MASK] = -torch.inf
    expected = autoregressive_nats(causal, token_ids, is_target, shift)
    arguments = (model, token_ids, is_target)
    torch.testing.assert_close(chain_rule_nats(*arguments, block_length=1, **OPTIONS), expected)
    torch.testing.assert_close(any_order_nats(*arguments, block_length=1, **OPTIONS), expected.sum(1))
    model.num_forwards = 0
    bound = mask_bound(*arguments, block_length=1, num_subsets=3, **OPTIONS)
    assert model.num_forwards == 3
    torch.testing.assert_close(bound.nats, expected.sum(1))
    assert float(bound.standard_error.max()) < 1e-12


@pytest.mark.parametrize(
    "noise",
    [
        UniformNoise(LinearSchedule(), V),
        UniformNoise(CosineSchedule(), V),
        HybridNoise(V, MASK, uniform_fraction=0.2),
    ],
)
def test_noise_bound_is_the_likelihood_of_an_independent_source(noise: InterpolatingNoise):
    # Tokens are independent, so the exact leave-one-out prediction is the source, and then the bound is tight for every
    # sequence. 4000 copies draw independently: 4 sigma.
    source = torch.tensor([0.5, 0.3, 0.2, 0.0 if noise.mask_id is not None else 0.1], dtype=torch.float64)
    source = source / source.sum()

    def logits_fn(noisy_ids: torch.Tensor, clean_ids: torch.Tensor, block_length: int) -> torch.Tensor:
        return source.clamp(min=1e-30).log().expand(*noisy_ids.shape, V)

    copies = torch.tensor([[0, 1, 2, 0, 0]]).expand(4000, -1)
    is_target = torch.tensor([[True, True, True, True, False]]).expand(4000, -1)
    bound = noise_bound(logits_fn, noise, copies, is_target, block_length=2, num_times=16, num_repetitions=2)
    expected = -float(source[copies[0, :4]].log().sum())
    error = float(bound.nats.std()) / math.sqrt(4000)
    assert error < 0.01 * expected
    assert abs(float(bound.nats.mean()) - expected) < 4 * error
    assert float(bound.standard_error.square().mean().sqrt()) < 3 * float(bound.nats.std())


def test_sum_of_blocks_is_the_sequence():
    model, token_ids = TabularDenoiser(12), sequences(7)
    nats = chain_rule_nats(model, token_ids, all_targets(token_ids), block_length=3, **OPTIONS)
    per_block = sum_blocks(nats, block_grid(4, 7, 3), 3)
    torch.testing.assert_close(per_block.sum(1), nats.sum(1))
    torch.testing.assert_close(per_block[:, 2], nats[:, 6])


def test_bits_per_byte():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="byte"):
        bits_per_byte(1.0, 0)


def test_enumeration_refuses_long_blocks():
    token_ids = sequences(13)
    with pytest.raises(ConfigError, match="any-order"):
        any_order_nats(uniform_logits, token_ids, all_targets(token_ids), block_length=13, **OPTIONS)
