"""Running a suite: ask every item, judge the answers, keep both as they come, sum up with intervals.

Every figure is a ratio of two sums over items: a mean has as many items as its denominator. Samples of one item are
averaged, or summed in ratios, before: intervals are over items.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_difference, bootstrap_ratio
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.subject import Answer, Subject
from quicksilver.evaluation.suite import PASS, Item, Mark, Suite

JUDGED_TOGETHER = 16
"""Answers that are judged at once: what an interruption can lose."""
PASS_AT = (2, 5, 10, 20, 50, 100, 200)
"""k of the pass@k that are reported, as far as there are samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One answer and its mark."""

    item_id: str
    sample: int
    """From 0: with several samples an item, which one."""
    answer: Answer
    mark: Mark


@dataclass(kw_only=True, slots=True)
class Side:
    """One of several subjects that are asked the same."""

    subject: Subject
    log: ResultLog | None = None
    """Where records are kept as they come; what it holds already is not asked again."""
    on_record: Callable[[Record], None] | None = None
    """Called with every record, old ones included."""
    records: list[Record] = field(default_factory=list)
    """In the order of items and samples, once all are judged."""

    def seen(self) -> dict[tuple[str, int], Record]:
        """The records of the log."""
        found = () if self.log is None else map(_read, self.log.read())
        return {(each.item_id, each.sample): each for each in found}

    def take(self, record: Record, *, is_new: bool) -> None:
        """Keep a record and tell of it."""
        if is_new and self.log is not None:
            self.log.append(asdict(record))
        if self.on_record is not None:
            self.on_record(record)
        self.records.append(record)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How often and how each item is asked."""

    num_samples: int = 1
    """Answers per item, of seeds ``seed``, ``seed + 1`` and so on."""
    seed: int = 0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ConfigError(f"the number of samples must be at least 1, got {self.num_samples}")
        if self.num_samples > 1 and self.temperature == 0:
            raise ConfigError(f"{self.num_samples} samples at temperature 0 are one answer {self.num_samples} times")


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
    """Ask one subject and judge its answers; see ``compare``, ``Sampling`` and ``Side``."""
    side = Side(subject=subject, log=log, on_record=on_record)
    compare(suite, [side], items, Sampling(num_samples=num_samples, seed=seed, temperature=temperature))
    return side.records


def compare(suite: Suite[Any], sides: Sequence[Side], items: Sequence[Item], sampling: Sampling) -> None:
    """Ask every subject the same, one after the other at each item, and judge.

    Who is first changes from item to item, so that a busy moment of the machine does not fall on one of them.

    Args:
        suite: the rule.
        sides: who is asked; their ``records`` are filled.
        items: of the suite, all or a sample.
        sampling: how often and how.
    """
    waiting: list[list[_Asked]] = [[] for _ in sides]
    seen = [side.seen() for side in sides]
    for number, item in enumerate(items):
        for turn in range(len(sides)):
            index = (turn + number) % len(sides)
            for sample in range(sampling.num_samples):
                old = seen[index].get((item.item_id, sample))
                if old is not None:
                    waiting[index] = _judge(suite, sides[index], waiting[index])
                    sides[index].take(old, is_new=False)
                    continue
                answer = suite.ask(sides[index].subject, item, sampling.seed + sample, sampling.temperature)
                waiting[index].append((item, sample, answer))
                if len(waiting[index]) == JUDGED_TOGETHER:
                    waiting[index] = _judge(suite, sides[index], waiting[index])
    for side, asked in zip(sides, waiting, strict=True):
        _judge(suite, side, asked)


_Asked = tuple[Item, int, Answer]


def _judge(suite: Suite[Any], side: Side, asked: Sequence[_Asked]) -> list[_Asked]:
    """Nothing is left waiting."""
    for record in _judged(suite, asked):
        side.take(record, is_new=True)
    return []


def _judged(suite: Suite[Any], asked: Sequence[_Asked]) -> Iterator[Record]:
    marks = suite.judge((item, answer) for item, _, answer in asked)
    for (item, sample, answer), mark in zip(asked, marks, strict=True):
        yield Record(item_id=item.item_id, sample=sample, answer=answer, mark=mark)


def _read(values: Mapping[str, Any]) -> Record:
    answer, mark = values["answer"], values["mark"]
    nats = {name: tuple(draws) for name, draws in answer["nats"].items()}
    ratios = {name: tuple(pair) for name, pair in mark["ratios"].items()}
    return Record(
        item_id=values["item_id"],
        sample=values["sample"],
        answer=Answer(**(answer | {"texts": tuple(answer["texts"]), "nats": nats})),
        mark=Mark(**(mark | {"ratios": ratios})),
    )


