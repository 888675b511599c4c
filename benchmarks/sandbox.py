r"""What a sandbox costs: milliseconds per program in both modes, beside a bare interpreter, in one run.

The rows take turns, so a busy machine slows all of them alike; read the ratios.

Example:
  python benchmarks/sandbox.py --out runs/sandbox.json
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from common import finish, markdown_table, progress, reported_errors, verbatim

from quicksilver.errors import SandboxError
from quicksilver.evaluation.provenance import environment
from quicksilver.sandbox import Program, Sandbox

SOURCE = "def add(a, b):\n    return a + b\n"
CHECKS = "assert add(1, 2) == 3"
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    rounds: Annotated[int, typer.Option(help="Turns of every row.", min=1)] = 20,
    programs: Annotated[int, typer.Option(help="Programs of the fast rows in each turn.", min=1)] = 20,
) -> None:
    """Measure and report."""
    with reported_errors(), Sandbox("strict") as strict, Sandbox("fast") as fast:
        program = Program(SOURCE, checks=CHECKS)
        rows: dict[str, tuple[Callable[[], None], int]] = {
            "bare interpreter, -I -S": (bare, 1),
            "strict": (lambda: judge(strict, [program]), 1),
            "fast": (lambda: judge(fast, [program] * programs), programs),
            "fast, call": (lambda: answer(fast, programs), programs),
        }
        milliseconds = measure(rows, rounds)
        about = {"level": strict.level, "rounds": rounds, "programs": programs, "environment": environment()}
        finish(out, about | {"milliseconds": milliseconds}, table(milliseconds))


def bare() -> None:
    subprocess.run([sys.executable, "-I", "-S", "-c", f"{SOURCE}{CHECKS}"], check=True)


def judge(sandbox: Sandbox, programs: list[Program]) -> None:
    for verdict in map(sandbox.run, programs):
        if not verdict.is_passed:
            raise SandboxError(f"the program did not pass: {verdict}")


def answer(sandbox: Sandbox, count: int) -> None:
    for _ in range(count):
        (given,) = sandbox.call(SOURCE, "add", [(1, 2)])
        if given.value != 3:
            raise SandboxError(f"the program did not answer: {given}")


def measure(rows: dict[str, tuple[Callable[[], None], int]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds per program of every row in every round."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    with progress() as bar:
        task = bar.add_task("sandbox", total=rounds * len(rows), detail="")
        for _ in range(rounds):
            for name, (run, count) in rows.items():
                start = time.perf_counter()
                run()
                found[name].append((time.perf_counter() - start) / count * 1e3)
                bar.advance(task)
    return found


def table(milliseconds: dict[str, list[float]]) -> str:
    """Medians, and their ratio to the first row's."""
    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    base = next(iter(medians.values()))
    rows = [
        (name, f"{median:.1f}", f"{min(milliseconds[name]):.1f}", f"{median / base:.2f}")
        for name, median in medians.items()
    ]
    return markdown_table(("program", "ms, median", "least", "of a bare interpreter"), rows)


if __name__ == "__main__":
    app()
