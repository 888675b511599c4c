"""`quicksilver calibrate`: make the probabilities of decisions mean what they say."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from quicksilver.cli import options
from quicksilver.cli.files import write_text
from quicksilver.cli.terminal import spinner

EXAMPLES = """quicksilver calibrate --tokens data/corpus
quicksilver calibrate --tokens data/corpus --model my-coder --out my-calibrated-coder
quicksilver eval decisions --tokens data/corpus --model my-calibrated-coder"""
SPLIT = "validation"
"""Neither trained on nor reported."""


def command(
    tokens: Annotated[Path, typer.Option(metavar="DIR", help="Folder that quicksilver corpus build wrote.")],
    model: options.Model = options.DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="New folder: a copy of the model with the temperature.")
    ] = None,
    items: Annotated[int | None, typer.Option(min=3, metavar="N", help="Random places. [default: 1200]")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of which places.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    device: options.Device = None,
) -> None:
    """Fit the temperature of a model's decisions, on places of packages that `eval decisions` does not report.

    The installed model never changes: with --out a copy of it gets the temperature.
    """
    with spinner(f"loading {model} …"):
        from quicksilver.api import load
        from quicksilver.api.loading import find_model
        from quicksilver.checkpoints.folder import copy_folder, require_new_folder
        from quicksilver.cli.held_out import open_split
        from quicksilver.evaluation.suites.decisions import calibrate, decisions_suite, with_temperature

        if out is not None:
            require_new_folder(out)
        suite = decisions_suite(open_split(tokens, SPLIT), count=items, seed=seed)
        loaded = load(model, device=device)
    with Progress(console=Console(stderr=True)) as bar:
        running = bar.add_task(f"{len(suite.items())} decisions", total=len(suite.items()))
        fitted = calibrate(loaded, suite.items(), lambda: bar.advance(running))
    if as_json:
        write_text(json.dumps({"model": loaded.name, **suite.about(), **fitted.to_dict()}, indent=2) + "\n", None)
    else:
        write_text(f"{fitted}\n", None)
    if out is not None:
        copy_folder(find_model(model), out, with_temperature(loaded.spec, fitted.temperature))
