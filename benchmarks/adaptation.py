r"""Adaptation of the autoregressive twin against the same recipe from random weights, and without its parts.

Examples:
  python benchmarks/adaptation.py train adapted --tokens data/corpus --runs runs/adaptation
  python benchmarks/adaptation.py train scratch --tokens data/corpus --runs runs/adaptation --rate 2
  python benchmarks/adaptation.py measure --tokens data/corpus --runs runs/adaptation --out runs/adaptation.json \
      --plot docs/images/adaptation.svg

Every run takes the same steps over the same rows. A run that was stopped goes on when the command is given again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import CONTEXT, SPLIT, finish, load_parts, markdown_table, progress, reported_errors, verbatim, write_json
from plots import plot_adaptation

from quicksilver.api.loading import find_model
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.evaluation import likelihood
from quicksilver.evaluation.likelihood import LikelihoodConfig, LikelihoodSummary, Reading
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.sampling import subsample
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.alignment import AlignmentConfig
from quicksilver.training.corpus.token_file import TokenFile
from quicksilver.training.lr_schedule import WarmupStableDecay
from quicksilver.training.recipe import Recipe, load_recipe
from quicksilver.training.run_folder import RunFolder
from quicksilver.training.tasks.adaptation import AdaptationTaskConfig, BlockStage
from quicksilver.training.trainer import Trainer

TWIN = "quicksilver-coder-ar"
ROWS = 4
"""Rows of 512 tokens a step."""
_RECIPES = Path(__file__).parents[1] / "recipes"


class Variant(StrEnum):
    """What is trained."""

    ADAPTED = "adapted"
    SCRATCH = "scratch"
    """The same recipe from random weights."""
    NO_WARM_UP = "no-warm-up"
    """Blocks of 16 from the first step on."""
    NO_NEXT_TOKEN = "no-next-token"
    """Without the next-token loss."""
    MEAN_ROW = "mean-row"
    """The mask's row starts at the mean of the embeddings, not as that of the end of a text."""
    ALIGNED = "aligned"
    """With hidden states held near the twin's."""
    LORA = "lora"


app = typer.Typer(add_completion=False, rich_markup_mode=None, help=verbatim(__doc__), no_args_is_help=True)


