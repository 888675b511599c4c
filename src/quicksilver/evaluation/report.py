"""What a run of a suite leaves: a report for programs and a table for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.running import Record, Sampling, Side, figures, paired
from quicksilver.evaluation.suite import Item, Suite, SumsUp
from quicksilver.evaluation.tables import markdown_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One subject's figures."""

    label: str
    """Of the subject, unlike those of the others."""
    about: Mapping[str, object]
    figures: Mapping[str, Interval]
    paired: Mapping[str, Interval]
    """Less the first subject's; empty for the first."""


def columns(suite: Suite[Any], sides: Sequence[Side]) -> list[Column]:
    """The figures of every subject."""
    by_id = {item.item_id: item for item in suite.items()}
    found = []
    for number, side in enumerate(sides):
        further = _further(suite, by_id, side.records)
        found.append(
            Column(
                label=_label(sides, number),
                about=side.subject.about(),
                figures=_headline_first(suite, figures(side.records)) | further,
                paired=_headline_first(suite, paired(side.records, sides[0].records)) if number else {},
            )
        )
    return found


def _further(suite: Suite[Any], by_id: Mapping[str, Item], records: Sequence[Record]) -> dict[str, Interval]:
    if not isinstance(suite, SumsUp):
        return {}
    return dict(suite.sum_up([(by_id[record.item_id], record.answer) for record in records]))


def _headline_first(suite: Suite[Any], found: Mapping[str, Interval]) -> dict[str, Interval]:
    return dict(sorted(found.items(), key=lambda pair: pair[0] != suite.headline))


def _label(sides: Sequence[Side], number: int) -> str:
    names = [side.subject.name for side in sides]
    return names[number] if names.count(names[number]) == 1 else f"{names[number]} ({number + 1})"


def as_json(suite: Suite[Any], found: Sequence[Column], sampling: Sampling, command: str) -> dict[str, object]:
    """The report; ``subject`` and ``figures`` are the first subject's, ``others`` holds those of all others.

    Args:
        suite: that was run.
        found: the figures.
        sampling: how often and how each item was asked.
        command: that gives the report again.
    """
    first, *others = found
    about = suite.about()
    report: dict[str, object] = {
        "suite": suite.name,
        "about": dict(about),
        "subject": dict(first.about),
        "items": len(suite.items()),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "samples": sampling.num_samples,
        "command": command,
        "environment": environment(),
        "sandbox": about.get("sandbox"),
        "figures": _plain(first.figures),
    }
    if others:
        report["others"] = [
            {"subject": dict(each.about), "figures": _plain(each.figures), "paired": _plain(each.paired)}
            for each in others
        ]
    return report


def _plain(found: Mapping[str, Interval]) -> dict[str, object]:
    return {name: asdict(interval) for name, interval in found.items()}


def as_table(found: Sequence[Column]) -> str:
    """A row per figure, a column per subject, and one for each difference to the first."""
    first, *others = found
    header = ["figure", *(column.label for column in found), *(f"{each.label} - {first.label}" for each in others)]
    names = dict.fromkeys(name for column in found for name in column.figures)
    rows = [
        [
            name,
            *(_cell(column.figures.get(name)) for column in found),
            *(_cell(each.paired.get(name)) for each in others),
        ]
        for name in names
    ]
    return markdown_table(header, rows)


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.value:.3f}" if interval.low == interval.high == interval.value else str(interval)
