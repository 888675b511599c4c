"""`quicksilver corpus inspect`: look at one row of a training batch."""

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quicksilver.errors import UsageError


class RowObjective(StrEnum):
    """Objectives with rows to look at."""

    MASK = "mask"
    AR = "ar"


class RowKind(StrEnum):
    """Layouts of a step's rows."""

    BLOCK = "block"
    IN_PLACE = "in-place"


def inspect(
    tokens: Annotated[Path, typer.Option(metavar="DIR", help="Corpus folder.")],
    objective: Annotated[RowObjective, typer.Option(help="Diffusion or its autoregressive twin.")] = RowObjective.MASK,
    kind: Annotated[RowKind, typer.Option(help="Block-causal or in-place rows.")] = RowKind.BLOCK,
    step: Annotated[int, typer.Option(min=0, metavar="N", help="Training step.")] = 0,
    row: Annotated[int, typer.Option(min=0, metavar="R", help="Row of this kind in the step.")] = 0,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="The run's seed.")] = 0,
    length: Annotated[int, typer.Option(min=48, metavar="L", help="Tokens per row.")] = 512,
    has_edits: Annotated[bool, typer.Option("--edits", help="With edit noise, as in the last part of a run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same facts as JSON.")] = False,
) -> None:
    """Show one row of a training batch: masks, edits, labels, weights, and who sees whom."""
    # Imported here: torch takes seconds that `quicksilver corpus --help` should not.
    from quicksilver.diffusion.spec import DiffusionSpec, NoiseRates, Objective
    from quicksilver.tokenization.tokenizer import Tokenizer
    from quicksilver.training.code_task import CodeTaskConfig, special_ids
    from quicksilver.training.data.inspect import describe, render
    from quicksilver.training.data.noising import NoiseConfig
    from quicksilver.training.lr_schedule import WarmupStableDecay

    config = CodeTaskConfig(
        tokens=tokens, row_length=length, rows_per_forward=1, noise=NoiseConfig(edit_start=0.0 if has_edits else 1.0)
    )
    num_rows = config.num_block_rows if kind is RowKind.BLOCK else config.num_in_place_rows
    if row >= num_rows:
        raise UsageError(f"--row must be below {num_rows}, the {kind} rows of a step; got {row}")
    is_ar = objective is RowObjective.AR
    spec = DiffusionSpec(
        objective=Objective(objective.value),
        special=special_ids(),
        block_length=1 if is_ar else 16,
        prediction_shift=int(is_ar),
        noise=NoiseRates(has_length_noise=not is_ar),
    )
    schedule = WarmupStableDecay(num_steps=step + 1, num_warmup_steps=0, num_decay_steps=0)
    batches = config.build(spec, schedule, seed).micro_batches(step, 0, 1)
    batch = batches[row if kind is RowKind.BLOCK else config.num_block_rows + row]
    facts = describe(batch, Tokenizer.load(tokens / "tokenizer.json"), spec)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(facts), ensure_ascii=False))
        return
    console = Console()
    title = f"{objective} {kind} row {row} of step {step}, seed {seed}"
    console.print(render(facts, has_colour=console.color_system is not None, title=title))
