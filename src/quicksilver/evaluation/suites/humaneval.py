"""HumanEval-Infilling (Bavarian et al. 2022, arXiv:2207.14255), judged by its text.

Single line: 1,033 lines of reference solutions, each one whole line with its indentation and its line end. The files
hold unit tests too; suites that run them read the same tasks.
"""

import gzip
import json
from pathlib import Path

from quicksilver.errors import InputError
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length

SINGLE_LINE = "humaneval_infilling/HumanEval-SingleLineInfilling.jsonl.gz"


def single_line(path: Path, *, count: int | None, seed: int, length: Length) -> FillSuite:
    """The suite ``humaneval-single-line``.

    Args:
        path: of ``SINGLE_LINE``.
        count: random tasks; None: all, in order.
        seed: of the sample.
        length: what is told of it.

    Raises:
        InputError: the file is missing or damaged.
        ConfigError: there are fewer tasks than that.
    """
    return FillSuite(
        name="humaneval-single-line",
        holes=tuple(subsample(read_tasks(path), count, seed)),
        length=length,
        has_whole_lines=True,
        source={"data_sha256": file_hash(path), "items_seed": seed},
    )


def read_tasks(path: Path) -> list[InfillItem]:
    """The tasks of a file of HumanEval-Infilling; their unit tests are not read.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            tasks = [json.loads(line) for line in file]
        return [
            InfillItem(
                item_id=task["task_id"], prefix=task["prompt"], middle=task["canonical_solution"], suffix=task["suffix"]
            )
            for task in tasks
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the tasks of {path}: {error}") from error
