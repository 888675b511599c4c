"""What is asked: a suite has items, asks a subject about each, and judges the answers.

Asking and judging are apart, so that answers can be judged many at once in sandboxes, or again without a model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.subject import Answer, Subject


@runtime_checkable
class Item(Protocol):
    """One question with its reference."""

    @property
    def item_id(self) -> str:
        """Unique within the suite."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
AskedT = TypeVar("AskedT", bound=Item, contravariant=True)
PASS = "pass@1"
"""The figure of answers that are run: 1 and 0. With several samples an item, pass@k follows from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """How an answer did."""

    values: Mapping[str, float]
    """By figure: 1 and 0 for yes and no, or a measure. Every figure's mean over items is reported."""
    ratios: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By figure: this item's part of a numerator and of its denominator, which are summed over items."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the item is, by name of a division (``kind``: ``code``): figures are also given within each."""
    detail: str = ""
    """For a person who wants to know why: the last line of an error, say."""


@runtime_checkable
class Suite(Protocol[ItemT]):
    """A set of items and the rule they are judged by."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def headline(self) -> str:
        """The figure that sums the suite up: a name in ``Mark.values`` or ``Mark.ratios``."""
        ...

    def about(self) -> Mapping[str, object]:
        """Everything that decides items and marks: data hashes, seeds, sandbox level; JSON-ready."""
        ...

    def items(self) -> Sequence[ItemT]:
        """In the order they are asked."""
        ...

    def ask(self, subject: Subject, item: ItemT, seed: int, temperature: float) -> Answer:
        """One question."""
        ...

    def judge(self, answered: Iterable[tuple[ItemT, Answer]]) -> Iterator[Mark]:
        """A mark for each, in order and as soon as it is known; may work on several at once."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """An answer whose mark is known before."""

    text: str
    passes: bool | None
    """None: counted only, since some items rightly pass."""


@runtime_checkable
class Controlled(Protocol[AskedT]):
    """A suite whose verdicts can be checked without a model."""

    def controls(self, item: AskedT) -> Mapping[str, Control]:
        """By name: the reference, which must pass, and answers that must not."""
        ...


@runtime_checkable
class SumsUp(Protocol):
    """A suite with figures that are neither means nor ratios over items."""

    def sum_up(self, answered: Sequence[tuple[Item, Answer]]) -> Mapping[str, Interval]:
        """Those figures, beside all others."""
        ...
