"""Quality against speed: what is tried, who is on the front, where the two change places, and what the report says."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quicksilver
from quicksilver.api import InfillLayout
from quicksilver.cli.main import main
from quicksilver.decoding import FixedSteps
from quicksilver.diffusion.spec import Layout, NoiseRates, Objective
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.frontier import crossover
from quicksilver.evaluation.frontier.cold import ColdSubject
from quicksilver.evaluation.frontier.crossover import Axis, Comparison, Condition, Speed, crossings, ladder
from quicksilver.evaluation.frontier.settings import BY_BLOCKS, GRID, make_settings
from quicksilver.evaluation.frontier.sweep import BASELINE, DIFFUSION, TWIN, Point, mark_chosen, mark_front
from quicksilver.evaluation.frontier.words import axis_words, sweep_words
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.subjects.engine import EngineSubject
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_spec

BASE = Condition(output=16, context=256, concurrency=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    return {
        "tiny": save_tiny_checkpoint(folder / "tiny"),
        "twin": save_tiny_checkpoint(folder / "tiny-ar", Objective.AUTOREGRESSIVE),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: quicksilver.load(folder, device="cpu") for name, folder in folders.items()}


def point(label, quality, speed, kind=DIFFUSION, **changes):
    def exact(value):
        return Interval(value=float(value), low=float(value), high=float(value))

    plain = {"family": label, "kind": kind, "quality": exact(quality), "tokens_per_s": exact(speed), "others": {}}
    return Point(label=label, seconds=exact(10 / speed), tpf=exact(2.0), nfe=exact(5.0), **plain | changes)


class TestSettings:
    def test_everything_that_was_trained(self):
        found = make_settings(tiny_spec())
        assert len({each.slug for each in found}) == len({each.label for each in found}) == len(found)
        assert [each.policy for each in found if each.block_length is None] == list(GRID)
        by_blocks = [each for each in found if each.block_length is not None]
        assert {each.block_length for each in by_blocks} == {4, 8}
        assert {each.policy.name for each in by_blocks} == set(BY_BLOCKS)
        # As many steps as tokens are one token a step, whatever the length.
        assert all(
            each.policy.policy.steps < each.block_length
            for each in by_blocks
            if isinstance(each.policy.policy, FixedSteps)
        )

    def test_only_what_is_asked(self):
        found = make_settings(
            tiny_spec(), layouts=[InfillLayout.PSM], policies=["confidence_threshold"], block_lengths=[8]
        )
        assert {(each.layout, each.policy.name, each.block_length) for each in found} == {
            (InfillLayout.PSM, "confidence_threshold", 8)
        }
        assert {each.has_fixed_nfe for each in found} == {False}
        [fixed] = {
            each.has_fixed_nfe
            for each in make_settings(tiny_spec(), policies=["fixed_steps"], layouts=[InfillLayout.IN_PLACE])
        }
        assert fixed

    @pytest.mark.parametrize(
        ("changes", "asked", "message"),
        [
            ({}, {"policies": ["hope"]}, "no policy 'hope'"),
            ({}, {"block_lengths": [5]}, "block length 5 was not trained"),
            ({"layouts": (Layout.IN_PLACE,)}, {"layouts": [InfillLayout.PSM]}, "not trained in layout psm"),
            ({"noise": NoiseRates()}, {"policies": ["joint_threshold"]}, "never saw"),
            ({}, {"policies": ["remdm"], "layouts": [InfillLayout.PSM]}, "none is tried block by block"),
        ],
    )
    def test_what_cannot_be_tried_is_refused(self, changes, asked, message):
        with pytest.raises(ConfigError, match=message):
            make_settings(replace(tiny_spec(), **changes), **asked)

    def test_the_twin_has_nothing_to_sweep(self):
        with pytest.raises(ConfigError, match="one way to decode"):
            make_settings(tiny_spec(Objective.AUTOREGRESSIVE))


def test_a_cold_subject_writes_the_same_and_finds_nothing_cached(models):
    model, cached = models["tiny"], []
    listener = lambda ticket: cached.append(ticket.usage.num_cached)  # noqa: E731
    texts, ask = ("x = 1\n" * 12, "y\n"), Ask(seed=1, temperature=1.0, stop=("\n",))
    warm = EngineSubject(name="warm", model=model, layout=InfillLayout.PSM)
    cold = ColdSubject(name="cold", model=model, layout=InfillLayout.PSM)
    expected = warm.fill(texts, ask)
    model.engine.on_end.append(listener)
    try:
        found = [cold.fill(texts, ask) for _ in range(2)]
        assert cached == [0, 0]
        warm.fill(texts, ask)
        assert cached[-1] > 0
    finally:
        model.engine.on_end.remove(listener)
    for each in found:
        assert (each.texts, each.num_tokens, each.nfe) == (expected.texts, expected.num_tokens, expected.nfe)
        assert 0 < each.first_text_s <= each.seconds
    assert cold.complete("def", ask).texts == warm.complete("def", ask).texts


class TestFront:
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=12))
    def test_nobody_on_it_is_beaten_and_everybody_else_is(self, places):
        points = mark_front([point(str(n), quality, speed) for n, (quality, speed) in enumerate(places)])
        for each in points:
            beaten = any(
                (other.quality.value, other.tokens_per_s.value) != (each.quality.value, each.tokens_per_s.value)
                and other.quality.value >= each.quality.value
                and other.tokens_per_s.value >= each.tokens_per_s.value
                for other in points
            )
            assert each.is_on_front == (not beaten)

    def test_only_diffusion_is_on_it(self):
        points = mark_front([point("a", 0.5, 10), point("twin", 0.9, 99, TWIN), point("other", 0.9, 99, BASELINE)])
        assert [each.is_on_front for each in points] == [True, False, False]

    def test_the_fastest_as_good_as_the_twin_is_chosen(self):
        points = [
            point("careful", 0.6, 10),
            point("equal", 0.49, 20),
            point("counted", 0.5, 30, has_fixed_nfe=True),
            point("wild", 0.1, 90),
            point("twin", 0.5, 15, TWIN),
        ]
        marked = {each.label: (each.is_chosen, each.is_compared) for each in mark_chosen(points, 0.01)}
        assert [name for name, (is_chosen, _) in marked.items() if is_chosen] == ["counted"]
        assert [name for name, (_, is_compared) in marked.items() if is_compared] == ["equal"]

    def test_the_best_is_chosen_if_none_is_as_good(self):
        marked = mark_chosen([point("slow", 0.3, 10), point("fast", 0.2, 90), point("twin", 0.5, 15, TWIN)], 0.01)
        assert [each.label for each in marked if each.is_chosen] == ["slow"]

    def test_what_makes_no_sense_is_refused(self):
        with pytest.raises(ConfigError, match="tolerance"):
            mark_chosen([point("a", 1, 1)], -0.1)
        with pytest.raises(ConfigError, match="no diffusion setting"):
            mark_chosen([point("twin", 1, 1, TWIN)], 0.1)


def ratios(axis, **by_value):
    speed = Speed(tokens_per_s=1.0, tpf=1.0, latency_ms=1.0)
    return [
        Comparison(axis=axis, value=int(name[1:]), diffusion=speed, twin=speed, ratio=ratio)
        for name, ratio in by_value.items()
    ]


class TestCrossings:
    def test_between_two_values_by_logarithms(self):
        [(at, wins)] = crossings(ratios(Axis.CONCURRENCY, n1=4.0, n4=2.0, n16=0.5))
        assert (at, wins) == (pytest.approx(8.0), False)
        [(at, wins)] = crossings(ratios(Axis.OUTPUT, n8=2.0, n4=0.5))
        assert (at, wins) == (pytest.approx(32**0.5), True)
        assert crossings(ratios(Axis.OUTPUT, n4=1.5, n8=1.0)) == []

    @pytest.mark.parametrize(
        ("points", "said"),
        [
            (
                ratios(Axis.CONCURRENCY, n1=4.0, n4=2.0, n16=0.5),
                "begins to lose at about 8.0 requests at once; it has 0.50",
            ),
            (ratios(Axis.OUTPUT, n4=0.5, n8=2.0), "begins to win at about 5.7 tokens written"),
            (ratios(Axis.CONTEXT, n32=3.0, n64=2.0), "faster everywhere from 32 to 64 tokens of context"),
            (ratios(Axis.CONTEXT, n32=0.3, n64=0.2), "slower everywhere"),
            (ratios(Axis.CONTEXT, n32=0.9, n64=1.1, n128=0.9), "too near each other"),
        ],
    )
    def test_it_is_said_in_words(self, points, said):
        assert said in axis_words(points[0].axis, points, BASE)

    def test_values_fit_the_context(self):
        assert ladder(Axis.CONCURRENCY, BASE, 300) == [1, 2, 4, 8, 16, 32, 64]
        assert ladder(Axis.OUTPUT, BASE, 256 + 20) == [4, 8, 16]
        assert ladder(Axis.CONTEXT, BASE, 16 + 470) == [32, 64, 128, 256, 448]


def test_what_a_sweep_says():
    points = mark_chosen(
        mark_front(
            [
                point("careful", 0.6, 10),
                point("equal", 0.5, 30),
                point("wild", 0.1, 90),
                point("ar", 0.5, 15, TWIN),
                point("ar in llama.cpp", 0.4, 45, BASELINE),
            ]
        ),
        0.01,
    )
    said = " ".join(sweep_words(points, "exact_match", 0.01))
    assert "best exact match of a diffusion setting is 0.600 [0.600, 0.600], by careful: 10 tokens/s" in said
    assert "fastest setting is equal: 0.500 [0.500, 0.500], with 2.00 times the twin's tokens/s" in said
    assert "wild, runs at 90 tokens/s" in said
    assert "ar in llama.cpp reaches 0.400" in said
    worse = mark_chosen([point("slow", 0.3, 30), point("ar", 0.5, 15, TWIN)], 0.01)
    assert "No setting is as good as the twin: the best one, slow, loses 0.200" in " ".join(
        sweep_words(worse, "exact_match", 0.01)
    )
    nothing = mark_chosen([point("a", 0.0, 30), point("ar", 0.0, 15, TWIN)], 0.01)
    assert sweep_words(nothing, "exact_match", 0.01) == [
        "Nobody has any exact match, so nothing can be said of quality against speed: take more items."
    ]


@pytest.mark.parametrize("layout", ["in_place", "psm", None])
def test_both_sides_write_what_is_forced(models, layout):
    """Every request writes all of its tokens, and each is another one."""
    model = models["tiny" if layout else "twin"]
    subject = ColdSubject(name="side", model=model, layout=layout and InfillLayout(layout))
    texts = crossover.make_texts(model.tokenizer, [SOURCE], seed=0)
    condition = Condition(output=7, context=40, concurrency=3)
    written = []
    model.engine.on_end.append(listener := lambda ticket: written.append(ticket.usage))
    try:
        speed = crossover.measure(subject, texts, condition, 5, 0)
    finally:
        model.engine.on_end.remove(listener)
    assert [each.num_written for each in written] == [7] * 5
    assert [each.num_cached for each in written] == [0] * 5
    assert all(30 <= each.num_prompt <= 50 for each in written)
    assert speed.tpf == sum(each.num_written for each in written) / sum(each.nfe for each in written)
    assert texts.around(40, 0) == texts.around(40, 0) != texts.around(40, 1)


@pytest.fixture
def command(folders, tmp_path, monkeypatch, capsys):
    """The whole command on the tiny models, with few conditions."""
    monkeypatch.setattr(crossover, "_LADDERS", {Axis.OUTPUT: (4, 8), Axis.CONTEXT: (16, 32), Axis.CONCURRENCY: (1, 2)})
    monkeypatch.setattr(crossover, "REQUESTS", 1)

    def run(*arguments):
        names = ("--model", str(folders["tiny"]), "--twin", str(folders["twin"]), "--device", "cpu")
        status = main(("bench", "frontier", *names, "--items", "2", "--rounds", "1", *arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_report_stands_alone_and_goes_on_where_it_stopped(command, tmp_path, monkeypatch):
    out = tmp_path / "report"
    arguments = ("--policy", "fixed_steps", "--block-length", "4", "--length", "given", "--quality", "edit_similarity")
    status, said, _ = command(*arguments, "--out", str(out))
    assert status == 0
    report = json.loads((out / "frontier.json").read_text())
    labels = [each["label"] for each in report["points"]]
    assert labels == [
        *(f"fixed_steps {n}, in place" for n in (1, 2, 4, 6, 8)),
        *(f"fixed_steps {n}, blocks of 4" for n in (1, 2)),
        "twin: tiny-ar",
    ]
    assert report["points"][0]["nfe"]["value"] == 1
    assert [each["is_compared"] for each in report["points"]].count(True) == 1
    assert {(each["axis"], each["value"]) for each in report["crossover"]} == {
        ("output", 4),
        ("output", 8),
        ("context", 16),
        ("context", 32),
        ("concurrency", 1),
        ("concurrency", 2),
    }
    assert report["words"] == said.strip().split("\n")
    assert report["command"].startswith("quicksilver bench frontier --model ")
    assert {"cpu", "torch", "commit"} <= set(report["environment"])
    page = (out / "index.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert page.count("data:image/png;base64,") == 2
    for label in labels:
        assert label in page
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")

    def fail(*arguments):
        raise AssertionError("nothing is asked twice")

    monkeypatch.setattr(ColdSubject, "_run", fail)
    monkeypatch.setattr(crossover, "measure", fail)
    assert command(*arguments, "--out", str(out))[0] == 0
    again = json.loads((out / "frontier.json").read_text())
    assert [again[name] for name in ("points", "crossover", "words")] == [
        report[name] for name in ("points", "crossover", "words")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--suite", "hope"), "no suite"),
        (("--suite", "lm"), "measured on holes"),
        (("--length", "long"), "--length is one of"),
        (("--quality", "beauty", "--policy", "confidence_order", "--layout", "in_place"), "no figure 'beauty'"),
        (("--policy", "hope"), "no policy"),
        (("--layout", "sideways"), "no layout"),
        (("--items", "2000"), "1..1033"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(command, tmp_path, arguments, message):
    status, _, err = command(*arguments, "--out", str(tmp_path / "report"))
    assert status == 2
    assert message in err


def test_a_twin_that_is_none_is_refused(command, folders, tmp_path):
    status, _, err = command("--twin", str(folders["tiny"]), "--out", str(tmp_path))
    assert status == 2
    assert "--twin is an autoregressive checkpoint" in err


def test_without_a_twin_there_is_no_comparison(command, tmp_path):
    arguments = ("--twin", "none", "--policy", "confidence_order", "--layout", "in_place", "--length", "given")
    status, _, _ = command(*arguments, "--quality", "edit_similarity", "--out", str(tmp_path))
    assert status == 0
    assert json.loads((tmp_path / "frontier.json").read_text())["crossover"] == []
    assert not (tmp_path / "crossover.png").exists()
