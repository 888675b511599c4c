"""Suites of one hole between two texts: what they share, whatever hole it is.

Exact match compares with the reference after trailing white space alone is stripped from both. Parse and compile rate
are of the whole completed file. Nothing is executed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from quicksilver.errors import ConfigError
from quicksilver.evaluation.likeness import edit_similarity, repetition
from quicksilver.evaluation.subject import Answer, Ask, Subject
from quicksilver.evaluation.suite import Mark
from quicksilver.evaluation.syntax import compiles, parse

LINE_END = "\n"


class Length(StrEnum):
    """Whether a subject is told how long a hole is; one-line: no, but its text ends at the first line end."""

    UNKNOWN = "unknown"
    ONE_LINE = "one-line"
    GIVEN = "given"


@dataclass(frozen=True, kw_only=True, slots=True)
class InfillItem:
    """One hole. ``prefix + middle + suffix`` is the original file."""

    item_id: str
    prefix: str
    middle: str
    """The reference; of whole lines, line end included where the file has one."""
    suffix: str
    kind: str = "code"
    """Figures are also given by kind."""
    max_tokens: int | None = None
    """Most tokens of its answer, where its length is unknown; None: the suite's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FillSuite:
    """Holes, and how they are asked for.

    Asked for one line, a subject is given the line's end as a stop, as a client that wants one line does it. The line
    end is added to the text again, and counts as no token.
    """

    name: str
    holes: tuple[InfillItem, ...]
    length: Length = Length.UNKNOWN
    has_whole_lines: bool
    """Whether every hole is one line."""
    max_tokens: int | None = None
    """Most tokens of a hole of unknown length; None: the subject's own limit."""
    source: Mapping[str, object] = field(default_factory=dict)
    """Where the holes come from: hashes, seed."""

    def __post_init__(self) -> None:
        if self.length is Length.ONE_LINE and not self.has_whole_lines:
            raise ConfigError(f"suite {self.name} has holes that are no single lines: length is unknown or given")

    @property
    def headline(self) -> str:
        return "exact_match"

    def about(self) -> Mapping[str, object]:
        return {"suite": self.name, "length": self.length.value, "max_tokens": self.max_tokens, **self.source}

    def items(self) -> tuple[InfillItem, ...]:
        return self.holes

    def ask(self, subject: Subject, item: InfillItem, seed: int, temperature: float) -> Answer:
        is_one_line = self.length is Length.ONE_LINE
        count = subject.count_tokens(item.middle.removesuffix(LINE_END) if is_one_line else item.middle)
        reference_tokens = None if count is None else max(count, 1)
        if self.length is Length.GIVEN and reference_tokens is None:
            raise ConfigError(f"{subject.name} does not count tokens, so it cannot be told a hole's length")
        ask = Ask(
            seed=seed,
            max_tokens=item.max_tokens or self.max_tokens,
            temperature=temperature,
            stop=(LINE_END,) if is_one_line else (),
            hole_length=reference_tokens if self.length is Length.GIVEN else None,
        )
        answer = replace(subject.fill((item.prefix, item.suffix), ask), reference_tokens=reference_tokens)
        if is_one_line and answer.finish_reason == "stop":
            return replace(answer, texts=(answer.texts[0] + LINE_END,))
        return answer

    def judge(self, answered: Iterable[tuple[InfillItem, Answer]]) -> Iterator[Mark]:
        for item, answer in answered:
            mark = judge_hole(item, answer)
            # One line has little room to repeat itself.
            more = {} if self.has_whole_lines else repetition(answer.texts[0])
            yield replace(mark, values={**mark.values, **more})


def judge_hole(item: InfillItem, answer: Answer) -> Mark:
    """Compare a filling with its reference."""
    (text,) = answer.texts
    tree = parse(item.prefix + text + item.suffix)
    values = {
        "exact_match": float(text.rstrip() == item.middle.rstrip()),
        "edit_similarity": edit_similarity(text, item.middle),
        "parse_rate": float(tree is not None),
        "compile_rate": float(tree is not None and compiles(tree)),
    }
    if answer.reference_tokens is not None:
        # Negative means too short.
        error = float(answer.num_tokens - answer.reference_tokens)
        values |= {"length_error": error, "absolute_length_error": abs(error)}
    return Mark(values=values, labels={"kind": item.kind})
