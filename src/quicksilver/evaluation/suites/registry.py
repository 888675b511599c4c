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
from quicksilver.evaluation.suites import completion, fim, fim_exec, humaneval, puzzles, repair
from quicksilver.evaluation.suites.apply import applications
from quicksilver.evaluation.suites.decisions import decisions_suite
from quicksilver.evaluation.suites.execution import SHORT, Running, make_sandbox
from quicksilver.evaluation.suites.filling import Length
from quicksilver.evaluation.suites.json_documents import json_suite
from quicksilver.evaluation.suites.lm import DEFAULT_CONTEXT, LikelihoodSuite
from quicksilver.evaluation.suites.next_edit import next_edits
from quicksilver.sandbox import Limits, Sandbox


class Kind(StrEnum):
    """What a suite asks, and so which options say something to it."""

    HOLES = "holes"
    PROMPTS = "prompts"
    LIKELIHOODS = "likelihoods"
    """Of checkpoints in this process."""
    DECISIONS = "decisions"
    """Of models in this process: which of several labels stands in a place."""
    EDITS = "edits"
    """By routes that change code: a local model gets a server for the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Materials:
    """What suites are made of."""

    data: Path | None = None
    """Folder of all sets, or the suite's file; None: the repository's."""
    corpus: Corpus | None = None
    count: int | None = None
    """Items; None: as many as the suite has, or its own default."""
    has_all: bool = False
    """Instead of the suite's own default, all."""
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
    running: Running | None = None
    """Where answers run; None: in a fast sandbox."""
    accept_unsafe: bool = False
    """Whether they may run in one that is not safe."""
    package: Path | None = None
    """Wheel or folder of the package whose own tests judge; None: the installed one."""

    def count_or(self, default: int | None) -> int | None:
        """How many items of a suite that has such a default."""
        return self.count or (None if self.has_all else default)

    def sandbox(self, limits: Limits) -> Sandbox:
        """Where answers run; raises SandboxError if there is no safe one, and ConfigError if nothing is to be run."""
        return make_sandbox(self.running or Running.FAST, limits, accept_unsafe=self.accept_unsafe)

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
    is_run: bool = False
    """Whether answers are run."""
    has_package: bool = False
    """Whether the tests of an installed package judge."""

    def build(self, materials: Materials) -> Suite[Any]:
        """The suite.

        Raises:
            ConfigError: something is missing, or something is given that says nothing to this suite.
            InputError: its data is missing or damaged.
        """
        if self.kind is not Kind.HOLES and materials.length is not Length.UNKNOWN:
            raise ConfigError(f"a length is told of holes, and suite {self.name} has none")
        if not self.is_run and (materials.running is not None or materials.accept_unsafe):
            raise ConfigError(f"suite {self.name} runs nothing, so it needs no sandbox")
        if self.data is None and materials.data is not None:
            raise ConfigError(f"suite {self.name} reads no set, so {materials.data} would be ignored")
        if not self.has_package and materials.package is not None:
            raise ConfigError(f"suite {self.name} needs no package, so {materials.package} would be ignored")
        return self.make(materials)

    def check_decoding(self, names: Collection[str]) -> None:
        """Raise ConfigError if an option of decoding says nothing to this suite."""
        unread = sorted(set(names) - ({"block_length"} if self.kind is Kind.LIKELIHOODS else set()))
        if "layout" in names and self.kind is not Kind.HOLES:
            raise ConfigError(f"a layout is of holes, and suite {self.name} has none")
        if unread and not self.is_decoded:
            raise ConfigError(f"suite {self.name} decodes nothing, so {', '.join(unread)} would be ignored")


def _humaneval(which: humaneval.InfillSet) -> Callable[[Materials], Suite[Any]]:
    def from_file(materials: Materials) -> Suite[Any]:
        path, count = find_data(which.file, materials.data), materials.count_or(which.default_count)
        fills = humaneval.holes(which, path, count=count, seed=materials.seed, length=materials.length)
        if materials.running is Running.OFF:
            return fills
        return humaneval.executed(fills, path, materials.sandbox(SHORT))

    return from_file


def _completions(
    make: Callable[..., Suite[Any]], data: str, limits: Limits, origin: str | None = None
) -> Callable[[Materials], Suite[Any]]:
    def from_file(materials: Materials) -> Suite[Any]:
        path, sandbox = find_data(data, materials.data, origin=origin), materials.sandbox(limits)
        return make(path, sandbox, count=materials.count, seed=materials.seed)

    return from_file


def _repair(name: str, data: str) -> Callable[[Materials], Suite[Any]]:
    def from_file(materials: Materials) -> Suite[Any]:
        path, sandbox = find_data(data, materials.data), materials.sandbox(SHORT)
        return repair.repair(name, path, sandbox, count=materials.count, seed=materials.seed)

    return from_file


