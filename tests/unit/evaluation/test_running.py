import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import bootstrap_difference, bootstrap_mean, bootstrap_ratio
from quicksilver.evaluation.report import as_json, as_table, columns
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.running import Record, Sampling, Side, compare, figures, paired, pass_at_k, run
from quicksilver.evaluation.subject import Answer
from quicksilver.evaluation.suite import PASS, Mark
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem
from tests.fake_subjects import FakeSubject

HOLES = tuple(
    InfillItem(item_id=str(number), prefix=f"x = {number}\n", middle=f"y = {number}\n", suffix="")
    for number in range(20)
)
SUITE = FillSuite(name="some", holes=HOLES, has_whole_lines=True)


def right(texts: tuple[str, ...]) -> str:
    return texts[0].replace("x", "y")


def right_if_even(texts: tuple[str, ...]) -> str:
    return right(texts) if int(texts[0].split()[-1]) % 2 == 0 else "no\n"


def record(item_id: str, mark: Mark, *, sample: int = 0, num_tokens: int = 4, nfe: int | None = 2) -> Record:
    answer = Answer(texts=("",), num_tokens=num_tokens, nfe=nfe, seconds=0.5, finish_reason="stop")
    return Record(item_id=item_id, sample=sample, answer=answer, mark=mark)


def test_figures_are_of_sums_and_samples_of_an_item_count_once():
    half = Mark(values={"good": 1.0}, ratios={"share": (1.0, 4.0)}, labels={"kind": "a"})
    records = [
        record("1", half),
        record("1", Mark(values={"good": 0.0}, ratios={"share": (2.0, 2.0)}, labels={"kind": "a"}), sample=1),
        record("2", Mark(values={"good": 1.0}, labels={"kind": "b"}), num_tokens=9, nfe=5),
    ]
    found = figures(records)
    assert found["good"].value == pytest.approx(0.75)
    assert found["share"].value == pytest.approx(0.5)
    assert found["good/kind=a"].value == pytest.approx(0.5)
    assert found["good/kind=b"].value == 1.0
    assert found["tpf"].value == pytest.approx(17 / 9)
    assert found["tokens_per_s"].value == pytest.approx(17 / 1.5)
    assert found["nfe"].value == pytest.approx(3.5)
    assert found["good"] == bootstrap_mean(np.array([0.5, 1.0]))


@pytest.mark.parametrize(("num_samples", "num_passed"), [(4, 0), (4, 1), (5, 3), (5, 5)])
def test_pass_at_k_is_the_share_of_all_draws_with_one_that_passes(num_samples, num_passed):
    outcomes = [True] * num_passed + [False] * (num_samples - num_passed)
    for k in range(1, num_samples + 1):
        draws = [any(draw) for draw in combinations(outcomes, k)]
        assert pass_at_k(num_samples, num_passed, k) == pytest.approx(sum(draws) / len(draws))


def test_with_several_samples_pass_at_k_is_a_figure_too():
    passed = {"1": (1.0, 0.0, 0.0), "2": (0.0, 0.0, 0.0), "3": (1.0, 1.0, 0.0)}
    records = [
        record(item, Mark(values={PASS: value}, labels={"kind": "a" if item == "1" else "b"}), sample=sample)
        for item, values in passed.items()
        for sample, value in enumerate(values)
    ]
    found = figures(records)
    assert found[PASS].value == pytest.approx(1 / 3)
    assert found["pass@2"].value == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found["pass@2/kind=a"].value == pytest.approx(2 / 3)
    assert "pass@5" not in found
    assert paired(records, records)["pass@2"].value == 0


def test_what_nobody_counted_is_no_figure():
    found = figures([record("1", Mark(values={"good": 1.0}, labels={"kind": "a"}), nfe=None)])
    assert set(found) == {"good", "seconds", "tokens_per_s"}
    with pytest.raises(ConfigError, match="no records"):
        figures([])


