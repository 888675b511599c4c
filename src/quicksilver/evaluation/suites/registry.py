"""All suites by name: what each measures and needs, and how it is made."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from quicksilver.errors import ConfigError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.documents import Corpus
from quicksilver.evaluation.likelihood import LikelihoodConfig
from quicksilver.evaluation.suite import Suite
from quicksilver.evaluation.suites import fim, humaneval, puzzles
from quicksilver.evaluation.suites.apply import applications
from quicksilver.evaluation.suites.filling import Length
from quicksilver.evaluation.suites.json_documents import json_suite
from quicksilver.evaluation.suites.lm import DEFAULT_CONTEXT, LikelihoodSuite
from quicksilver.evaluation.suites.next_edit import next_edits


class Kind(StrEnum):
    """What a suite asks, and so which options say something to it."""

    HOLES = "holes"
    PROMPTS = "prompts"
    LIKELIHOODS = "likelihoods"
    """Of checkpoints in this process."""
    EDITS = "edits"
    """By routes that change code: a local model gets a server for the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Materials:
    """What suites are made of."""

    data: Path | None = None
    """Folder of all sets; None: the repository's."""
    corpus: Corpus | None = None
    count: int | None = None
    """Items; None: as many as the suite has, or its own default."""
    seed: int = 0
    """Of which items."""
    length: Length = Length.UNKNOWN
    """What is told of a hole's length."""
    context: int | None = None
    """Positions of a window whose likelihood is read."""
    block_length: int | None = None
    """Of that reading."""
    num_draws: int | None = None
    """Random masks per window, for the bound."""

    def require_corpus(self) -> Corpus:
        """The corpus; raises ConfigError if there is none."""
        if self.corpus is None:
            raise ConfigError(
                "this suite needs --tokens, a folder that quicksilver corpus build wrote, for its held-out packages"
            )
        return self.corpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the list."""

    name: str
    kind: Kind
    measures: str
    make: Callable[[Materials], Suite[Any]]
    needs_corpus: bool = False
    """A corpus that was tokenized, for its held-out packages."""
    data: str | None = None
    """The set that others made, as a path below the folder of all sets."""
    is_decoded: bool = True
    """Whether options of decoding say anything to it."""

    def build(self, materials: Materials) -> Suite[Any]:
        """The suite.

        Raises:
            ConfigError: something is missing, or something is given that says nothing to this suite.
            InputError: its data is missing or damaged.
        """
        if self.kind is not Kind.HOLES and materials.length is not Length.UNKNOWN:
            raise ConfigError(f"a length is told of holes, and suite {self.name} has none")
        return self.make(materials)

    def check_decoding(self, names: Collection[str]) -> None:
        """Raise ConfigError if an option of decoding says nothing to this suite."""
        unread = sorted(set(names) - ({"block_length"} if self.kind is Kind.LIKELIHOODS else set()))
        if "layout" in names and self.kind is not Kind.HOLES:
            raise ConfigError(f"a layout is of holes, and suite {self.name} has none")
        if unread and not self.is_decoded:
            raise ConfigError(f"suite {self.name} decodes nothing, so {', '.join(unread)} would be ignored")


def _humaneval(materials: Materials) -> Suite[Any]:
    path = find_data(humaneval.SINGLE_LINE, materials.data)
    return humaneval.single_line(path, count=materials.count, seed=materials.seed, length=materials.length)


def _puzzles(make: Callable[..., Suite[Any]], path: str) -> Callable[[Materials], Suite[Any]]:
    return lambda materials: make(find_data(path, materials.data), count=materials.count, seed=materials.seed)


def _holes(make: Callable[..., Suite[Any]]) -> Callable[[Materials], Suite[Any]]:
    def from_corpus(materials: Materials) -> Suite[Any]:
        corpus = materials.require_corpus()
        return make(corpus, count=materials.count, seed=materials.seed, length=materials.length)

    return from_corpus


def _likelihoods(materials: Materials) -> Suite[Any]:
    plain = LikelihoodConfig()
    config = LikelihoodConfig(
        block_length=materials.block_length or plain.block_length,
        num_samples=materials.num_draws or plain.num_samples,
        seed=materials.seed,
    )
    context = materials.context or DEFAULT_CONTEXT
    return LikelihoodSuite(materials.require_corpus(), config, count=materials.count, context=context)


def _edits(make: Callable[..., Suite[Any]]) -> Callable[[Materials], Suite[Any]]:
    return lambda materials: make(materials.require_corpus(), count=materials.count, seed=materials.seed)


_ALIKE = "exact match, similarity, parse and compile rate, length error"
ENTRIES = (
    Entry(
        name="lm",
        kind=Kind.LIKELIHOODS,
        measures="bits per byte of held-out packages: bound, left to right, exact; beside xz",
        make=_likelihoods,
        needs_corpus=True,
        is_decoded=False,
    ),
    Entry(
        name="fim-line",
        kind=Kind.HOLES,
        measures=f"a line of held-out packages; code, comments, strings: {_ALIKE}",
        make=_holes(fim.lines_suite),
        needs_corpus=True,
    ),
    Entry(
        name="fim-span",
        kind=Kind.HOLES,
        measures="a piece of a held-out file, of its syntax or at random: the same",
        make=_holes(fim.spans_suite),
        needs_corpus=True,
    ),
    Entry(
        name="fim-block",
        kind=Kind.HOLES,
        measures="a body of 3 to 10 lines of a held-out file: the same, and repetition",
        make=_holes(fim.blocks_suite),
        needs_corpus=True,
    ),
    Entry(
        name="humaneval-single-line",
        kind=Kind.HOLES,
        measures="a line of HumanEval's solutions, judged by its text: the same",
        make=_humaneval,
        data=humaneval.SINGLE_LINE,
    ),
    Entry(
        name="next-edit",
        kind=Kind.EDITS,
        measures="renames and new arguments carried on in held-out files: places right, over-edits, no-ops kept",
        make=_edits(next_edits),
        needs_corpus=True,
    ),
    Entry(
        name="apply",
        kind=Kind.EDITS,
        measures="lazy snippets merged into held-out files: syntax tree, untouched lines, refusals",
        make=_edits(applications),
        needs_corpus=True,
        is_decoded=False,
    ),
    Entry(
        name="json",
        kind=Kind.PROMPTS,
        measures="a document under a small schema of our own: valid, JSON at all, nothing else",
        make=lambda materials: json_suite(count=materials.count, seed=materials.seed),
    ),
    Entry(
        name="sudoku",
        kind=Kind.PROMPTS,
        measures="500 puzzles of 4x4 cells: solved, cells right",
        make=_puzzles(puzzles.sudoku, puzzles.SUDOKU),
        data=puzzles.SUDOKU,
    ),
    Entry(
        name="countdown",
        kind=Kind.PROMPTS,
        measures="256 targets to reach with three numbers: solved, an expression at all",
        make=_puzzles(puzzles.countdown, puzzles.COUNTDOWN),
        data=puzzles.COUNTDOWN,
    ),
)
SUITES = {entry.name: entry for entry in ENTRIES}


def find_suite(name: str) -> Entry:
    """The suite of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SUITES:
        raise ConfigError(f"no suite {name!r}; there are: {', '.join(SUITES)}")
    return SUITES[name]
