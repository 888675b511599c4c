"""`quicksilver train`: run a recipe."""

import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicksilver.errors import UsageError

if TYPE_CHECKING:
    from quicksilver.training.recipe import Recipe
    from quicksilver.training.trainer import RunResult, Trainer

EXAMPLES = """quicksilver train coder:coder_4m --tokens data/corpus
quicksilver train coder:coder_4m --tokens data/corpus --objective ar
quicksilver train coder:coder_4m --tokens data/corpus --resume
quicksilver train coder:coder_4m --tokens data/corpus --init-from quicksilver-coder --out runs/longer
quicksilver train adapt --from path/to/autoregressive-model --tokens data/tokens
quicksilver train coder:coder_4m --tokens data/corpus --out runs/short \\
    --branch-from runs/quicksilver-coder/checkpoints/step-00001000.pt --steps 1300 --decay-steps 300"""
_EXTRA_OF = {"accelerate": "train", "tensorboard": "train", "peft": "adapt"}
"""The extra that brings a module."""
_OPTION_OF = {"source": "from"}
"""Options that are no Python names, by the recipe's parameter."""


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="FILE:FUNCTION or FUNCTION among the files of --recipes.")
    ],
    recipes: Annotated[Path, typer.Option(metavar="DIR", help="Folder of recipe files.")] = Path("recipes"),
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder. [default: runs/NAME]")] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Corpus folder, for recipes that take one.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODEL", help="Autoregressive folder or bundled model, for recipes that adapt one."
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(metavar="mask|ar", help="Diffusion or its autoregressive twin, for recipes that take it."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's newest checkpoint.")] = False,
    branch_from: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Start from another run's checkpoint, in a new folder.")
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Start at step 0 with the weights of a model folder or bundled model."),
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Steps in all, instead of the recipe's.")] = None,
    decay_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Last steps with a falling learning rate, instead of the recipe's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of data order and noise, instead of the recipe's.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Stop with a checkpoint after this time.")
    ] = None,
) -> None:
    """Train a model by a recipe. Stopping it (Ctrl-C, SIGTERM) writes a checkpoint; --resume goes on bit for bit."""
    _require_one_start({"--resume": resume, "--branch-from": branch_from, "--init-from": init_from})
    _require_one_start({"--from": source, "--init-from": init_from})
    if max_minutes is not None and max_minutes <= 0:
        raise UsageError(f"--max-minutes must be positive, got {max_minutes:g}")
    if branch_from is not None and not branch_from.is_file():
        raise UsageError(f"no checkpoint {branch_from}")
    built = _schedule(_build(recipe, recipes, tokens, objective, source), steps, decay_steps)
    built = built if seed is None else replace(built, seed=seed)
    folder = Path("runs") / built.name if out is None else out
    trainer = _trainer(built, folder)
    if not resume and any((folder / "checkpoints").glob("*.pt")):
        raise UsageError(f"{folder} holds a run already; use --resume to go on with it, or another --out")
    if init_from is not None:
        trainer.start_from(_model_with_tokenizer_of(init_from, tokens))
    elif branch_from is not None:
        trainer.resume(branch_from)
    elif resume and not trainer.resume():
        typer.echo(f"no checkpoint in {folder}: starting at step 0", err=True)
    _run(trainer, max_minutes)


def _require_one_start(given: dict[str, object]) -> None:
    chosen = [name for name, value in given.items() if value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} contradict each other")


def _model_with_tokenizer_of(name: str, tokens: Path | None) -> Path:
    """The model's folder.

    Raises:
        UsageError: the corpus was written with another tokenizer, so the weights would mean nothing there.
    """
    from quicksilver.api.loading import find_model
    from quicksilver.checkpoints.folder import TOKENIZER_FILE

    folder = find_model(name)
    files = [place / TOKENIZER_FILE for place in (folder, tokens) if place is not None]
    contents = [path.read_bytes() for path in files if path.is_file()]
    if len(contents) == 2 and contents[0] != contents[1]:
        raise UsageError(f"{tokens} was written with another tokenizer than that of {folder}")
    return folder


def _build(name: str, recipes: Path, tokens: Path | None, objective: str | None, source: str | None) -> "Recipe":
    """Call the recipe's function with the options it takes.

    Raises:
        UsageError: an option is missing, or the recipe does not take it.
    """
    from quicksilver.diffusion.spec import Objective
    from quicksilver.training.recipe import load_recipe

    if objective is not None and objective not in tuple(Objective):
        raise UsageError(f"no objective {objective!r}; known: {', '.join(Objective)}")
    function: Callable[..., Recipe] = load_recipe(name, recipes)
    taken = inspect.signature(function).parameters
    given = {
        "tokens": tokens,
        "objective": None if objective is None else Objective(objective),
        "source": None if source is None else _model_with_tokenizer_of(source, tokens),
    }
    given = {key: value for key, value in given.items() if value is not None}
    for key in given.keys() - taken:
        raise UsageError(f"recipe {name} takes no --{_OPTION_OF.get(key, key)}")
    for key, parameter in taken.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise UsageError(f"recipe {name} needs --{_OPTION_OF.get(key, key.replace('_', '-'))}")
    return function(**given)


def _schedule(recipe: "Recipe", steps: int | None, decay_steps: int | None) -> "Recipe":
    schedule = recipe.schedule
    changed = replace(
        schedule,
        num_steps=schedule.num_steps if steps is None else steps,
        num_decay_steps=schedule.num_decay_steps if decay_steps is None else decay_steps,
    )
    return replace(recipe, schedule=changed)


def _trainer(recipe: "Recipe", folder: Path) -> "Trainer":
    try:
        from quicksilver.training.trainer import Trainer

        return Trainer(recipe, folder)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get(error.name or "")
        if extra is None:
            raise
        raise UsageError(f"this training needs {error.name}: pip install 'quicksilver-lm[{extra}]'") from error


def _run(trainer: "Trainer", max_minutes: float | None) -> None:
    start = time.monotonic()
    result: RunResult = trainer.run(max_minutes)
    if result.is_finished:
        typer.echo(f"finished after {result.last_step} steps: {result.folder}", err=True)
        return
    typer.echo(f"stopped after {result.last_step} steps; go on with --resume --out {result.folder}", err=True)
    if max_minutes is None or time.monotonic() - start < 60 * max_minutes:
        raise typer.Exit(130)