def _located(name: str, data: str) -> Callable[[Materials], Suite[Any]]:
    def from_file(materials: Materials) -> Suite[Any]:
        path, sandbox = find_data(data, materials.data), materials.sandbox(SHORT)
        count, seed = materials.count, materials.seed
        return repair.located(name, path, sandbox, count=count, seed=seed, length=materials.length)

    return from_file


def _fim_exec(materials: Materials) -> Suite[Any]:
    return fim_exec.fim_exec(
        find_data(fim_exec.HOLES, materials.data),
        materials.package,
        materials.sandbox(fim_exec.LIMITS),
        count=materials.count_or(fim_exec.DEFAULT_COUNT),
        seed=materials.seed,
        length=materials.length,
    )


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


def _from_corpus(make: Callable[..., Suite[Any]]) -> Callable[[Materials], Suite[Any]]:
    return lambda materials: make(materials.require_corpus(), count=materials.count, seed=materials.seed)


_ALIKE = "exact match, similarity, parse and compile rate, length error"
_FAULTY = (
    ("humaneval-fix", "HumanEvalFix' 164 faulty functions", repair.HUMANEVAL_FIX),
    ("quixbugs", "QuixBugs' 40 faulty algorithms", repair.QUIXBUGS),
)
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
    *(
        Entry(
            name=which.name,
            kind=Kind.HOLES,
            measures=f"{what} of HumanEval's solutions: pass@1 by its unit tests; {_ALIKE}",
            make=_humaneval(which),
            data=which.file,
            is_run=True,
        )
        for which, what in (
            (humaneval.SINGLE_LINE, "a line"),
            (humaneval.MULTI_LINE, "some lines"),
            (humaneval.RANDOM_SPAN, "a piece"),
            (humaneval.RANDOM_SPAN_LIGHT, "a piece, 164 of them,"),
        )
    ),
    Entry(
        name="fim-exec",
        kind=Kind.HOLES,
        measures=f"a statement or body of a function of networkx: pass@1 by networkx' own tests; {_ALIKE}",
        make=_fim_exec,
        data=fim_exec.HOLES,
        is_run=True,
        has_package=True,
    ),
    Entry(
        name="humaneval",
        kind=Kind.PROMPTS,
        measures="164 functions from their docstrings: pass@1, with --samples pass@k, compile rate",
        make=_completions(completion.humaneval, completion.HUMANEVAL, SHORT),
        data=completion.HUMANEVAL,
        is_run=True,
    ),
    Entry(
        name="humaneval-plus",
        kind=Kind.PROMPTS,
        measures="the same by EvalPlus' inputs; its HumanEvalPlus.jsonl.gz is not in our data: name it with --data",
        make=_completions(
            completion.humaneval_plus,
            completion.HUMANEVAL_PLUS,
            completion.MANY_INPUTS,
            completion.HUMANEVAL_PLUS_ORIGIN,
        ),
        data=completion.HUMANEVAL_PLUS,
        is_run=True,
    ),
    Entry(
        name="mbpp",
        kind=Kind.PROMPTS,
        measures="257 functions from a sentence and a test (MBPP sanitized, test split): as humaneval",
        make=_completions(completion.mbpp, completion.MBPP, completion.SLOW_REFERENCE),
        data=completion.MBPP,
        is_run=True,
    ),
    *(
        Entry(
            name=name,
            kind=Kind.EDITS,
            measures=f"{what}, mended: pass@1, apply and no-change rate, locality",
            make=_repair(name, data),
            data=data,
            is_run=True,
        )
        for name, what, data in _FAULTY
    ),
    *(
        Entry(
            name=f"{name}-located",
            kind=Kind.HOLES,
            measures=f"{what}, the lines of the fault as a hole, so told where it is: pass@1; {_ALIKE}",
            make=_located(name, data),
            data=data,
            is_run=True,
        )
        for name, what, data in _FAULTY
    ),
    Entry(
        name="next-edit",
        kind=Kind.EDITS,
        measures="renames and new arguments carried on in held-out files: places right, over-edits, no-ops kept",
        make=_from_corpus(next_edits),
        needs_corpus=True,
    ),
    Entry(
        name="apply",
        kind=Kind.EDITS,
        measures="lazy snippets merged into held-out files: syntax tree, untouched lines, refusals",
        make=_from_corpus(applications),
        needs_corpus=True,
        is_decoded=False,
    ),
    Entry(
        name="decisions",
        kind=Kind.DECISIONS,
        measures="which of a few operators, keywords or names stands in a place of held-out files, in one forward: "
        "accuracy, calibration, time",
        make=_from_corpus(decisions_suite),
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
