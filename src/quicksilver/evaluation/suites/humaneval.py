"""HumanEval-Infilling (Bavarian et al. 2022, arXiv:2207.14255): holes in HumanEval's solutions.

Single line: 1,033 lines, each one whole line with its indentation and its line end. Multi line: 5,815 runs of whole
lines. Random span: 1,640 pieces, blind to what they cut, and 164 of them in the light set. The files hold the unit
tests too: an answer passes if the completed program does.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicksilver.errors import InputError
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.suite import Control
from quicksilver.evaluation.suites.execution import MODULE, ExecutedFillSuite
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length
from quicksilver.sandbox import Program, Sandbox


@dataclass(frozen=True, kw_only=True, slots=True)
class InfillSet:
    """One of the files."""

    name: str
    """Of the suite."""
    file: str
    has_whole_lines: bool
    """Whether every hole is one line."""
    default_count: int | None = None
    """Items where nobody says how many; None: all."""


SINGLE_LINE = InfillSet(
    name="humaneval-single-line",
    file="humaneval_infilling/HumanEval-SingleLineInfilling.jsonl.gz",
    has_whole_lines=True,
)
MULTI_LINE = InfillSet(
    name="humaneval-multi-line",
    file="humaneval_infilling/HumanEval-MultiLineInfilling.jsonl.gz",
    has_whole_lines=False,
    default_count=500,
)
RANDOM_SPAN = InfillSet(
    name="humaneval-random-span",
    file="humaneval_infilling/HumanEval-RandomSpanInfilling.jsonl.gz",
    has_whole_lines=False,
)
RANDOM_SPAN_LIGHT = InfillSet(
    name="humaneval-random-span-light",
    file="humaneval_infilling/HumanEval-RandomSpanInfillingLight.jsonl.gz",
    has_whole_lines=False,
)
INFILL_SETS = (SINGLE_LINE, MULTI_LINE, RANDOM_SPAN, RANDOM_SPAN_LIGHT)


def holes(which: InfillSet, path: Path, *, count: int | None, seed: int, length: Length) -> FillSuite:
    """The suite judged by its text alone.

    Args:
        which: of the sets.
        path: of its file.
        count: random tasks; None: all, in order.
        seed: of the sample.
        length: what is told of it.

    Raises:
        InputError: the file is missing or damaged.
        ConfigError: there are fewer tasks than that, or such a length cannot be told.
    """
    return FillSuite(
        name=which.name,
        holes=tuple(subsample(read_tasks(path), count, seed)),
        length=length,
        has_whole_lines=which.has_whole_lines,
        source={"data_sha256": file_hash(path), "items_seed": seed},
    )


def executed(fills: FillSuite, path: Path, sandbox: Sandbox) -> ExecutedFillSuite:
    """The same holes, judged by the file's unit tests too."""
    checks = {row["task_id"]: checks_of(row) for row in read_rows(path, "test")}

    def program(item: InfillItem, text: str) -> Program:
        return Program(item.prefix + text + item.suffix, checks=checks[item.item_id], name=MODULE)

    return ExecutedFillSuite(fills=fills, sandbox=sandbox, program=program, wrong=_wrong)


def _wrong(item: InfillItem) -> Mapping[str, Control]:
    # Some lines are not needed: how many is worth knowing.
    return {"nothing": Control(text="", passes=None), "no Python": Control(text=")(", passes=False)}


def checks_of(row: Mapping[str, str]) -> str:
    """The unit tests of a task, and the call that runs them."""
    return f"{row['test']}\ncheck({row['entry_point']})\n"


def read_tasks(path: Path) -> list[InfillItem]:
    """The holes of a file of HumanEval-Infilling.

    Raises:
        InputError: the file is missing or damaged.
    """
    return [
        InfillItem(item_id=row["task_id"], prefix=row["prompt"], middle=row["canonical_solution"], suffix=row["suffix"])
        for row in read_rows(path, "test", "suffix")
    ]


def read_rows(path: Path, *further: str) -> list[dict[str, Any]]:
    """The rows of one of HumanEval's files: JSON lines, gzipped if it is named so.

    Args:
        path: of the file.
        further: fields that every row must have beside those that these files have in common.

    Raises:
        InputError: the file is missing, damaged, or another's.
    """
    wanted = {"task_id", "prompt", "canonical_solution", "entry_point", *further}
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read the tasks of {path}: {error}") from error
    if not rows:
        raise InputError(f"cannot read the tasks of {path}: there are none")
    for number, row in enumerate(rows, 1):
        missing = sorted(wanted - row.keys()) if isinstance(row, dict) else sorted(wanted)
        if missing:
            raise InputError(f"cannot read the tasks of {path}: line {number} has no {', '.join(missing)}")
    return rows
