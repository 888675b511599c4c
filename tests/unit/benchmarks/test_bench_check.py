"""What ``make bench-check`` says has moved."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from quicksilver.evaluation.bootstrap import Interval

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
MACHINE = {"cpu": "EPYC", "cpu_cores": 2, "gpu": None, "threads": 1, "torch": "2.13"}


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_check")


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=float(value), low=float(low), high=float(high))


def test_what_has_moved(check: ModuleType) -> None:
    assert check.moved(None, interval(1, 1, 1)) == "new"
    assert check.moved(interval(1.0, 0.9, 1.1), interval(1.2, 1.05, 1.3)) == "+20%"
    assert check.moved(interval(1.0, 0.9, 1.1), interval(1.5, 1.2, 1.6)) == "+50%, beyond both ranges"
    assert check.moved(interval(1.0, 0.9, 1.1), interval(0.5, 0.4, 0.8)) == "-50%, beyond both ranges"


def test_rounds_are_summed_up_without_the_one_that_warms_up(check: ModuleType) -> None:
    values = {"a": iter([9.0, 3.0, 1.0, 2.0]), "b": iter([9.0, 5.0, 5.0, 5.0])}
    found = check.measure({name: each.__next__ for name, each in values.items()}, 3)
    assert [(each.figure, each.ratio) for each in found] == [("a", interval(2, 1, 3)), ("b", interval(5, 5, 5))]


def test_the_comparison(check: ModuleType) -> None:
    figures = [check.Figure(figure="a", ratio=interval(2, 1, 3)), check.Figure(figure="b", ratio=interval(5, 5, 5))]
    before = check.Recorded(MACHINE | {"commit": "abc"}, "2026-11-25", {"a": interval(4, 4, 4), "c": interval(1, 1, 1)})
    lines = check.comparison(figures, before, MACHINE | {"threads": 2}).splitlines()
    assert [" ".join(line.split()) for line in lines[2:4]] == [
        "| a | 4.00 (4.00 to 4.00) | 2.00 (1.00 to 3.00) | -50%, beyond both ranges |",
        "| b | | 5.00 (5.00 to 5.00) | new |",
    ]
    assert "Another machine: threads 1 then, 2 now." in lines
    assert "Recorded and no longer measured: c." in lines
    assert "Another" not in check.comparison(figures, before, MACHINE)
    assert "Nothing is recorded" in check.comparison(figures, None, MACHINE)


def test_what_is_recorded_can_be_read(check: ModuleType) -> None:
    recorded = check.read_recorded(check.RECORDED)
    assert len(recorded.ratios) == 10
    assert all(each.low <= each.value <= each.high for each in recorded.ratios.values())
    assert set(check.MACHINE) <= set(recorded.environment)


def test_nothing_recorded_is_no_error_and_nonsense_is(check: ModuleType, tmp_path: Path) -> None:
    assert check.read_recorded(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text(json.dumps({"rows": [{"figure": "a"}]}))
    done = CliRunner().invoke(
        check.app, ["--recorded", str(tmp_path / "bad.json"), "--out", str(tmp_path / "out.json")]
    )
    assert done.exit_code == 2
    assert "bad.json holds no recorded ratios" in done.output
