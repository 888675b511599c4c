r"""Control measured on the bundled model: what a check that sends holes back gains, and how far a classifier steers.

Rows of the report, by --only:
  check     HumanEval lines with `check: python` beside the same first answers without: files that parse, that pass
            the check, that pass HumanEval's tests, and the forwards spent
  guidance  parameter lists of held-out functions: annotated parameters by scale of `typed-python`

Examples:
  python benchmarks/control.py --humaneval data/eval --out runs/control.json --only check --items 150
  python benchmarks/control.py --tokens data/corpus --out runs/guided.json --only guidance --scale 0 --scale 2
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import SPLIT, finish, load_model, markdown_table, plain, progress, reported_errors, verbatim

from quicksilver.api import DecodingOptions, InfillRequest, Model, Repairs
from quicksilver.api.requests import HoleOptions
from quicksilver.cli.held_out import open_split
from quicksilver.coding.checks import PythonCheck
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_difference, bootstrap_mean, bootstrap_ratio
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.suites import humaneval
from quicksilver.evaluation.syntax import line_starts, parse
from quicksilver.sandbox import Program, Sandbox

app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})
AROUND = 300
"""Characters of the file that are seen before and behind a parameter list."""
LONGEST_LIST = 100
"""Characters."""


class Part(StrEnum):
    """What is measured."""

    CHECK = "check"
    GUIDANCE = "guidance"


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    model: Annotated[str, typer.Option(help="Bundled model or checkpoint folder.")] = "quicksilver-coder",
    humaneval_folder: Annotated[Path | None, typer.Option("--humaneval", help="Folder of its files.")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Corpus folder; its public-test packages are used.")] = None,
    only: Annotated[list[Part] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    items: Annotated[int, typer.Option(help="Holes of each part.", min=2)] = 150,
    rounds: Annotated[int, typer.Option(help="Repairs of a hole.", min=1)] = 3,
    scale: Annotated[list[float] | None, typer.Option(help="Of the classifier; repeated. [default: 0, 2]")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the items and of decoding, which is greedy.")] = 0,
) -> None:
    """Measure and report."""
    torch.set_num_threads(threads)
    parts, scales = only or list(Part), scale or [0.0, 2.0]
    report: dict[str, Any] = {"model": model, "items": items, "rounds": rounds, "threads": threads, "seed": seed}
    report["environment"] = environment()
    with reported_errors():
        loaded = load_model(model, "cpu")
        if Part.CHECK in parts:
            if humaneval_folder is None:
                raise ConfigError("check needs --humaneval")
            report["check"] = measure_check(loaded, humaneval_folder, items, rounds, seed)
        if Part.GUIDANCE in parts:
            if tokens is None:
                raise ConfigError("guidance needs --tokens")
            report["guidance"] = measure_guidance(loaded, tokens, scales, items, seed)
        finish(out, report, "\n\n".join(_table(report[part]) for part in parts))


class Watched:
    """A check that keeps the texts that it saw and whether it passed them."""

    def __init__(self, check: PythonCheck) -> None:
        self._check = check
        self.name, self.parts = check.name, check.parts
        self.seen: list[tuple[str, bool]] = []

    def __call__(self, text: str, written: Any) -> Any:  # noqa: ANN401  # as the check's own
        found = self._check(text, written)
        self.seen.append((text, not found))
        return found


def measure_check(model: Model, folder: Path, items: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    """A row without the check, one with, and the difference."""
    path = folder / humaneval.SINGLE_LINE.file
    tests = {row["task_id"]: humaneval.checks_of(row) for row in humaneval.read_rows(path, "test")}
    chosen = subsample(humaneval.read_tasks(path), items, seed)
    texts: dict[str, list[str]] = {"without": [], "with": []}
    passed: dict[str, list[bool]] = {"without": [], "with": []}
    forwards: dict[str, list[int]] = {"without": [], "with": []}
    with progress() as bar:
        task = bar.add_task("holes", total=len(chosen), detail="")
        for item in chosen:
            request = InfillRequest(
                texts=(item.prefix, item.suffix),
                holes=(HoleOptions(),),
                options=DecodingOptions(seed=seed, temperature=0.0, stop=("\n",)),
            )
            watched = Watched(PythonCheck())
            found = model.run_checked(request, watched, Repairs(rounds=rounds, behind_stop="\n"))
            first = watched.seen[0]
            # What passed, or the first answer, which is what a caller gets where nothing does.
            last = next((each for each in watched.seen if each[1]), first)
            for name, (text, is_good), nfe in (
                ("without", first, model.run(request).nfe),
                ("with", last, found.nfe),
            ):
                texts[name].append(text)
                passed[name].append(is_good)
                forwards[name].append(nfe)
            bar.advance(task)
    with Sandbox(mode="fast") as sandbox:
        verdicts = {
            name: [
                verdict.is_passed
                for verdict in sandbox.run_many(
                    Program(text, checks=tests[item.item_id], name="candidate")
                    for text, item in zip(texts[name], chosen, strict=True)
                )
            ]
            for name in texts
        }
    figures: dict[str, Callable[[str], Sequence[float]]] = {
        "parses": lambda name: [parse(text) is not None for text in texts[name]],
        "passes_check": lambda name: passed[name],
        "passes_tests": lambda name: verdicts[name],
        "forwards": lambda name: forwards[name],
    }
    values = {key: {name: np.array(of(name), dtype=float) for name in texts} for key, of in figures.items()}
    rows = [
        {
            "check": name,
            "holes": len(chosen),
            **plain({key: bootstrap_mean(each[name]) for key, each in values.items()}),
        }
        for name in texts
    ]
    ones = np.ones(len(chosen))
    difference = {key: bootstrap_difference(each["with"], ones, each["without"], ones) for key, each in values.items()}
    return [*rows, {"check": "difference", "holes": len(chosen), **plain(difference)}]


@dataclass(frozen=True)
class Signature:
    """A parameter list that is a hole."""

    before: str
    behind: str


def signatures(folder: Path, items: int, seed: int) -> list[Signature]:
    """Functions of two parameters and more, from the public-test packages."""
    found: list[Signature] = []
    for source in open_split(folder, SPLIT).sources():
        tree = parse(source.text)
        if tree is not None and source.text.isascii():
            found += _signatures_of(source.text, tree)
    return subsample(found, items, seed)


def _signatures_of(text: str, tree: ast.Module) -> Iterator[Signature]:
    starts = line_starts(text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or len(node.args.args) < 2:
            continue
        opened = text.find("(", starts[node.lineno - 1] + node.col_offset)
        closed = text.find(")", opened)
        # A default value or annotation may hold a bracket; such lists are left out.
        if 0 < closed - opened <= LONGEST_LIST and text.startswith("):", closed):
            yield Signature(text[max(0, opened + 1 - AROUND) : opened + 1], text[closed : closed + AROUND])


def measure_guidance(
    model: Model, folder: Path, scales: Sequence[float], items: int, seed: int
) -> list[dict[str, Any]]:
    """A row per scale; shares of a list that does not parse are of no parameter."""
    chosen = signatures(folder, items, seed)
    rows = []
    with progress() as bar:
        task = bar.add_task("parameter lists", total=len(scales) * len(chosen), detail="")
        for scale in scales:
            guided = {} if scale == 0 else {"classifier": "typed-python", "classifier_scale": scale}
            options = DecodingOptions(seed=seed, temperature=0.0, **guided)
            counts = []
            for each in chosen:
                request = InfillRequest(
                    texts=(each.before, each.behind), holes=(HoleOptions(max_length=24),), options=options
                )
                counts.append(_annotated(model.run(request).holes[0].text))
                bar.advance(task)
            table = np.array(counts, dtype=float)
            figures: dict[str, Interval] = {
                "annotated": bootstrap_ratio(table[:, 1], table[:, 0]),
                "parses": bootstrap_mean(table[:, 2]),
            }
            rows.append({"scale": scale, "lists": len(chosen), "parameters": int(table[:, 0].sum()), **plain(figures)})
    return rows


def _annotated(parameters: str) -> tuple[int, int, bool]:
    """Parameters, those of them that are annotated, whether the list parses."""
    tree = parse(f"def f({parameters}): pass\n")
    if tree is None or len(tree.body) > 1 or not isinstance(function := tree.body[0], ast.FunctionDef):
        return 0, 0, False
    listed = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    listed = [each for each in listed if each.arg not in ("self", "cls")]
    return len(listed), sum(each.annotation is not None for each in listed), True


def _table(rows: Sequence[dict[str, Any]]) -> str:
    def shown(value: Any) -> str:  # noqa: ANN401
        return str(Interval(**value)) if isinstance(value, dict) else str(value)

    return markdown_table(list(rows[0]), [[shown(value) for value in row.values()] for row in rows])


if __name__ == "__main__":
    app()
