"""Recipes: found by name, written down, and the same where it matters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quicksilver.errors import ConfigError
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.recipe import Precision, Recipe, load_recipe
from tests.training_runs import tiny_recipe

FILE = """
from quicksilver.training.recipe import Recipe
from tests.training_runs import tiny_recipe

def small(tokens) -> Recipe:
    return tiny_recipe(tokens)

def _hidden() -> Recipe: ...

def helper() -> int:
    return 3
"""


@pytest.fixture
def recipes(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "_private.py").write_text("raise RuntimeError('must not be imported')")
    return tmp_path


@pytest.mark.parametrize("name", ["mine:small", "small"])
def test_a_recipe_is_found_by_name(recipes, name):
    recipe = load_recipe(name, recipes)(Path("corpus"))
    assert isinstance(recipe, Recipe)
    assert recipe.name == "tiny"


def test_a_recipe_is_found_by_path(recipes):
    assert load_recipe(f"{recipes / 'mine.py'}:small", Path("nowhere")).__name__ == "small"


@pytest.mark.parametrize("name", ["large", "mine:large", "mine:_hidden", "helper", "mine:"])
def test_an_unknown_recipe_is_an_error_that_lists_the_known(recipes, name):
    with pytest.raises(ConfigError, match=r"there are: mine:small$"):
        load_recipe(name, recipes)


def test_an_unknown_file_or_folder_is_an_error(recipes):
    with pytest.raises(ConfigError, match="no recipe file"):
        load_recipe("yours:small", recipes)
    with pytest.raises(ConfigError, match="none in"):
        load_recipe("small", recipes / "nowhere")


def test_identity_is_everything_that_changes_the_weights():
    recipe = tiny_recipe(Path("corpus"))
    same = [
        {"schedule": WarmupStableDecay(num_steps=7, num_warmup_steps=1, num_decay_steps=2)},
        {"checkpoint_minutes": 1.0, "checkpoint_steps": 3, "num_kept_checkpoints": 9, "validation_steps": 1},
        {"name": "other", "is_compiled": True},
    ]
    other = [
        {"seed": 6},
        {"ema_decay": 0.5},
        {"precision": Precision.BF16},
        {"model": replace(recipe.model, num_layers=3)},
        {"task": replace(recipe.task, row_length=80)},
        {"task": replace(recipe.task, noise=replace(recipe.task.noise, clip=3.0))},
        {"spec": replace(recipe.spec, block_length=4)},
        {"optimizer": replace(recipe.optimizer, adam_lr=1e-4)},
    ]
    assert all(replace(recipe, **change).identity() == recipe.identity() for change in same)
    assert all(replace(recipe, **change).identity() != recipe.identity() for change in other)


def test_the_written_recipe_is_whole_json():
    recipe = tiny_recipe(Path("corpus"))
    written = json.loads(recipe.to_json())
    assert written["model"]["model_width"] == 32
    assert written["task"]["tokens"] == "corpus"
    assert written["schedule"]["num_steps"] == 20
    assert set(written) == set(Recipe.__dataclass_fields__)


@pytest.mark.parametrize(
    "change",
    [{"checkpoint_minutes": 0.0}, {"checkpoint_steps": 0}, {"num_kept_checkpoints": 0}, {"validation_steps": -1}],
)
def test_bad_housekeeping_is_an_error(change):
    with pytest.raises(ConfigError):
        replace(tiny_recipe(Path("corpus")), **change)