def test_subjects_take_turns_and_the_first_changes():
    order = []

    def told(name):
        return FakeSubject(lambda texts: order.append(name) or "", name=name)

    compare(SUITE, [Side(subject=told("a")), Side(subject=told("b"))], HOLES[:4], Sampling())
    assert "".join(order) == "abbaabba"


def test_the_difference_is_paired():
    sides = [Side(subject=FakeSubject(right)), Side(subject=FakeSubject(right_if_even, name="other"))]
    compare(SUITE, sides, HOLES, Sampling())
    first, other = (side.records for side in sides)
    more = paired(other, first)
    assert more["exact_match"].value == pytest.approx(-0.5)
    both = [np.array([each.mark.values["exact_match"] for each in side]) for side in (other, first)]
    expected = bootstrap_mean(both[0] - both[1])
    assert (more["exact_match"].low, more["exact_match"].high) == pytest.approx((expected.low, expected.high))
    assert paired(first, first)["exact_match"].low == paired(first, first)["exact_match"].high == 0
    report = as_json(SUITE, columns(SUITE, sides), Sampling(), "quicksilver eval some")
    assert report["figures"]["exact_match"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert report["others"][0]["paired"]["exact_match"]["value"] == pytest.approx(-0.5)
    assert (report["items"], report["samples"], report["sandbox"]) == (20, 1, None)
    json.dumps(report)
    lines = as_table(columns(SUITE, sides)).splitlines()
    assert lines[0].split() == ["|", "figure", "|", "fake", "|", "other", "|", "other", "-", "fake", "|"]
    assert lines[2].startswith("| exact_match ")


def test_a_difference_of_ratios_resamples_the_same_items():
    ones, rng = np.ones(50), np.random.default_rng(0)
    values = rng.random(50)
    moved = bootstrap_difference(values + 0.25, ones, values, ones)
    assert (moved.value, moved.low, moved.high) == pytest.approx((0.25, 0.25, 0.25))
    apart = bootstrap_ratio(values, ones)
    assert apart.high - apart.low > 0.05
    with pytest.raises(ConfigError, match="at least one item"):
        bootstrap_difference(values, ones, values, np.zeros(50))


def test_a_run_goes_on_where_it_stopped(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(SUITE, FakeSubject(right, patience=17), HOLES, log=ResultLog(path, {"suite": "s"}))
    with path.open("a") as file:
        file.write('{"item_id": "17", "te')  # a kill in the middle of a line
    subject, seen = FakeSubject(right), []
    records = run(
        SUITE, subject, HOLES, log=ResultLog(path, {"suite": "s"}), on_record=lambda r: seen.append(r.item_id)
    )
    assert len(subject.asked) == 4  # what was asked but not judged is lost
    assert seen == [item.item_id for item in HOLES]
    assert records == run(SUITE, FakeSubject(right), HOLES)
    assert len(path.read_text().splitlines()) == 21


def test_samples_have_seeds_of_their_own():
    subject = FakeSubject(right)
    records = run(SUITE, subject, HOLES[:2], num_samples=3, seed=7, temperature=0.5)
    assert [ask.seed for _, ask in subject.asked] == [7, 8, 9] * 2
    assert [each.sample for each in records] == [0, 1, 2] * 2


@pytest.mark.parametrize(("count", "words"), [(0, "at least 1"), (2, "temperature 0")])
def test_samples_that_make_no_sense_are_refused(count: int, words: str):
    with pytest.raises(ConfigError, match=words):
        run(SUITE, FakeSubject(right), HOLES, num_samples=count)


def test_results_of_another_run_are_not_mixed_in(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    ResultLog(path, {"suite": "s", "seed": 0})
    with pytest.raises(ConfigError, match="another run"):
        ResultLog(path, {"suite": "s", "seed": 1})


def test_a_damaged_log_is_a_clear_error(tmp_path: Path):
    path = tmp_path / "items.jsonl"
    log = ResultLog(path, {})
    with path.open("a") as file:
        file.write("half a li\n")
    with pytest.raises(ConfigError, match="damaged"):
        log.read()
