"""`quicksilver tune`: find the fastest decoding defaults that are good enough on one's own prompts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from quicksilver.cli import options
from quicksilver.cli.files import write_text
from quicksilver.cli.terminal import spinner

if TYPE_CHECKING:
    from quicksilver.evaluation.tuning import Setting, Task, Trial, Tuner

EXAMPLES = """quicksilver tune --task holes.jsonl
quicksilver tune --task holes.jsonl --out my-coder --plot my-coder.svg
quicksilver tune --task prompts.jsonl --policy confidence_threshold --threshold 0.7 --threshold 0.9 --block-length 8
quicksilver infill draft.py --model my-coder"""


def command(
    task: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help='JSON lines: {"prefix", "suffix"} or {"prompt"}, each perhaps with "answer".'
        ),
    ],
    model: options.Model = options.DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder: a copy of the model with the chosen defaults.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="Q", help="Quality that may be given up for speed, 0 to 1.")
    ] = 0.01,
    policy: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Try only these; may be repeated.")] = None,
    threshold: Annotated[list[float] | None, typer.Option(metavar="P", help="Try only these; may be repeated.")] = None,
    block_length: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Try only these, block by block; may be repeated.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="in_place|psm", help="Holes in place, or after prefix and suffix. [default: the model's]"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Most tokens after a prompt. [default: the answer's, or 64]")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Times that every task is timed.")] = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the decoding.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of quality against speed, .svg or .png.")
    ] = None,
    device: options.Device = None,
) -> None:
    """Try policies, thresholds and block lengths on your own prompts and choose the fastest that is good enough.

    Quality is exact match where a task has an answer, and else agreement with the slowest setting, which writes one
    token per forward. The installed model never changes: with --out a copy of it gets the chosen defaults.
    """
    # Long because every option is a parameter.
    with spinner(f"loading {model} …"):
        from quicksilver.api import load
        from quicksilver.api.loading import find_model
        from quicksilver.api.requests import parse_layout
        from quicksilver.checkpoints.folder import copy_folder, require_new_folder
        from quicksilver.evaluation import tuning
        from quicksilver.evaluation.pictures import require_matplotlib

        tasks = tuning.read_tasks(task)
        if out is not None:
            require_new_folder(out)
        if plot is not None:
            require_matplotlib()
        loaded = load(model, device=device)
        tuner = tuning.Tuner(model=loaded, layout=parse_layout(layout), max_tokens=max_tokens, seed=seed)
        settings = tuning.grid(
            loaded.spec,
            is_by_blocks=tuner.is_by_blocks(tasks),
            policies=policy or (),
            thresholds=threshold or (),
            block_lengths=block_length or (),
        )
        tuning.check_tolerance(tolerance)
    trials = _sweep(tuner, tasks, settings, repeats)
    rows = tuning.mark_chosen(tuning.sum_up(settings, tasks, trials), tolerance)
    report = tuning.report(loaded, task, tasks, rows, tolerance=tolerance, seed=seed)
    write_text(json.dumps(report, indent=2) + "\n" if as_json else tuning.table(rows) + "\n", None)
    if plot is not None:
        tuning.plot(rows, plot, f"{loaded.name}, {len(tasks)} tasks of {task.name}")
    best = tuning.chosen(rows)
    if out is not None:
        copy_folder(find_model(model), out, best.setting.apply(loaded.spec))
        tuning.write(out, report, rows)


def _sweep(tuner: "Tuner", tasks: "list[Task]", settings: "list[Setting]", repeats: int) -> "list[list[Trial]]":
    with Progress(console=Console(stderr=True)) as bar:
        running = bar.add_task(f"{len(settings)} settings", total=len(settings) * len(tasks) * repeats)
        return tuner.sweep(tasks, settings, repeats=repeats, advance=lambda: bar.advance(running))
