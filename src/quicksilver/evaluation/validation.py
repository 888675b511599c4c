"""Whether a suite judges rightly, shown without a model: references must pass, wrong answers must not.

A judge that accepts everything, or nothing, looks like a good or a bad model otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from quicksilver.errors import ConfigError
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.subject import Answer
from quicksilver.evaluation.suite import PASS, Control, Controlled, Item, Suite
from quicksilver.evaluation.tables import markdown_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Surprise:
    """An answer that was not judged as it must be."""

    item_id: str
    control: str
    detail: str


@dataclass(kw_only=True, slots=True)
class Tally:
    """How the answers of one kind did."""

    control: str
    passes: bool | None
    """As it must be; None: as it comes."""
    num_items: int = 0
    num_passed: int = 0
    surprises: list[Surprise] = field(default_factory=list)

    def add(self, item: Item, *, is_passed: bool, detail: str) -> None:
        """Count one."""
        self.num_items += 1
        self.num_passed += is_passed
        if self.passes is not None and is_passed != self.passes:
            self.surprises.append(Surprise(item_id=item.item_id, control=self.control, detail=detail))


def validate(suite: Suite[Any], on_verdict: Callable[[], None] | None = None) -> list[Tally]:
    """Judge the controls of every item, and call ``on_verdict`` after each.

    Raises:
        ConfigError: the suite has no answers whose mark is known.
    """
    asked = controls_of(suite)
    marks = suite.judge((item, _answer(control)) for item, _, control in asked)
    tallies: dict[str, Tally] = {}
    for (item, name, control), mark in zip(asked, marks, strict=True):
        tally = tallies.setdefault(name, Tally(control=name, passes=control.passes))
        tally.add(item, is_passed=mark.values[PASS] == 1, detail=mark.detail)
        if on_verdict is not None:
            on_verdict()
    return list(tallies.values())


def controls_of(suite: Suite[Any]) -> list[tuple[Item, str, Control]]:
    """Item, name and control of everything that ``validate`` judges."""
    if not isinstance(suite, Controlled):
        raise ConfigError(f"suite {suite.name} has no answers that are known to be right or wrong")
    return [(item, name, control) for item in suite.items() for name, control in suite.controls(item).items()]


def _answer(control: Control) -> Answer:
    return Answer(texts=(control.text,), num_tokens=0, nfe=None, seconds=0.0, finish_reason="stop")


def as_json(suite: Suite[Any], tallies: Sequence[Tally], command: str) -> dict[str, object]:
    """The report of a validation."""
    return {
        "suite": suite.name,
        "about": dict(suite.about()),
        "items": len(suite.items()),
        "command": command,
        "environment": environment(),
        "controls": [asdict(tally) for tally in tallies],
    }


def as_table(tallies: Sequence[Tally]) -> str:
    """A row per control, then every surprise."""
    must = {True: "pass", False: "fail", None: ""}
    rows = [(each.control, must[each.passes], each.num_passed, each.num_items) for each in tallies]
    table = markdown_table(("answer", "must", "passed", "items"), rows)
    surprises = [each for tally in tallies for each in tally.surprises]
    lines = [f"{each.item_id}, {each.control}: {each.detail or 'passed'}" for each in surprises]
    return "\n".join([table, *(["", "Not as they must be:", *lines] if lines else [])])
