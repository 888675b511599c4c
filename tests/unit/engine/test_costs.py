"""Cost curves from fake timings; one true measurement, of which only the form is checked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.diffusion.spec import Objective
from quicksilver.engine.costs import (
    CostCurve,
    cache_folder,
    choose_row_budget,
    load_or_measure,
    machine_key,
    measure,
    sample,
)
from quicksilver.errors import ConfigError
from tests.fakes import fake_spec
from tests.tiny import random_denoiser, tiny_config

RIDGE = CostCurve(num_rows=(1, 4, 16, 64, 256), ms=(2.0, 2.0, 3.0, 9.0, 33.0))
"""Flat to 4 rows, one eighth of a millisecond per row from 16 on."""


def test_straight_between_points_and_beyond_the_last():
    assert [RIDGE.at(n) for n in (1, 3, 4, 10, 16, 40, 256, 512)] == [2.0, 2.0, 2.0, 2.5, 3.0, 6.0, 33.0, 65.0]
    assert CostCurve(num_rows=(4, 8), ms=(1.0, 2.0)).at(1) == 1.0
    assert CostCurve(num_rows=(4,), ms=(1.0,)).at(100) == 1.0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"slack": 0.0}, 4),
        ({"slack": 0.25}, 10),
        ({"slack": 0.26}, 10),
        ({"target_ms": 9.0}, 64),
        ({"target_ms": 1.0}, 1),
        ({"target_ms": 1e9}, 256),
    ],
)
def test_the_budget_is_the_most_rows_at_the_price(limits, expected):
    assert RIDGE.budget(**limits) == expected


@pytest.mark.parametrize("limits", [{}, {"slack": 1.0, "target_ms": 3.0}, {"slack": -1.0}, {"target_ms": 0.0}])
def test_a_budget_needs_one_limit_that_means_something(limits):
    with pytest.raises(ConfigError, match="slack"):
        RIDGE.budget(**limits)


def test_the_row_budget_ends_where_throughput_does():
    # Rows per ms: 0.5, 2, 5.3, 7.1, 7.8.
    assert RIDGE.efficient_rows(0.9) == 64
    assert RIDGE.efficient_rows(0.95) == 256
    assert choose_row_budget(RIDGE, longest_block=16) == 64
    assert choose_row_budget(RIDGE, longest_block=16, target_ms=6.0) == 40
    assert choose_row_budget(RIDGE, longest_block=32, target_ms=2.5) == 64  # a block and its commit come first


def least_squares_by_force(values: list[float]) -> list[float]:
    """The isotonic fit by its min-max formula (Robertson et al. 1988, theorem 1.4.4)."""
    size = range(len(values))

    def mean(low: int, high: int) -> float:
        return sum(values[low : high + 1]) / (high + 1 - low)

    return [max(min(mean(low, high) for high in size[at:]) for low in size[: at + 1]) for at in size]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=8))
def test_noisy_points_become_the_nearest_curve_that_never_falls(logs):
    expected = torch.tensor(least_squares_by_force(logs), dtype=torch.float64).exp().tolist()
    points = torch.tensor(logs, dtype=torch.float64).exp().tolist()
    curve = CostCurve.fit(range(1, len(logs) + 1), points)
    assert curve.ms == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "ms"),
    [((), ()), ((1, 2), (1.0,)), ((2, 1), (1.0, 2.0)), ((0,), (1.0,)), ((1,), (0.0,)), ((1, 2), (2.0, 1.0)),
     ((1,), (float("nan"),)), ((1,), (float("inf"),))],
)  # fmt: skip
def test_what_is_no_curve_is_refused(rows, ms):
    with pytest.raises(ConfigError):
        CostCurve(num_rows=rows, ms=ms)


class FakeMachine:
    """A clock that only runs while something is run."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.now, self.seconds, self.calls = 0.0, seconds, []

    def run(self, count: int) -> None:
        turn = self.calls.count(count)
        self.calls.append(count)
        self.now += self.seconds[count][min(turn, len(self.seconds[count]) - 1)]

    def clock(self) -> float:
        return self.now


def test_medians_without_the_warm_up_and_sizes_in_turns():
    machine = FakeMachine({1: [50.0, 0.001, 0.009, 0.002], 4: [60.0, 0.004, 0.004, 0.08]})
    found = sample(machine.run, (1, 4), repeats=3, seconds=1e9, clock=machine.clock)
    assert found == pytest.approx([2.0, 4.0], rel=1e-6)
    assert machine.calls == [1, 4] * 4


def test_measuring_ends_in_time_but_not_without_a_figure():
    machine = FakeMachine({1: [0.5]})
    assert sample(machine.run, (1,), repeats=100, seconds=2.0, clock=machine.clock) == [500.0]
    assert len(machine.calls) == 4
    slow = FakeMachine({1: [10.0]})
    assert sample(slow.run, (1,), repeats=100, seconds=2.0, clock=slow.clock) == [10_000.0]
    assert len(slow.calls) == 1


@pytest.mark.parametrize("objective", [Objective.MASK, Objective.UNIFORM, Objective.AUTOREGRESSIVE])
def test_every_checkpoint_can_be_measured(objective):
    curve = measure(random_denoiser(), replace(fake_spec(objective), prediction_shift=1), rows=(1, 4, 16, 32, 64))
    assert curve.num_rows == (1, 4, 16, 32)  # 64 do not fit behind 32 of 64 positions
    assert list(curve.ms) == sorted(curve.ms)


def cached(folder: Path, *curves: CostCurve, **options) -> tuple[CostCurve, int]:
    """What is found, and how often it was measured for that."""
    left = list(curves)
    found = load_or_measure(
        random_denoiser(), fake_spec(), folder=folder, measure=lambda denoiser, spec: left.pop(0), **options
    )
    return found, len(curves) - len(left)


OTHER = CostCurve(num_rows=(1,), ms=(1.0,))


def test_a_curve_is_measured_once(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert cached(folder, RIDGE) == (RIDGE, 1)
    assert cached(folder, OTHER) == (RIDGE, 0)
    assert cached(folder, OTHER, is_fresh=True) == (OTHER, 1)
    assert cached(folder, RIDGE) == (OTHER, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: json.dumps(json.loads(text) | {"ms": [3, 2, 1, 0, -1]}),
        lambda text: json.dumps(json.loads(text) | {"key": {"machine": "another"}}),
        lambda text: "\x00\xff",
    ],
)
def test_a_damaged_cache_is_measured_anew_and_mended(tmp_path, change):
    cached(tmp_path, RIDGE)
    (path,) = tmp_path.iterdir()
    path.write_text(change(path.read_text()), encoding="latin-1")
    assert cached(tmp_path, OTHER) == (OTHER, 1)
    assert cached(tmp_path, RIDGE) == (OTHER, 0)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert cached(tmp_path / "file" / "costs", RIDGE) == (RIDGE, 1)


def test_the_key_tells_what_costs_depend_on_apart(monkeypatch):
    key = machine_key(random_denoiser())
    assert key == machine_key(random_denoiser(seed=1))  # other weights cost the same
    assert key != machine_key(random_denoiser(dtype=torch.float32))
    assert key != machine_key(random_denoiser(tiny_config(num_layers=2)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert key != machine_key(random_denoiser())


def test_the_cache_folder_follows_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "quicksilver" / "costs"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given_value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", given_value)
        assert cache_folder() == tmp_path / "home" / ".cache" / "quicksilver" / "costs"
