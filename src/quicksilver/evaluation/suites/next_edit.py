"""Next edits: what a person began, carried on where it belongs and nowhere else.

An item is a file of a held-out package in which a name was changed where it is defined, or a parameter was added to a
function and to its first call; the diff of that is the history. Asked are regions of up to five lines: those around the
places that must follow, and as many in which nothing should change.

* ``exact_match``: places whose line is as it should be, over all places that must change.
* ``over_edit_rate``: regions in which something else changed too, over regions that must change.
* ``no_op_precision``: regions left as they are, over those that should be.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from quicksilver.coding.next_edit import NextEdit, render
from quicksilver.errors import ConfigError
from quicksilver.evaluation.code_edits import Change, apply_insertions, new_arguments, renamed, renames
from quicksilver.evaluation.documents import Corpus, SourceFile
from quicksilver.evaluation.subject import Answer, Ask, Editor, Subject
from quicksilver.evaluation.suite import Mark
from quicksilver.evaluation.syntax import parse

DEFAULT_COUNT = 200
REGION_LINES = 5
MOST_REGIONS = 3
"""Of each kind, per item."""
_CONTEXT_LINES = 3
"""Of the diff."""
_ASSIGNED = re.compile(r"^ *([a-z][a-z_]{3,}) = ", re.MULTILINE)
"""Where new names come from."""
_NAME_DRAWS = 20
"""Until there is one that the file does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """Some lines of the file, from ``start`` on, and what they should become."""

    start: int
    now: tuple[str, ...]
    wanted: tuple[str, ...]

    @property
    def num_sites(self) -> int:
        return sum(now != wanted for now, wanted in zip(self.now, self.wanted, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class EditItem:
    """An edit that was begun."""

    item_id: str
    kind: str
    """``rename`` or ``signature``."""
    path: str
    lines: tuple[str, ...]
    """Of the file, the first places changed."""
    history: str
    regions: tuple[Region, ...]

    def prompt(self, region: Region) -> str:
        """As clients of the route write it."""
        end = region.start + len(region.now)
        before, now, after = (
            "".join(line + "\n" for line in part) for part in (self.lines[: region.start], region.now, self.lines[end:])
        )
        return render(
            NextEdit(path=self.path, before=before, region=now, after=after, cursor=None, history=self.history)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NextEditSuite:
    """The suite ``next-edit``."""

    edits: tuple[EditItem, ...]
    source: Mapping[str, object]
    name: str = "next-edit"
    headline: str = "exact_match"

    def about(self) -> Mapping[str, object]:
        return {"suite": self.name, "region_lines": REGION_LINES, **self.source}

    def items(self) -> tuple[EditItem, ...]:
        return self.edits

    def ask(self, subject: Subject, item: EditItem, seed: int, temperature: float) -> Answer:
        """Every region is asked by itself, of the same file: what an earlier answer said is not taken over."""
        if not isinstance(subject, Editor):
            raise ConfigError(f"{subject.name} has no route for next edits")
        ask = Ask(seed=seed, temperature=temperature)
        answers = [subject.edit(item.prompt(region), ask) for region in item.regions]
        forwards = [answer.nfe for answer in answers if answer.nfe is not None]
        return Answer(
            texts=tuple(answer.texts[0] for answer in answers),
            num_tokens=sum(answer.num_tokens for answer in answers),
            nfe=sum(forwards) if len(forwards) == len(answers) else None,
            seconds=sum(answer.seconds for answer in answers),
            finish_reason=answers[-1].finish_reason,
        )

    def judge(self, answered: Iterable[tuple[EditItem, Answer]]) -> Iterator[Mark]:
        for item, answer in answered:
            yield _mark(item, answer)


def _mark(item: EditItem, answer: Answer) -> Mark:
    num_sites = num_right = num_kept = num_over = num_changing = num_still = num_unchanged = 0
    for region, text in zip(item.regions, answer.texts, strict=True):
        lines = tuple(text.split("\n"))
        if len(lines) == len(region.now) + 1 and not lines[-1]:
            lines = lines[:-1]  # a line end behind the last line
        is_aligned = len(lines) == len(region.now)
        if region.num_sites == 0:
            num_still += 1
            num_unchanged += lines == region.now
            continue
        triples = list(zip(region.now, region.wanted, lines, strict=True)) if is_aligned else []
        num_changing += 1
        num_sites += region.num_sites
        num_right += sum(line == wanted for now, wanted, line in triples if now != wanted)
        num_kept += sum(line == now for now, wanted, line in triples if now != wanted)
        num_over += not is_aligned or any(line != now for now, wanted, line in triples if now == wanted)
    return Mark(
        values={},
        ratios={
            "exact_match": (float(num_right), float(num_sites)),
            "missed_rate": (float(num_kept), float(num_sites)),
            "over_edit_rate": (float(num_over), float(num_changing)),
            "no_op_precision": (float(num_unchanged), float(num_still)),
        },
        labels={"kind": item.kind},
    )


def next_edits(corpus: Corpus, *, count: int | None, seed: int) -> NextEditSuite:
    """The suite ``next-edit``: renames and new arguments by turns, as long as there are both.

    Args:
        corpus: the split whose files are edited.
        count: edits; None: 200.
        seed: of which edits, new names and regions.

    Raises:
        ConfigError: the files have not so many places for an edit.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    wanted = count or DEFAULT_COUNT
    sources = [source for source in corpus.sources() if "\r" not in source.text and "\f" not in source.text]
    found = list(islice(_by_turns(_renames(sources, rng), _signatures(sources, rng)), wanted))
    if len(found) < wanted:
        raise ConfigError(f"the held-out files have places for {len(found)} edits, not for {wanted}")
    return NextEditSuite(edits=tuple(found), source={**corpus.identity, "items_seed": seed})


def _by_turns(*sides: Iterator[EditItem]) -> Iterator[EditItem]:
    left = list(sides)
    while left:
        for side in list(left):
            item = next(side, None)
            if item is None:
                left.remove(side)
            else:
                yield item


def _shuffled(sources: Sequence[SourceFile], rng: np.random.Generator) -> Iterator[SourceFile]:
    for index in rng.permutation(len(sources)):
        yield sources[index]


def _renames(sources: Sequence[SourceFile], rng: np.random.Generator) -> Iterator[EditItem]:
    """One per file and round, so that no file has most of them."""
    names = sorted({name for source in sources for name in _ASSIGNED.findall(source.text)})
    waiting: dict[str, list[tuple[str, Change]]] = {}
    while any(waiting.get(source.name) != [] for source in sources):
        for source in _shuffled(sources, rng):
            if source.name not in waiting:
                waiting[source.name] = list(renames(source.text))
            places = waiting[source.name]
            if not places:
                continue
            old, change = places.pop(int(rng.integers(len(places))))
            drawn = [names[index] for index in rng.integers(len(names), size=_NAME_DRAWS).tolist()]
            new = next((name for name in drawn if name not in source.text), None)
            item = None if new is None else _item(source, "rename", old, renamed(change, new), rng)
            if item is not None:
                yield item


def _signatures(sources: Sequence[SourceFile], rng: np.random.Generator) -> Iterator[EditItem]:
    for source in _shuffled(sources, rng):
        for number, change in enumerate(new_arguments(source.text, rng)):
            item = _item(source, "signature", str(number), change, rng)
            if item is not None:
                yield item


def _item(source: SourceFile, kind: str, what: str, change: Change, rng: np.random.Generator) -> EditItem | None:
    """None where the file would not parse, or no region is left to ask about."""
    old = source.text.split("\n")
    now, wanted = apply_insertions(old, change.first), apply_insertions(old, change.insertions)
    if parse("\n".join(wanted)) is None:
        return None
    # Each line of a text that ends with a line end has one; what follows the last is no line.
    now, wanted, old = ([*part[:-1]] if not old[-1] else part for part in (now, wanted, old))
    regions = _regions(now, wanted, rng)
    if not regions:
        return None
    place = change.insertions[0]
    return EditItem(
        item_id=f"{source.name}:{kind}:{place.line + 1}:{place.column + 1}:{what}",
        kind=kind,
        path=source.name.split("/", 1)[-1],
        lines=tuple(now),
        history=_diff(source.name.split("/", 1)[-1], old, now),
        regions=regions,
    )


def _diff(path: str, old: Sequence[str], new: Sequence[str]) -> str:
    lines = difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", n=_CONTEXT_LINES, lineterm="")
    return "".join(line + "\n" for line in lines)


def _regions(now: Sequence[str], wanted: Sequence[str], rng: np.random.Generator) -> tuple[Region, ...]:
    """Around the first places, and as many where nothing should change; none overlap."""
    starts: list[int] = []
    for line in (number for number, pair in enumerate(zip(now, wanted, strict=True)) if pair[0] != pair[1]):
        if len(starts) < MOST_REGIONS and (not starts or line >= starts[-1] + REGION_LINES):
            starts.append(min(max(line - REGION_LINES // 2, starts[-1] + REGION_LINES if starts else 0), line))
    still: list[int] = []
    for start in rng.permutation(max(len(now) - REGION_LINES, 0)).tolist():
        lines = range(start, start + REGION_LINES)
        is_free = all(abs(start - other) >= REGION_LINES for other in [*starts, *still])
        if is_free and now[lines.start].strip() and all(now[line] == wanted[line] for line in lines):
            still.append(start)
        if len(still) == len(starts):
            break
    spans = [slice(start, start + REGION_LINES) for start in [*starts, *still]]
    return tuple(Region(start=span.start, now=tuple(now[span]), wanted=tuple(wanted[span])) for span in spans)
