"""Counter draws against a plain-integer SplitMix64 and the properties that others rely on."""

import torch

from quicksilver.diffusion.counter_rng import counter_bits, counter_uniform

MASK64 = (1 << 64) - 1


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def test_the_mixer_is_splitmix64():
    # First output of the published generator for seed 0, and a chain with a large and a negative counter.
    assert int(counter_bits(0)) & MASK64 == 0xE220A8397B1DCDAF
    expected = mix(mix(mix(7) ^ (2**63 + 5)) ^ (-3 & MASK64))
    assert int(counter_bits(7, 2**63 + 5, -3)) & MASK64 == expected
    assert int(counter_bits(7, torch.tensor([2**63 - 1]), 4)[0]) & MASK64 == mix(mix(mix(7) ^ (2**63 - 1)) ^ 4)


def test_counters_broadcast_and_every_cell_is_its_own_draw():
    grid = counter_bits(1, torch.arange(3)[:, None], torch.arange(4))
    assert grid.shape == (3, 4)
    assert int(grid[2, 1]) == int(counter_bits(1, 2, 1))
    assert grid.unique().numel() == 12


def test_uniforms_are_uniform_and_inside_the_open_interval():
    # 20 cells of 1000 expected: chi-squared with 19 degrees of freedom, mean 19, sigma 6.2; 5 sigma.
    u = counter_uniform(3, torch.arange(20_000))
    assert u.dtype == torch.float64
    assert 0 < float(u.min()) < float(u.max()) < 1
    cells = (u * 20).long().bincount(minlength=20).double()
    assert float(((cells - 1000) ** 2 / 1000).sum()) < 50


def test_neighbouring_seeds_and_counters_are_uncorrelated():
    # Correlation of 20000 pairs: sigma 0.0071; 5 sigma.
    counters = torch.arange(20_000)
    base = counter_uniform(3, counters)
    for other in (counter_uniform(4, counters), counter_uniform(3, counters + 1), counter_uniform(3, counters, 0)):
        assert abs(float(torch.corrcoef(torch.stack([base, other]))[0, 1])) < 0.036
