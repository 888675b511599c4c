"""Running a suite: ask every item, judge the answers, keep both as they come, sum up with intervals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_mean, bootstrap_ratio
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.subject import Answer, Subject
from quicksilver.evaluation.suite import Item, Mark, Suite

JUDGED_TOGETHER = 16
"""Answers that are judged at once: what an interruption can lose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One answer and its mark."""

    item_id: str
    sample: int
    """From 0: with several samples an item, which one."""
    answer: Answer
    mark: Mark


def run(
    suite: Suite[Any],
    subject: Subject,
    items: Sequence[Item],
    *,
    num_samples: int = 1,
    seed: int = 0,
    temperature: float = 0.0,
    log: ResultLog | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Ask and judge; what ``log`` holds already is not asked again.

    Args:
        suite: the rule.
        subject: who is asked.
        items: of the suite, all or a sample.
        num_samples: answers per item, of seeds ``seed``, ``seed + 1`` and so on.
        seed: of the first sample.
        temperature: of all; several samples at 0 would be one answer several times.
        log: where records are kept as they come.
        on_record: called with every record, old ones included.

    Raises:
        ConfigError: several samples are asked for without temperature.
    """
    if num_samples > 1 and temperature == 0:
        raise ConfigError(f"{num_samples} samples at temperature 0 are one answer {num_samples} times")
    done = {} if log is None else {(each.item_id, each.sample): each for each in map(_read, log.read())}
    records, waiting = [], []
    for item in items:
        for sample in range(num_samples):
            old = done.get((item.item_id, sample))
            if old is not None:
                records.append(old)
                if on_record is not None:
                    on_record(old)
                continue
            waiting.append((item, sample, suite.ask(subject, item, seed + sample, temperature)))
            if len(waiting) == JUDGED_TOGETHER:
                records += _judge(suite, waiting, log, on_record)
                waiting = []
    return [*records, *_judge(suite, waiting, log, on_record)]


def _judge(
    suite: Suite[Any],
    waiting: Sequence[tuple[Item, int, Answer]],
    log: ResultLog | None,
    on_record: Callable[[Record], None] | None,
) -> Iterator[Record]:
    marks = suite.judge((item, answer) for item, _, answer in waiting)
    for (item, sample, answer), mark in zip(waiting, marks, strict=True):
        record = Record(item_id=item.item_id, sample=sample, answer=answer, mark=mark)
        if log is not None:
            log.append(asdict(record))
        if on_record is not None:
            on_record(record)
        yield record


def _read(values: Mapping[str, Any]) -> Record:
    answer = Answer(**(values["answer"] | {"texts": tuple(values["answer"]["texts"])}))
    return Record(item_id=values["item_id"], sample=values["sample"], answer=answer, mark=Mark(**values["mark"]))


def figures(records: Sequence[Record]) -> dict[str, Interval]:
    """Every figure of the marks, within divisions too (``exact_match/kind=code``), and what the answers took.

    Samples of one item are averaged first: intervals are over items. Ratios are of sums.

    Raises:
        ConfigError: there is no record.
    """
    if not records:
        raise ConfigError("there are no records to sum up")
    found = _means(records)
    divisions = sorted({(name, label) for each in records for name, label in each.mark.labels.items()})
    for name, label in divisions:
        within = [each for each in records if each.mark.labels.get(name) == label]
        found |= {f"{figure}/{name}={label}": interval for figure, interval in _means(within).items()}
    return found | _costs(records)


def _means(records: Sequence[Record]) -> dict[str, Interval]:
    names = dict.fromkeys(name for each in records for name in each.mark.values)
    found = {}
    for name in names:
        by_item: dict[str, list[float]] = {}
        for each in records:
            if name in each.mark.values:
                by_item.setdefault(each.item_id, []).append(each.mark.values[name])
        found[name] = bootstrap_mean(np.array([float(np.mean(values)) for values in by_item.values()]))
    return found


def _costs(records: Sequence[Record]) -> dict[str, Interval]:
    tokens, seconds = (
        np.array([getattr(each.answer, name) for each in records], dtype=np.float64)
        for name in ("num_tokens", "seconds")
    )
    found = {"seconds": bootstrap_mean(seconds), "tokens_per_s": bootstrap_ratio(tokens, seconds)}
    forwards = [each.answer.nfe for each in records]
    if None not in forwards:
        nfe = np.array(forwards, dtype=np.float64)
        found |= {"nfe": bootstrap_mean(nfe), "tpf": bootstrap_ratio(tokens, nfe)}
    return found
