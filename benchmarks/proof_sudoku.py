"""Proof (a): on sudoku the decoding order decides, and a masked diffusion model that chooses it beats left to right.

    python benchmarks/proof_sudoku.py --out runs/proofs

trains a masked diffusion model and an autoregressive one of the same size for the same compute (resumable: run it
again), decodes unseen puzzles in several orders, prints a Markdown table and writes it as JSON. Test puzzles come from
solutions whose symmetry class occurs nowhere in training.
"""

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from proofs import markdown_table, provenance, train_or_load, training_seconds, wilson, write_json
from rich.console import Console
from rich.progress import track

from quicksilver.decoding import FixedCount, Order, Policy
from quicksilver.diffusion.spec import Objective
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.recipe import load_recipe
from quicksilver.training.tasks.sudoku import SudokuTaskConfig, first_guess
from quicksilver.training.tasks.sudoku_puzzles import Puzzles, held_out_puzzles, symmetry_invariant
from quicksilver.training.tasks.sudoku_solving import fill

sudoku_small = load_recipe("sudoku:sudoku_small", Path(__file__).parents[1] / "recipes")

_ORDERS: dict[str, Policy] = {
    "random order": FixedCount(order=Order.RANDOM),
    "confidence order": FixedCount(order=Order.CONFIDENCE),
    "margin order": FixedCount(order=Order.MARGIN),
    "confidence order, 3 cells per step": FixedCount(order=Order.CONFIDENCE, tokens_per_step=3),
    "confidence order, 9 cells per step": FixedCount(order=Order.CONFIDENCE, tokens_per_step=9),
}
_BATCH = 50


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the JSON file.")] = Path("runs/proofs"),
    steps: Annotated[int, typer.Option(help="Training steps of each model.")] = 400,
    minutes: Annotated[
        float | None, typer.Option(help="Stop training after so many minutes; run again to go on.")
    ] = None,
    num_puzzles: Annotated[int, typer.Option("--puzzles", help="Unseen puzzles to decode.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the test puzzles and the random order.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train if needed, decode unseen puzzles in several orders, and report the solved share."""
    torch.set_num_threads(threads)
    denoisers: dict[Objective, Denoiser] = {}
    for objective in (Objective.MASK, Objective.AUTOREGRESSIVE):
        denoiser = train_or_load(sudoku_small(objective, steps), out / f"sudoku-{objective}", minutes)
        if denoiser is None:
            print(f"the {objective} model is not finished; run this command again to go on", file=sys.stderr)
            raise typer.Exit(1)
        denoisers[objective] = denoiser
    task = sudoku_small(Objective.MASK, steps).task
    assert isinstance(task, SudokuTaskConfig)
    puzzles = _unseen(num_puzzles, task, seed)
    rows = [
        _autoregressive(denoisers[Objective.AUTOREGRESSIVE], puzzles),
        *_orders(denoisers[Objective.MASK], puzzles, seed),
    ]
    report = provenance() | {
        "parameters": denoisers[Objective.MASK].config.num_parameters,
        "steps": steps,
        "rows_per_step": {str(o): sudoku_small(o, steps).task.batch_size for o in denoisers},  # pyright: ignore[reportAttributeAccessIssue]
        "training_seconds": {str(o): round(training_seconds(out / f"sudoku-{o}")) for o in denoisers},
        "clues": [task.min_clues, task.max_clues],
        "puzzles": num_puzzles,
        "seed": seed,
        "results": rows,
    }
    write_json(out / "sudoku.json", report)
    print(_table(rows))


def _unseen(count: int, task: SudokuTaskConfig, seed: int) -> Puzzles:
    recipe = sudoku_small()
    puzzles = held_out_puzzles(count, task.min_clues, task.max_clues, seed)
    known = {symmetry_invariant(s) for s in task.build(recipe.spec, recipe.schedule, recipe.seed).bases.solutions}
    shared = sum(symmetry_invariant(solution) in known for solution in puzzles.solutions)
    if shared:
        raise SystemExit(f"{shared} test puzzles belong to a symmetry class of the training puzzles")
    return puzzles


def _autoregressive(denoiser: Denoiser, puzzles: Puzzles) -> dict[str, object]:
    # One forward with the true digits before each cell decides what greedy decoding would solve: see ``first_guess``.
    start = time.monotonic()
    is_right, is_unknown = first_guess(denoiser, puzzles, is_autoregressive=True)
    solved = (is_right | ~is_unknown).all(1)
    cells = float(is_right[is_unknown].float().mean())
    return _row("autoregressive, left to right", solved, puzzles, 1.0, cells, time.monotonic() - start)


def _orders(denoiser: Denoiser, puzzles: Puzzles, seed: int) -> list[dict[str, object]]:
    solutions, is_unknown = torch.from_numpy(puzzles.solutions), torch.from_numpy(~puzzles.is_clue)
    rows = []
    console = Console(stderr=True)
    for name, policy in _ORDERS.items():
        start = time.monotonic()
        parts = [np.arange(at, min(at + _BATCH, len(puzzles))) for at in range(0, len(puzzles), _BATCH)]
        shown = track(parts, name, console=console, transient=True, disable=not console.is_terminal)
        grids = torch.cat([fill(denoiser, puzzles.take(part), policy, seed=seed, batch_size=_BATCH) for part in shown])
        is_right = grids == solutions
        cells = float(is_right[is_unknown].float().mean())
        assert isinstance(policy, FixedCount)
        seconds = time.monotonic() - start
        solved = is_right.all(1)
        rows.append(_row(f"masked diffusion, {name}", solved, puzzles, policy.tokens_per_step, cells, seconds))
        print(f"{name}: {float(solved.float().mean()):.1%} in {seconds:.0f} s", file=sys.stderr)
    return rows


def _row(
    name: str, solved: torch.Tensor, puzzles: Puzzles, per_step: float, cells: float, seconds: float
) -> dict[str, object]:
    is_hard = torch.from_numpy(puzzles.is_clue.sum(1) < 33)
    count = int(solved.sum())
    low, high = wilson(count, len(puzzles))
    return {
        "decoder": name,
        "solved": count / len(puzzles),
        "interval": [low, high],
        "solved_below_33_clues": float(solved[is_hard].float().mean()),
        "solved_from_33_clues": float(solved[~is_hard].float().mean()),
        "cells_right": cells,
        "cells_per_step": per_step,
        "forwards_per_puzzle": float(np.ceil((~puzzles.is_clue).sum(1) / per_step).mean()),
        "seconds": round(seconds, 1),
    }


def _table(rows: list[dict[str, object]]) -> str:
    header = [
        "decoder",
        "solved",
        "95 % interval",
        "26-32 clues",
        "33-40 clues",
        "unknown cells right",
        "forwards per puzzle",
    ]
    body = []
    for row in rows:
        low, high = row["interval"]  # pyright: ignore[reportGeneralTypeIssues]
        shares = [row["solved_below_33_clues"], row["solved_from_33_clues"], row["cells_right"]]
        body.append(
            [
                str(row["decoder"]),
                f"{row['solved']:.1%}",
                f"{low:.1%} to {high:.1%}",
                *(f"{share:.1%}" for share in shares),
                f"{row['forwards_per_puzzle']:.0f}",
            ]
        )
    return markdown_table(header, body)


if __name__ == "__main__":
    typer.run(main)
