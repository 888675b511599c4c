"""Draws for packed rows, which use an unknown number of their first slots."""

import pytest
import torch

from quicksilver.diffusion.estimator import draw_counts, spread_uniforms, stratified_uniforms
from quicksilver.errors import ConfigError


def test_every_slot_is_stratified_over_the_rows():
    uniforms = spread_uniforms(8, 20, seed=3, step=11)
    assert uniforms.dtype == torch.float64
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    # The golden ratio turns the circle, so strata are those of slot 0, turned back.
    turned = (uniforms - 0.6180339887498949 * torch.arange(20)) % 1.0
    for slot in range(20):
        assert sorted((turned[:, slot] * 8).floor().long().tolist()) == list(range(8))


def test_the_first_draws_of_a_row_are_spread_evenly_whatever_their_number():
    # By the three-distance theorem the largest gap of n points is below 2.618 / n.
    uniforms = spread_uniforms(3, 200, seed=0, step=0)
    for used in (2, 7, 30, 200):
        points = uniforms[:, :used].sort(dim=1).values
        gaps = torch.cat([points.diff(dim=1), points[:, :1] + 1 - points[:, -1:]], dim=1)
        assert gaps.max() < 2.62 / used


def test_draws_depend_on_seed_and_step_only():
    assert torch.equal(spread_uniforms(4, 9, seed=1, step=2), spread_uniforms(4, 9, seed=1, step=2))
    assert not torch.equal(spread_uniforms(4, 9, seed=1, step=2), spread_uniforms(4, 9, seed=1, step=3))
    assert not torch.equal(spread_uniforms(4, 9, seed=1, step=2), spread_uniforms(4, 9, seed=2, step=2))


def test_each_draw_alone_is_uniform():
    # Every count 1..8 in 4,000 draws of one slot: 500 each, sigma 20.9; 5 sigma.
    draws = torch.stack([spread_uniforms(3, 6, seed=2, step=step)[1, 4] for step in range(4000)])
    counts = torch.bincount(draw_counts(draws, torch.full((4000,), 8)), minlength=9)[1:]
    assert (counts - 500).abs().max() < 105


def test_few_used_slots_have_less_variance_than_random_strata():
    def variance(draw):
        means = [draw(4, 512, seed=1, step=step)[:, :30].mean() for step in range(100)]
        return float(torch.stack(means).var())

    # The variances are about 1/12/120 and a fiftieth of it; each is known to 15 % (sigma) from 100 steps.
    assert variance(spread_uniforms) < variance(stratified_uniforms) / 8


def test_no_rows_or_slots_is_an_error():
    with pytest.raises(ConfigError):
        spread_uniforms(0, 4, seed=0, step=0)
