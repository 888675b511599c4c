"""Warm-up, stable, decay."""

import pytest

from quicksilver.errors import ConfigError
from quicksilver.training.lr_schedule import WarmupStableDecay


def test_values_of_every_phase():
    schedule = WarmupStableDecay(num_steps=10, num_warmup_steps=4, num_decay_steps=3)
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [schedule.multiplier(step) for step in range(10)] == pytest.approx(expected)
    assert [schedule.is_decaying(step) for step in range(10)] == [False] * 7 + [True] * 3


def test_no_warm_up_and_no_decay():
    schedule = WarmupStableDecay(num_steps=3, num_warmup_steps=0, num_decay_steps=0)
    assert [schedule.multiplier(step) for step in range(3)] == [1.0] * 3
    assert not schedule.is_decaying(2)


def test_decay_branches_off_without_changing_what_was():
    long = WarmupStableDecay(num_steps=100, num_warmup_steps=4, num_decay_steps=3)
    short = WarmupStableDecay(num_steps=20, num_warmup_steps=4, num_decay_steps=3)
    assert [short.multiplier(step) for step in range(17)] == [long.multiplier(step) for step in range(17)]


@pytest.mark.parametrize("steps", [(0, 0, 0), (5, 3, 3), (5, -1, 0), (5, 0, -1)])
def test_impossible_schedules_are_errors(steps):
    num_steps, warmup, decay = steps
    with pytest.raises(ConfigError):
        WarmupStableDecay(num_steps=num_steps, num_warmup_steps=warmup, num_decay_steps=decay)
