"""Tuning: which settings are tried, what counts as good, what is on the front, what is chosen."""

import math
from dataclasses import replace

import pytest

from quicksilver.api import InfillLayout
from quicksilver.api.loading import load
from quicksilver.decoding import ConfidenceThreshold, EntropyBound, JointThreshold
from quicksilver.diffusion.spec import NoiseRates, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.tuning import (
    ONE_AT_A_TIME,
    POLICIES,
    Row,
    Setting,
    Task,
    Trial,
    Tuner,
    chosen,
    grid,
    mark_chosen,
    mark_front,
    plot,
    quality,
    read_tasks,
    sum_up,
    table,
)
from tests.tiny_checkpoints import save_tiny_checkpoint, tiny_spec


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "list"),
        ('{"prefix": "a"}', "prefix"),
        ('{"prefix": "a", "suffix": "b", "prompt": "c"}', "prompt"),
        ('{"prefix": "a", "suffix": "b", "anwser": "c"}', "anwser"),
        ('{"prompt": 3}', "prompt must be a text"),
        ('{"prompt": ""}', "empty"),
        ('{"prompt": "a", "answer": null}', "answer must be a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    (tmp_path / "tasks").write_text(f'{{"prompt": "x"}}\n\n{line}\n')
    with pytest.raises(InputError, match=f"line 3: .*{words}"):
        read_tasks(tmp_path / "tasks")


def test_files_without_tasks_are_refused(tmp_path):
    (tmp_path / "blank").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, words in (("blank", "no task"), ("binary", "UTF-8"), ("none", "cannot read")):
        with pytest.raises(InputError, match=words):
            read_tasks(tmp_path / name)


def test_both_kinds_of_tasks_are_read(tmp_path):
    (tmp_path / "tasks").write_text('{"prefix": "a", "suffix": "", "answer": "é"}\n{"prompt": "b"}\n', encoding="utf-8")
    assert read_tasks(tmp_path / "tasks") == [Task(texts=("a", ""), answer="é"), Task(texts=("b",))]


def test_the_grid_is_what_the_checkpoint_knows():
    spec = tiny_spec()
    in_place = grid(spec, is_by_blocks=False)
    assert in_place[0] == Setting(policy="confidence_threshold", threshold=ONE_AT_A_TIME)
    assert {each.policy for each in in_place} == set(POLICIES)
    assert len(in_place) == len(set(in_place)) == 7 + 7 + 3
    by_blocks = grid(spec, is_by_blocks=True)
    assert {each.block_length for each in by_blocks} == {4, 8}
    assert len(by_blocks) == 2 * len(in_place)
    untrained = grid(replace(spec, noise=NoiseRates()), is_by_blocks=False)
    assert {each.policy for each in untrained} == set(POLICIES) - {"joint_threshold"}
    narrow = grid(spec, is_by_blocks=True, policies=["entropy_bound"], block_lengths=[8])
    assert narrow[1:] == [Setting(policy="entropy_bound", block_length=8)]
    assert narrow[0].block_length == spec.block_length


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"objective": Objective.AUTOREGRESSIVE}, {}, "objective ar"),
        ({"objective": Objective.UNIFORM}, {}, "objective uniform"),
        ({}, {"policies": ["remdm"]}, "remdm"),
        ({}, {"block_lengths": [5]}, "5"),
        ({}, {"thresholds": [-1.0]}, "threshold must be at least 0"),
        ({}, {"block_lengths": [4], "is_by_blocks": False}, "in place"),
        ({"noise": NoiseRates()}, {"policies": ["joint_threshold"]}, "never saw"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes, options, words):
    with pytest.raises(ConfigError, match=words):
        grid(replace(tiny_spec(), **changes), **({"is_by_blocks": True} | options))


def test_a_setting_is_exactly_what_the_changed_spec_decodes_with():
    spec = tiny_spec()
    setting = Setting(policy="joint_threshold", threshold=0.6, block_length=8)
    changed = setting.apply(spec)
    assert (changed.block_length, changed.decoding.policy, changed.decoding.threshold) == (8, "joint_threshold", 0.6)
    assert replace(changed, block_length=spec.block_length, decoding=spec.decoding) == spec
    assert setting.build(spec.decoding) == JointThreshold(threshold=0.6, edit_threshold=0.9)
    plain = Setting(policy="entropy_bound")
    assert plain.apply(spec).decoding.threshold == spec.decoding.threshold
    assert plain.build(spec.decoding) == EntropyBound()


def trial(text: str = "", token_ids: tuple[int, ...] = (), nfe: int = 1, seconds: float = 1.0) -> Trial:
    return Trial(text=text, token_ids=token_ids, log_confidence=-0.5 * len(token_ids), nfe=nfe, seconds=seconds)


def test_quality_is_the_answer_or_else_agreement():
    hole, prompt = Task(texts=("", ""), answer="x = 1\n"), Task(texts=("a",), answer="x = 1\n")
    nothing = trial()
    assert [quality(hole, trial(text), nothing) for text in ("x = 1", "x = 1 \n", "x = 12", "x = 1\ny")] == [1, 1, 0, 0]
    assert [quality(prompt, trial(text), nothing) for text in ("x = 1", "x = 1\ny", "y", "x")] == [1, 1, 0, 0]
    free = Task(texts=("a",))
    slow = trial(token_ids=(1, 2, 3, 4))
    ids = ((1, 2, 3, 4), (1, 2, 9, 4), (3, 4), (), (7,))
    assert [quality(free, trial(token_ids=each), slow) for each in ids] == pytest.approx([1, 0.75, 2 / 3, 0, 0])
    assert quality(free, nothing, nothing) == 1