def build(variant: Variant, tokens: Path, steps: int, rate: float, seed: int) -> Recipe:
    """The recipe of a variant; ``rate`` multiplies its learning rates."""
    name = "adapt_lora" if variant is Variant.LORA else "adapt"
    recipe = load_recipe(f"adapt:{name}", _RECIPES)(find_model(TWIN), tokens)
    optimizer = recipe.optimizer
    task = recipe.task
    if not isinstance(task, AdaptationTaskConfig):
        raise TypeError("the recipe has another task")
    task = replace(task, num_rows=ROWS)
    if variant is Variant.NO_WARM_UP:
        task = replace(task, stages=(BlockStage(block_length=16, start=0.0),))
    elif variant is Variant.NO_NEXT_TOKEN:
        task = replace(task, noise=replace(task.noise, next_token_weight=0.0))
    elif variant is Variant.ALIGNED:
        task = replace(task, alignment=AlignmentConfig(teacher=find_model(TWIN)))
    return replace(
        recipe,
        name=f"adaptation-{variant}",
        task=task,
        source=None if variant is Variant.SCRATCH else recipe.source,
        mask_like=None if variant in (Variant.SCRATCH, Variant.MEAN_ROW) else recipe.mask_like,
        schedule=WarmupStableDecay(num_steps=steps, num_warmup_steps=steps // 20, num_decay_steps=3 * steps // 10),
        optimizer=replace(optimizer, muon_lr=rate * optimizer.muon_lr, adam_lr=rate * optimizer.adam_lr),
        checkpoint_steps=25,
        num_kept_checkpoints=1000,
        validation_steps=25,
        seed=seed,
    )


@app.command()
def train(
    variant: Annotated[Variant, typer.Argument(help="What to train.")],
    tokens: Annotated[Path, typer.Option(help="Corpus folder.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")],
    steps: Annotated[int, typer.Option(help="Of 2,048 tokens.")] = 200,
    rate: Annotated[float, typer.Option(help="Times the recipe's learning rates.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of data order and noise.")] = 0,
) -> None:
    """Train one variant, or go on with it."""
    with reported_errors():
        trainer = Trainer(build(variant, tokens, steps, rate, seed), runs / variant.value)
        trainer.resume()
        trainer.run()


@app.command()
def measure(
    tokens: Annotated[Path, typer.Option(help="Corpus folder.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table.")],
    plot: Annotated[Path | None, typer.Option(help="Picture of the curves.")] = None,
    items: Annotated[int, typer.Option(help="Random windows of 511 tokens.")] = 40,
    every: Annotated[int, typer.Option(help="Steps between measured checkpoints.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the windows and the masks.")] = 0,
) -> None:
    """Bits per byte of every run's averaged weights at several checkpoints, on the public test."""
    with reported_errors():
        twin, ar_spec, tokenizer = load_parts(TWIN, "cpu")
        documents = TokenFile.open(tokens, SPLIT)
        sizes = np.array([len(tokenizer.token_bytes(index)) for index in range(tokenizer.vocab_size)])
        windows = subsample(likelihood.cut_windows(documents, sizes, CONTEXT), items, seed)
        config = LikelihoodConfig(block_length=16, num_samples=4, seed=seed)

        def read(denoiser: Denoiser, spec: DiffusionSpec, reading: Reading) -> LikelihoodSummary:
            nats = likelihood.window_nats(denoiser, spec, windows, reading, config)
            return likelihood.summarise(nats, windows, documents, reading, config)

        rows = _measure_runs(runs, every, f"{items}-{seed}", read)
        about = {"model": TWIN, "items": items, "seed": seed, "dtype": "float32", "environment": environment()}
        report = about | {"twin": asdict(read(twin, ar_spec, Reading.EXACT)), "rows": rows}
        finish(out, report, _table(rows))
        if plot is not None:
            plot_adaptation(out, plot)


Read = Callable[[Denoiser, DiffusionSpec, Reading], LikelihoodSummary]


def _measure_runs(runs: Path, every: int, label: str, read: Read) -> list[dict[str, object]]:
    """A row per checkpoint, kept beside the run under ``label``, so that nothing is measured twice."""
    rows: list[dict[str, object]] = []
    found = [
        (folder, path)
        for folder in sorted(path for path in runs.iterdir() if path.name in tuple(Variant))
        for path in RunFolder(folder, 1).checkpoints()
        if int(path.stem.removeprefix("step-")) % every == 0
    ]
    with progress() as bar:
        advance = partial(bar.advance, bar.add_task("checkpoints", total=len(found), detail=""))
        for folder, path in found:
            kept = folder / f"measured-{label}" / f"{path.stem}.json"
            if not kept.is_file():
                denoiser, spec, state = _averaged(folder, path)
                readings = {str(each): asdict(read(denoiser, spec, each)) for each in likelihood.readings(spec)}
                step, num_tokens = state["next_step"], state["tokens_seen"]
                write_json(kept, {"variant": folder.name, "step": step, "tokens": num_tokens, "readings": readings})
            rows.append(json.loads(kept.read_text(encoding="utf-8")))
            advance()
    return rows


def _averaged(folder: Path, path: Path) -> tuple[Denoiser, DiffusionSpec, dict[str, object]]:
    """A checkpoint's averaged weights."""
    tokens = Path(json.loads((folder / "recipe.json").read_text())["task"]["tokens"])
    recipe = build(Variant(folder.name), tokens, steps=100, rate=1.0, seed=0)  # steps and rate change no weight's shape
    state = RunFolder.load(path)
    weights = state["denoiser"] | state["average"]["weights"]  # pyright: ignore[reportOperatorIssue, reportIndexIssue]
    return recipe.denoiser_of(weights), recipe.spec, state


def _table(rows: list[dict[str, object]]) -> str:
    header = ("variant", "step", "tokens", "bound", "chain rule", "next token")
    cells = []
    for row in rows:
        readings: dict[str, dict[str, dict[str, float]]] = row["readings"]  # pyright: ignore[reportAssignmentType]
        values = [f"{each['bits_per_byte']['value']:.3f}" for each in readings.values()]
        cells.append((row["variant"], row["step"], f"{row['tokens']:,}", *values))
    return markdown_table(header, cells)


if __name__ == "__main__":
    app()
