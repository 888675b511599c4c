"""Proof (b): bits per character of tiny Shakespeare under mask, uniform and hybrid noise and autoregressively.

    python benchmarks/proof_shakespeare.py --out runs/proofs

trains the four models at equal size and steps (resumable: run it again), scores the validation split, prints a Markdown
table and writes it as JSON.
Estimators: ``quicksilver.training.tasks.characters.score``.
"""

import lzma
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from proofs import Z_95, markdown_table, provenance, train_or_load, training_seconds, write_json
from rich.console import Console
from rich.progress import track
from torch import Tensor

from quicksilver.diffusion.spec import Objective
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.recipe import load_recipe
from quicksilver.training.tasks.characters import (
    CharactersTaskConfig,
    read_text,
    score,
    unigram_bits,
    validation_windows,
)

shakespeare_tiny = load_recipe("shakespeare:shakespeare_tiny", Path(__file__).parents[1] / "recipes")

_BATCH = 32
_ESTIMATORS = {
    Objective.AUTOREGRESSIVE: "exact",
    Objective.MASK: "bound, exact counts, 16 strata",
    Objective.HYBRID: "bound, continuous time",
    Objective.UNIFORM: "bound, continuous time",
}


def main(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the JSON file.")] = Path("runs/proofs"),
    steps: Annotated[int, typer.Option(help="Training steps of each model.")] = 400,
    minutes: Annotated[
        float | None, typer.Option(help="Stop a training after so many minutes; run again to go on.")
    ] = None,
    stride: Annotated[int, typer.Option(help="Score every stride-th validation window.")] = 1,
    num_times: Annotated[
        int, typer.Option("--times", help="Strata of time per window under uniform and hybrid noise.")
    ] = 32,
    seed: Annotated[int, typer.Option(help="Of the estimators.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train if needed, score the validation split, and report bits per character."""
    torch.set_num_threads(threads)
    task = shakespeare_tiny().task
    assert isinstance(task, CharactersTaskConfig)
    text = read_text(task.text)
    windows = validation_windows(text, task.length)[::stride]
    rows: list[dict[str, object]] = []
    for objective, estimator in _ESTIMATORS.items():
        recipe, folder = shakespeare_tiny(objective, steps), out / f"shakespeare-{objective}"
        denoiser = train_or_load(recipe, folder, minutes)
        if denoiser is None:
            print(f"the {objective} model is not finished; run this command again to go on", file=sys.stderr)
            raise typer.Exit(1)
        mean, error = _bits(denoiser, objective, windows, num_times, seed)
        estimator += f", {num_times} strata" if "time" in estimator else ""
        rows.append(
            {
                "objective": str(objective),
                "bits_per_character": mean,
                "standard_error": error,
                "estimator": estimator,
                "training_seconds": round(training_seconds(folder)),
            }
        )
    report = provenance() | {
        "parameters": shakespeare_tiny().model.num_parameters,
        "steps": steps,
        "characters_per_step": task.batch_size * task.length,
        "window": task.length,
        "windows_scored": len(windows),
        "seed": seed,
        "unigram_bits": unigram_bits(text),
        "xz_bits": _xz_bits(text.symbols, torch.cat([text.train, text.validation])),
        "xz_bits_validation": _xz_bits(text.symbols, text.validation),
        "results": rows,
    }
    write_json(out / "shakespeare.json", report)
    print(_table(rows, report))


def _bits(denoiser: Denoiser, objective: Objective, windows: Tensor, num_times: int, seed: int) -> tuple[float, float]:
    """Mean over windows and its standard error: spread of the text and of the estimator together."""
    start = time.monotonic()
    console = Console(stderr=True)
    shown = track(
        windows.split(_BATCH), f"scoring {objective}", console=console, transient=True, disable=not console.is_terminal
    )
    spec = shakespeare_tiny(objective).spec
    nats = torch.cat(
        [
            score(denoiser, spec, part, num_times=num_times, seed=seed * 1_000_003 + index)
            for index, part in enumerate(shown)
        ]
    )
    bits = nats / (windows.shape[1] * math.log(2))
    mean, error = float(bits.mean()), float(bits.std()) / math.sqrt(len(bits))
    print(f"{objective}: {mean:.3f} bits per character in {time.monotonic() - start:.0f} s", file=sys.stderr)
    return mean, error


def _xz_bits(symbols: str, ids: Tensor) -> float:
    """Compressed size by ``xz -9e`` over the number of characters."""
    raw = "".join(symbols[i] for i in ids.tolist()).encode()
    return 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(ids)


def _table(rows: list[dict[str, object]], report: Mapping[str, object]) -> str:
    body = []
    for row in rows:
        error = float(str(row["standard_error"]))
        body.append(
            [str(row["objective"]), f"{row['bits_per_character']:.3f}", f"± {Z_95 * error:.3f}", str(row["estimator"])]
        )
    body.append(["xz -9e, whole text", f"{report['xz_bits']:.3f}", "", "file size"])
    body.append(["xz -9e, validation split alone", f"{report['xz_bits_validation']:.3f}", "", "file size"])
    body.append(["unigram frequencies", f"{report['unigram_bits']:.3f}", "", "exact"])
    return markdown_table(["model", "bits per character", "95 %", "how"], body)


if __name__ == "__main__":
    typer.run(main)
