"""The helpers of the proofs, loaded by path: benchmarks are scripts, not a package."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.recipe import load_recipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def proofs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proofs", ROOT / "benchmarks" / "proofs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Published values: Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(proofs: ModuleType, successes: int, trials: int, low: float, high: float) -> None:
    assert proofs.wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_markdown_table(proofs: ModuleType) -> None:
    assert proofs.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_training_seconds_come_from_the_log(proofs: ModuleType, tmp_path: Path) -> None:
    lines = ['{"tokens": 10, "tokens_per_s": 5}', '{"tokens": 40, "tokens_per_s": 10}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert proofs.training_seconds(tmp_path) == pytest.approx(10 / 5 + 30 / 10)


def test_a_finished_run_of_other_settings_is_not_reported(proofs: ModuleType, tmp_path: Path) -> None:
    recipe = load_recipe("sudoku:sudoku_small", ROOT / "recipes")()
    (tmp_path / "final").mkdir()
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    other = replace(recipe, schedule=WarmupStableDecay(num_steps=9, num_warmup_steps=0, num_decay_steps=0))
    with pytest.raises(SystemExit, match="other settings"):
        proofs.train_or_load(other, tmp_path, None)