def test_figures_are_of_sums_over_tasks():
    tasks = [Task(texts=("", ""), answer="a"), Task(texts=("", ""))]
    slow = [trial("a", (1,), nfe=1, seconds=1.0), trial("b", (1, 2, 3), nfe=3, seconds=3.0)]
    fast = [trial("b", (2,), nfe=1, seconds=0.5), trial("b", (1, 2, 3), nfe=1, seconds=0.5)]
    settings = [Setting(policy="confidence_threshold", threshold=t) for t in (ONE_AT_A_TIME, 0.1)]
    one, other = sum_up(settings, tasks, [slow, fast])
    assert (one.quality.value, one.tpf, one.nfe, one.tokens_per_s) == (1.0, 1.0, 2.0, 1.0)
    assert (other.quality.value, other.tpf, other.nfe, other.tokens_per_s) == (0.5, 2.0, 1.0, 4.0)
    assert other.log_confidence == pytest.approx(-0.5)
    nothing = sum_up(settings[:1], tasks, [[trial(nfe=0, seconds=0.0)] * 2])[0]
    assert (nothing.log_confidence, nothing.tpf, nothing.tokens_per_s) == (None, 0.0, 0.0)


def row(good: float, fast: float, threshold: float = 0.5) -> Row:
    return Row(
        setting=Setting(policy="confidence_threshold", threshold=threshold),
        quality=Interval(value=good, low=good, high=good),
        log_confidence=None,
        tpf=1.0,
        nfe=1.0,
        tokens_per_s=float(fast),
    )


def test_the_front_is_what_nothing_beats():
    rows = mark_front([row(1.0, 1), row(0.9, 3), row(0.9, 2), row(0.8, 3), row(0.7, 5), row(0.9, 3)])
    assert [each.is_on_front for each in rows] == [True, True, False, False, True, True]


@pytest.mark.parametrize(("tolerance", "speed"), [(0.0, 1), (0.09, 1), (0.1, 3), (0.3, 5), (1.0, 5)])
def test_the_fastest_within_the_tolerance_is_chosen(tolerance, speed):
    rows = mark_chosen([row(1.0, 1), row(0.9, 3), row(0.9, 2), row(0.7, 5)], tolerance)
    assert chosen(rows).tokens_per_s == speed
    assert sum(each.is_chosen for each in rows) == 1


def test_speed_alone_chooses_nothing():
    rows = mark_chosen([row(0.0, 1), row(0.0, 3)], 1.0)
    with pytest.raises(InputError, match="no setting gave the answer"):
        chosen(rows)


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, math.nan])
def test_a_tolerance_is_a_fraction(tolerance):
    with pytest.raises(ConfigError, match="tolerance"):
        mark_chosen([row(1.0, 1)], tolerance)


def test_the_table_marks_front_and_choice_fastest_first():
    rows = mark_chosen(mark_front([row(1.0, 1, 0.9), row(0.9, 3, 0.8), row(0.8, 2, 0.7)]), 0.1)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows).splitlines()[2:]]
    assert [(line[0], line[2]) for line in lines] == [(">*", "0.8"), ("", "0.7"), ("*", "0.9")]
    assert len({len(line) for line in table(rows).splitlines()}) == 1


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot(mark_chosen(mark_front([row(1.0, 1), row(0.9, 3)]), 0.0), tmp_path / "new" / "a.svg", "title")
    assert "<svg" in (tmp_path / "new" / "a.svg").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(save_tiny_checkpoint(tmp_path_factory.mktemp("tuning") / "tiny"), device="cpu")


def test_trials_are_what_the_model_writes_by_itself(model):
    tuner = Tuner(model=model, seed=3)
    tasks = [Task(texts=("def mean(xs):\n", "return 1\n")), Task(texts=("def mean",))]
    settings = [Setting(policy="confidence_threshold", threshold=t, block_length=8) for t in (ONE_AT_A_TIME, 0.05)]
    calls = []
    found = tuner.sweep(tasks, settings, repeats=2, advance=lambda: calls.append(1))
    assert len(calls) == 8
    for setting, (hole, text) in zip(settings, found, strict=True):
        filled = model.infill(*tasks[0].texts, threshold=setting.threshold, seed=3)
        assert (hole.text, hole.nfe) == (filled.holes[0].text, filled.nfe)
        written = model.generate("def mean", max_tokens=64, threshold=setting.threshold, block_length=8, seed=3)
        assert (text.text, text.nfe) == (written.text, written.nfe)
    assert found[0][1].nfe >= len(found[0][1].token_ids) > found[1][1].nfe
    assert setting.build(model.spec.decoding) == ConfidenceThreshold(threshold=0.05)


def test_only_what_is_decoded_by_blocks_has_a_block_length(model):
    hole, prompt = Task(texts=("a", "b")), Task(texts=("a",))
    assert not Tuner(model=model).is_by_blocks([hole])
    assert Tuner(model=model).is_by_blocks([hole, prompt])
    assert Tuner(model=model, layout=InfillLayout.PSM).is_by_blocks([hole])
