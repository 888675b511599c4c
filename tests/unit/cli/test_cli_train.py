"""`quicksilver train`: what reaches the trainer, and what is refused before it. Training itself is tested elsewhere."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from quicksilver.diffusion.spec import Objective

RECIPES = """
from dataclasses import dataclass, replace
from pathlib import Path

from quicksilver.diffusion.spec import Objective
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.recipe import Recipe
from tests.tiny import TINY
from tests.tiny_checkpoints import tiny_spec


@dataclass(frozen=True)
class Task:
    tokens: Path

    def build(self, spec, schedule, seed):
        raise NotImplementedError


def small(tokens: Path, objective: Objective = Objective.MASK) -> Recipe:
    schedule = WarmupStableDecay(num_steps=100, num_warmup_steps=1, num_decay_steps=20)
    return Recipe(name="small", model=TINY, spec=tiny_spec(objective), task=Task(tokens), schedule=schedule)


def adapted(source: Path, tokens: Path) -> Recipe:
    return replace(small(tokens), source=source)


def fixed() -> Recipe:
    return small(Path("nowhere"))
"""


class FakeTrainer:
    made: "list[FakeTrainer]" = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, recipe, path):
        self.recipe, self.path, self.resumed_from, self.started_from, self.max_minutes = recipe, path, [], [], []
        self.is_finished = True
        FakeTrainer.made.append(self)

    def resume(self, checkpoint=None):
        self.resumed_from.append(checkpoint)
        return False

    def start_from(self, folder):
        self.started_from.append(folder)

    def run(self, max_minutes=None):
        self.max_minutes.append(max_minutes)
        is_finished = self.recipe.schedule.num_steps != 77  # 77 steps: as if it were interrupted
        return SimpleNamespace(last_step=5, is_finished=is_finished, folder=self.path)


@pytest.fixture
def train(quicksilver, tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny_recipes.py").write_text(RECIPES)
    module = ModuleType("quicksilver.training.trainer")
    module.Trainer = FakeTrainer
    monkeypatch.setitem(sys.modules, "quicksilver.training.trainer", module)
    monkeypatch.chdir(tmp_path)
    FakeTrainer.made.clear()

    def run(*arguments: str):
        outcome = quicksilver("train", *arguments)
        return outcome, (FakeTrainer.made[-1] if FakeTrainer.made else None)

    return run


def test_options_reach_recipe_and_trainer(train):
    outcome, trainer = train(
        "tiny_recipes:small", "--tokens", "corpus", "--objective", "ar", "--steps", "50", "--decay-steps", "10",
        "--max-minutes", "2", "--out", "there", "--seed", "7",
    )  # fmt: skip
    assert (outcome.status, outcome.out) == (0, "")
    assert "finished after 5 steps" in outcome.err
    assert trainer.recipe.spec.objective is Objective.AUTOREGRESSIVE
    assert str(trainer.recipe.task.tokens) == "corpus"
    assert (trainer.recipe.schedule.num_steps, trainer.recipe.schedule.num_decay_steps) == (50, 10)
    assert trainer.recipe.schedule.num_warmup_steps == 1
    assert trainer.recipe.seed == 7
    assert (trainer.max_minutes, str(trainer.path), trainer.resumed_from) == ([2.0], "there", [])


def test_defaults_are_the_recipe_s(train):
    outcome, trainer = train("fixed")
    assert outcome.status == 0
    assert (trainer.recipe.schedule.num_steps, trainer.recipe.seed) == (100, 0)
    assert str(trainer.path) == "runs/small"


def test_resume_and_branch(train, tmp_path):
    checkpoint = tmp_path / "step-00000010.pt"
    checkpoint.touch()
    assert "starting at step 0" in train("fixed", "--resume")[0].err
    assert train("fixed", "--resume")[1].resumed_from == [None]
    assert train("fixed", "--branch-from", str(checkpoint))[1].resumed_from == [checkpoint]


def test_a_model_s_weights_may_be_the_start(train, tmp_path):
    for name, text in (("model", "one"), ("same", "one"), ("other", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(text)
    _, trainer = train("small", "--tokens", "same", "--init-from", "model")
    assert ([str(path) for path in trainer.started_from], trainer.resumed_from) == (["model"], [])
    outcome, _ = train("small", "--tokens", "other", "--init-from", "model", "--out", "elsewhere")
    assert (outcome.status, "another tokenizer" in outcome.err) == (2, True)


def test_a_recipe_may_adapt_a_model_whose_tokenizer_wrote_the_corpus(train, tmp_path):
    for name, text in (("model", "one"), ("same", "one"), ("other", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(text)
    _, trainer = train("adapted", "--from", "model", "--tokens", "same")
    assert (str(trainer.recipe.source), str(trainer.recipe.task.tokens)) == ("model", "same")
    outcome, _ = train("adapted", "--from", "model", "--tokens", "other", "--out", "elsewhere")
    assert (outcome.status, "another tokenizer" in outcome.err) == (2, True)


def test_an_interrupted_run_says_how_to_go_on(train):
    outcome, _ = train("fixed", "--steps", "77")
    assert outcome.status == 130
    assert "--resume" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none",), ("'none'", "tiny_recipes:small", "tiny_recipes:fixed")),
        (("small",), ("small", "--tokens")),
        (("fixed", "--tokens", "corpus"), ("fixed", "--tokens")),
        (("small", "--tokens", "c", "--objective", "gan"), ("gan", "mask")),
        (("fixed", "--resume", "--branch-from", "x.pt"), ("--resume", "--branch-from")),
        (("fixed", "--resume", "--init-from", "x"), ("--resume", "--init-from")),
        (("fixed", "--from", "x", "--init-from", "x"), ("--from", "--init-from")),
        (("adapted", "--tokens", "c"), ("adapted", "--from")),
        (("small", "--tokens", "c", "--from", "quicksilver-coder-ar"), ("small", "--from")),
        (("fixed", "--branch-from", "x.pt"), ("x.pt",)),
        (("fixed", "--steps", "10"), ("steps",)),
        (("fixed", "--max-minutes", "0"), ("--max-minutes",)),
    ],
)
def test_bad_usage_is_one_line_and_status_2(train, arguments, words):
    outcome, trainer = train(*arguments)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert all(word in outcome.err for word in words)
    assert trainer is None


def test_a_used_folder_is_not_overwritten(train, tmp_path):
    (tmp_path / "runs" / "small" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "small" / "checkpoints" / "step-00000001.pt").touch()
    outcome, _ = train("fixed")
    assert outcome.status == 2
    assert "--resume" in outcome.err
    assert train("fixed", "--resume")[0].status == 0


def test_a_missing_extra_says_what_to_install(train, monkeypatch):
    monkeypatch.delitem(sys.modules, "quicksilver.training.trainer")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    outcome, _ = train("fixed")
    assert outcome.status == 2
    assert "pip install 'quicksilver-lm[train]'" in outcome.err
    assert "accelerate" in outcome.err
