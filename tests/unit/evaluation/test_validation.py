"""References pass and wrong answers fail: of every set a random sample here, all of it by `eval SUITE --validate`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from quicksilver.errors import ConfigError, SandboxError
from quicksilver.evaluation.subject import Answer, Subject
from quicksilver.evaluation.suite import PASS, Control, Mark
from quicksilver.evaluation.suites import execution
from quicksilver.evaluation.suites.execution import Running, make_sandbox
from quicksilver.evaluation.suites.filling import InfillItem
from quicksilver.evaluation.suites.registry import SUITES, Materials
from quicksilver.evaluation.validation import Surprise, as_json, as_table, validate
from quicksilver.sandbox import Limits
from quicksilver.sandbox.cages import Level
from tests.sandboxes import require

NOT_HERE = {"fim-exec", "humaneval-plus"}
"""The first takes longer: tests of its own; the second's data is not in the repository."""
ITEM = InfillItem(item_id="x", prefix="", middle="", suffix="")


@pytest.mark.parametrize(
    "name", [entry.name for entry in SUITES.values() if entry.is_run and entry.name not in NOT_HERE]
)
def test_references_pass_and_wrong_answers_fail(name: str):
    require(Level.BWRAP)
    suite = SUITES[name].build(Materials(count=12, seed=1))
    told = []
    tallies = validate(suite, lambda: told.append(1))
    assert [surprise for tally in tallies for surprise in tally.surprises] == []
    assert {tally.passes for tally in tallies} >= {True, False}
    assert all(tally.num_items == 12 for tally in tallies)
    assert len(told) == 12 * len(tallies)


@dataclass(frozen=True)
class Generous:
    """A suite that passes everything."""

    name: str = "generous"
    headline: str = PASS

    def about(self) -> Mapping[str, object]:
        return {}

    def items(self) -> tuple[InfillItem, ...]:
        return (ITEM,)

    def ask(self, subject: Subject, item: InfillItem, seed: int, temperature: float) -> Answer:
        raise NotImplementedError

    def judge(self, answered: Iterable[tuple[InfillItem, Answer]]) -> Iterator[Mark]:
        return (Mark(values={PASS: 1.0}) for _ in answered)

    def controls(self, item: InfillItem) -> Mapping[str, Control]:
        return {
            "reference": Control(text="a", passes=True),
            "some": Control(text="b", passes=None),
            "wrong": Control(text="c", passes=False),
        }


def test_a_judge_that_passes_everything_is_found_out():
    tallies = validate(Generous())
    assert [(each.control, each.num_passed, each.surprises) for each in tallies] == [
        ("reference", 1, []),
        ("some", 1, []),
        ("wrong", 1, [Surprise(item_id="x", control="wrong", detail="")]),
    ]
    assert as_table(tallies).splitlines() == [
        "| answer    | must | passed | items |",
        "| ---       | ---  | ---    | ---   |",
        "| reference | pass | 1      | 1     |",
        "| some      |      | 1      | 1     |",
        "| wrong     | fail | 1      | 1     |",
        "",
        "Not as they must be:",
        "x, wrong: passed",
    ]
    report = as_json(Generous(), tallies, "quicksilver eval generous --validate")
    assert [each["num_passed"] for each in report["controls"]] == [1, 1, 1]
    assert "Not as" not in as_table(tallies[:2])


def test_a_suite_of_unknown_answers_cannot_be_validated():
    with pytest.raises(ConfigError, match="sudoku"):
        validate(SUITES["sudoku"].build(Materials(count=1)))


def test_validation_takes_all_items_where_a_suite_has_a_default():
    materials = Materials(running=Running.OFF)
    assert len(SUITES["humaneval-multi-line"].build(materials).items()) == 500
    everything = Materials(running=Running.OFF, has_all=True)
    assert len(SUITES["humaneval-multi-line"].build(everything).items()) == 5815


def test_a_sandbox_that_is_not_safe_is_taken_only_when_accepted(monkeypatch):
    made = []

    def refusing(mode: str, limits: Limits, accept_unsafe: bool) -> str:
        made.append(mode)
        if not accept_unsafe:
            raise SandboxError("rlimits only")
        return "unsafe"

    monkeypatch.setattr(execution, "Sandbox", refusing)
    with pytest.raises(SandboxError, match="rlimits only"):
        SUITES["humaneval"].build(Materials(count=1))
    with pytest.raises(ConfigError, match="not run"):
        make_sandbox(Running.OFF, Limits(), accept_unsafe=True)
    with pytest.raises(SandboxError):
        make_sandbox(Running.STRICT, Limits(), accept_unsafe=False)
    assert made == ["fast", "strict"]