_Pair = tuple[float, float]
_Sums = dict[str, dict[str, _Pair]]
"""By figure and item: numerator and denominator."""


def figures(records: Sequence[Record]) -> dict[str, Interval]:
    """Every figure of the marks, within divisions too (``exact_match/kind=code``), and what the answers took.

    Raises:
        ConfigError: there is no record.
    """
    found = {}
    for name, by_item in _sums(records).items():
        numerators, denominators = _arrays(by_item.values())
        if denominators.sum() > 0:
            found[name] = bootstrap_ratio(numerators, denominators)
    return found


def paired(records: Sequence[Record], first: Sequence[Record]) -> dict[str, Interval]:
    """Every figure less that of ``first``, with the interval of the difference: items are resampled for both together.

    Items that only one of them has are left out.

    Raises:
        ConfigError: there is no record.
    """
    mine, theirs = _sums(records), _sums(first)
    found = {}
    for name in mine.keys() & theirs.keys():
        shared = [item for item in mine[name] if item in theirs[name]]
        sides = [_arrays(side[name][item] for item in shared) for side in (mine, theirs)]
        if all(denominators.sum() > 0 for _, denominators in sides):
            found[name] = bootstrap_difference(*sides[0], *sides[1])
    return {name: found[name] for name in mine if name in found}


def _arrays(pairs: Iterable[_Pair]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(list(pairs), dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _sums(records: Sequence[Record]) -> _Sums:
    if not records:
        raise ConfigError("there are no records to sum up")
    found = _marked(records)
    labels = sorted({(name, label) for each in records for name, label in each.mark.labels.items()})
    parts = Counter(name for name, _ in labels)
    for name, label in labels:
        if parts[name] > 1:  # else the part is the whole
            within = [each for each in records if each.mark.labels.get(name) == label]
            found |= {f"{figure}/{name}={label}": sums for figure, sums in _marked(within).items()}
    return found | _costs(records)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Probability that of ``k`` of the samples at least one passes: the unbiased estimate of Chen et al. 2021.

    arXiv:2107.03374, equation 1. ``k`` is at most ``num_samples``.
    """
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def _marked(records: Sequence[Record]) -> _Sums:
    means = _collected(records, lambda each: each.mark.values)
    ratios = _collected(records, lambda each: each.mark.ratios)
    return (
        {
            name: {item: (float(np.mean(values)), 1.0) for item, values in by_item.items()}
            for name, by_item in means.items()
        }
        | _several_passes(means.get(PASS, {}))
        | {name: {item: _summed(pairs) for item, pairs in by_item.items()} for name, by_item in ratios.items()}
    )


def _several_passes(by_item: Mapping[str, Sequence[float]]) -> _Sums:
    fewest = min(map(len, by_item.values()), default=0)
    return {
        f"pass@{k}": {item: (pass_at_k(len(values), round(sum(values)), k), 1.0) for item, values in by_item.items()}
        for k in PASS_AT
        if k <= fewest
    }


def _collected(records: Sequence[Record], read: Callable[[Record], Mapping]) -> dict[str, dict[str, list]]:
    """What samples say, by figure and item."""
    found: dict[str, dict[str, list]] = {}
    for each in records:
        for name, value in read(each).items():
            found.setdefault(name, {}).setdefault(each.item_id, []).append(value)
    return found


def _costs(records: Sequence[Record]) -> _Sums:
    measures: dict[str, Callable[[Answer], float]] = {"seconds": lambda answer: answer.seconds}
    if all(each.answer.nfe is not None for each in records):
        measures["nfe"] = lambda answer: float(answer.nfe or 0)
    found: _Sums = {}
    has_text = any(each.answer.num_tokens for each in records)
    for measure, per_token in (("seconds", "tokens_per_s"), ("nfe", "tpf")):
        if measure not in measures:
            continue
        read = measures[measure]
        pairs = _collected(records, lambda each, r=read: {"": (float(each.answer.num_tokens), r(each.answer))})[""]
        found[measure] = {item: (float(np.mean([cost for _, cost in each])), 1.0) for item, each in pairs.items()}
        if has_text:
            found[per_token] = {item: _summed(each) for item, each in pairs.items()}
    return found


def _summed(pairs: Iterable[_Pair]) -> _Pair:
    numerators, denominators = zip(*pairs, strict=True)
    return float(sum(numerators)), float(sum(denominators))
