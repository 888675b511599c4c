"""Suites of faulty functions to be mended, judged by tests that the faulty function fails.

HumanEvalFix (Muennighoff et al. 2023, arXiv:2308.07124): 164 solutions of HumanEval with a fault put in, in Python; in
the form that paper calls docs: the docstring is shown, the tests are not. QuixBugs (Lin et al. 2017,
doi:10.1145/3135932.3135941): 40 classic algorithms with a fault of one line.

Two tasks are made of each, and their figures are not to be compared:

* ``humaneval-fix``, ``quixbugs``: repair. The function is the region of a next-edit prompt (``coding.next_edit``);
  whether and where to change it is the subject's to find.
* ``humaneval-fix-located``, ``quixbugs-located``: the lines of the fault are a hole. That tells where the fault is, and
  hides what stood there, so it can be asked of whoever fills holes; it is infilling on faulty code's place, not repair.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from quicksilver.coding.next_edit import NextEdit, render
from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.subject import MALFORMED, REFUSED, TOO_LONG, Answer, Ask, Editor, Subject
from quicksilver.evaluation.suite import PASS, Control, Mark
from quicksilver.evaluation.suites.execution import (
    MODULE,
    ExecutedFillSuite,
    about_sandbox,
    detail_of,
    values_of,
    verdicts,
)
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length
from quicksilver.evaluation.syntax import compiles, parse
from quicksilver.sandbox import Program, Sandbox

HUMANEVAL_FIX = "humanevalpack/humanevalpack.jsonl"
QUIXBUGS = "quixbugs/quixbugs_python.jsonl"
UNUSABLE = (REFUSED, MALFORMED, TOO_LONG, "length")
"""Finish reasons of answers that are no edit: none, or one cut off, which would lose the region's end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairItem:
    """One faulty function."""

    item_id: str
    path: str
    """File name that the subject is told."""
    before: str
    """The file above the region."""
    faulty: str
    """The region; ends with a line end, as ``mended`` does."""
    mended: str
    checks: str
    fault: str = ""
    """What kind it is, where the set says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairSuite:
    """Faulty functions, asked for as next edits.

    ``apply_rate``: an edit came back whole. ``no_change_rate``: it is the region as it was. ``locality``: lines changed
    over lines that the reference changes, of the answers that change any; 1 is as local as the reference.
    """

    name: str
    functions: tuple[RepairItem, ...]
    sandbox: Sandbox
    source: Mapping[str, object]
    """Where the functions come from: hashes, seed."""

    @property
    def headline(self) -> str:
        return PASS

    def about(self) -> Mapping[str, object]:
        return {"suite": self.name, "asked_as": "next edit", **self.source, **about_sandbox(self.sandbox)}

    def items(self) -> tuple[RepairItem, ...]:
        return self.functions

    def ask(self, subject: Subject, item: RepairItem, seed: int, temperature: float) -> Answer:
        if not isinstance(subject, Editor):
            raise ConfigError(
                f"{subject.name} does not edit code, so suite {self.name} cannot ask it; {self.name}-located asks for "
                f"the lines of the fault as a hole, which is another, easier task"
            )
        prompt = render(NextEdit(path=item.path, before=item.before, region=item.faulty, after="", cursor=None))
        return subject.edit(prompt, Ask(seed=seed, temperature=temperature))

    def judge(self, answered: Iterable[tuple[RepairItem, Answer]]) -> Iterator[Mark]:
        given = [
            (item, answer.finish_reason not in UNUSABLE, _whole_lines(answer.texts[0])) for item, answer in answered
        ]
        found = verdicts(self.sandbox, (program_of(item, text) for item, is_edit, text in given if is_edit))
        for item, is_edit, text in given:
            if not is_edit:
                values = {PASS: 0.0, "timeout_rate": 0.0, "apply_rate": 0.0, "no_change_rate": 0.0}
                yield Mark(values=values, labels=_labels(item), detail="no edit")
                continue
            verdict, tree = next(found), parse(item.before + text)
            changed = changed_lines(item.faulty, text)
            values = {
                **values_of(verdict),
                "apply_rate": 1.0,
                "no_change_rate": float(changed == 0),
                "compile_rate": float(tree is not None and compiles(tree)),
            }
            ratios = {"locality": (float(changed), float(changed_lines(item.faulty, item.mended)))} if changed else {}
            yield Mark(values=values, ratios=ratios, labels=_labels(item), detail=detail_of(verdict))

    def controls(self, item: RepairItem) -> Mapping[str, Control]:
        return {
            "reference": Control(text=item.mended, passes=True),
            "unchanged": Control(text=item.faulty, passes=False),
        }


def _labels(item: RepairItem) -> dict[str, str]:
    return {"fault": item.fault} if item.fault else {}


def program_of(item: RepairItem, region: str) -> Program:
    """The file with a region, and the tests behind it."""
    return Program(item.before + region, checks=item.checks, name=MODULE)


def changed_lines(old: str, new: str) -> int:
    """Lines replaced, removed or added, white space at their ends left out."""
    sides = [[line.rstrip() for line in text.rstrip().split("\n")] for text in (old, new)]
    blocks = SequenceMatcher(None, *sides, autojunk=False).get_opcodes()
    return sum(max(stop - start, to - since) for tag, start, stop, since, to in blocks if tag != "equal")


def _whole_lines(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def repair(name: str, path: Path, sandbox: Sandbox, *, count: int | None, seed: int) -> RepairSuite:
    """The suite ``humaneval-fix`` or ``quixbugs``.

    Args:
        name: which.
        path: of its file.
        sandbox: where answers run.
        count: random functions; None: all, in order.
        seed: of the sample.

    Raises:
        InputError: the file is missing or damaged.
        ConfigError: there are fewer functions than that.
    """
    functions = tuple(subsample(read_functions(name, path), count, seed))
    return RepairSuite(name=name, functions=functions, sandbox=sandbox, source=_source(path, seed))


def located(
    name: str, path: Path, sandbox: Sandbox, *, count: int | None, seed: int, length: Length
) -> ExecutedFillSuite:
    """The suite ``humaneval-fix-located`` or ``quixbugs-located``; see ``repair`` and ``humaneval.holes``."""
    functions = {item.item_id: item for item in subsample(read_functions(name, path), count, seed)}

    def program(hole: InfillItem, text: str) -> Program:
        return Program(hole.prefix + text + hole.suffix, checks=functions[hole.item_id].checks, name=MODULE)

    def wrong(hole: InfillItem) -> Mapping[str, Control]:
        item = functions[hole.item_id]
        whole = item.before + item.faulty
        return {"fault": Control(text=whole[len(hole.prefix) : len(whole) - len(hole.suffix)], passes=False)}

    fills = FillSuite(
        name=f"{name}-located",
        holes=tuple(map(hole_of, functions.values())),
        length=length,
        has_whole_lines=False,
        source={**_source(path, seed), "asked_as": "the lines of the fault as a hole"},
    )
    return ExecutedFillSuite(fills=fills, sandbox=sandbox, program=program, wrong=wrong)


def hole_of(item: RepairItem) -> InfillItem:
    """From the first line that the reference changes to the last; nothing but a place, if it only adds lines."""
    faulty, mended = (text.splitlines(keepends=True) for text in (item.faulty, item.mended))
    blocks = SequenceMatcher(None, faulty, mended, autojunk=False).get_opcodes()
    changes = [block for block in blocks if block[0] != "equal"]
    (_, start, _, since, _), (_, _, stop, _, to) = changes[0], changes[-1]
    return InfillItem(
        item_id=item.item_id,
        prefix=item.before + "".join(faulty[:start]),
        middle="".join(mended[since:to]),
        suffix="".join(faulty[stop:]),
    )


def _source(path: Path, seed: int) -> dict[str, object]:
    return {"data_sha256": file_hash(path), "items_seed": seed}


def _humaneval_fix(row: Mapping[str, str]) -> RepairItem:
    return RepairItem(
        item_id=f"HumanEvalFix/{row['task_id'].split('/')[1]}",
        path=f"{row['entry_point']}.py",
        before=row["prompt"],
        faulty=_whole_lines(row["buggy_solution"]),
        mended=_whole_lines(row["canonical_solution"]),
        checks=row["test"],
        fault=row["bug_type"],
    )


def _quixbugs(row: Mapping[str, str]) -> RepairItem:
    return RepairItem(
        item_id=f"QuixBugs/{row['name']}",
        path=f"{row['name']}.py",
        before=f"{row['docstring']}\n\n\n",
        faulty=_whole_lines(row["buggy_program"]),
        mended=_whole_lines(row["solution"]),
        checks=row["tests"],
    )


_ROWS = {"humaneval-fix": _humaneval_fix, "quixbugs": _quixbugs}


def read_functions(name: str, path: Path) -> list[RepairItem]:
    """The functions of a suite, all of them.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return [_ROWS[name](json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"cannot read the functions of {path}: {error!r}") from error
