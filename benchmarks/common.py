"""What the benchmark scripts share: loading, suites, progress, output."""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import cast

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from quicksilver.api import DecodingOptions, InfillLayout, Model
from quicksilver.api.loading import find_model
from quicksilver.checkpoints.folder import TOKENIZER_FILE, model_hash
from quicksilver.checkpoints.loading import load_folder
from quicksilver.cli.held_out import PUBLIC_TEST as SPLIT
from quicksilver.cli.held_out import open_split
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import QuicksilverError, UsageError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.evaluation.suites.execution import Running
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length
from quicksilver.evaluation.suites.registry import Materials, find_suite
from quicksilver.evaluation.tables import markdown_table as markdown_table  # for the scripts
from quicksilver.models.denoiser import Denoiser
from quicksilver.tokenization.tokenizer import Tokenizer

CONTEXT = 512
"""Tokens the bundled models were trained on."""


class Suite(StrEnum):
    """Infill suites of single lines."""

    HUMANEVAL = "humaneval-single-line"
    LINES = "fim-line"


def verbatim(text: str | None) -> str:
    """Help text whose lines are kept as they are: typer rewraps paragraphs that do not start with a backspace."""
    return "\n\n".join("\b\n" + paragraph for paragraph in (text or "").strip().split("\n\n"))


@contextmanager
def reported_errors() -> Iterator[None]:
    """One line on stderr and exit status 2 for bad usage, 1 for other failures, as the command line does."""
    try:
        yield
    except QuicksilverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error


def load_parts(name: str, device: str) -> tuple[Denoiser, DiffusionSpec, Tokenizer]:
    """A checkpoint's parts in float32."""
    folder = find_model(name)
    denoiser, spec = load_folder(folder, torch.float32)
    return denoiser.to(device), spec, Tokenizer.load(folder / TOKENIZER_FILE)


def load_model(name: str, device: str, context: int = CONTEXT) -> Model:
    """A model that sees at most ``context`` tokens, or fewer where it was trained on fewer."""
    denoiser, spec, tokenizer = load_parts(name, device)
    denoiser.config = replace(denoiser.config, max_length=min(context, denoiser.config.max_length))
    return Model(denoiser, spec, tokenizer, name=find_model(name).resolve().name)


def default_layout(model: Model) -> InfillLayout:
    """In place where the model was trained so."""
    is_ar = model.spec.objective is Objective.AUTOREGRESSIVE
    return InfillLayout.PSM if is_ar or "in_place" not in model.spec.layouts else InfillLayout.IN_PLACE


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is measured on what."""

    model: str
    """Checkpoint folder or name."""
    suite: str
    tokens: Path | None
    """Corpus folder; not needed for HumanEval."""
    items: int | None
    """None: all of the suite."""
    context: int
    seed: int
    device: str

    def about(self) -> dict[str, object]:
        """What identifies a run's results, whatever machine it runs on."""
        found: dict[str, object] = {"model": self.model, "model_sha256": model_hash(find_model(self.model))}
        found |= {"suite": self.suite, "items": self.items, "seed": self.seed, "context": self.context}
        found |= {"dtype": "float32", "device": self.device}
        if self.tokens is not None:
            found["tokens_sha256"] = hashlib.sha256((self.tokens / f"{SPLIT}.bin").read_bytes()).hexdigest()
        return found

    def load(self) -> Model:
        """The model, seeing at most the context."""
        return load_model(self.model, self.device, self.context)

    def asked(self, length: Length = Length.UNKNOWN) -> FillSuite:
        """The suite."""
        corpus = None if self.tokens is None else open_split(self.tokens)
        running = Running.OFF if self.suite == Suite.HUMANEVAL else None  # judged by their text
        materials = Materials(corpus=corpus, count=self.items, seed=self.seed, length=length, running=running)
        return cast(FillSuite, find_suite(self.suite).build(materials))

    def holes(self) -> list[InfillItem]:
        """The items of the suite."""
        return list(self.asked().items())


def in_engine(model: Model, layout: InfillLayout, options: DecodingOptions) -> EngineSubject:
    """A model with fixed options, to be asked by a suite."""
    return EngineSubject(name=model.name, model=model, layout=layout, options=options)


def plain(figures: Mapping[str, Interval]) -> dict[str, object]:
    """Figures for a report."""
    return {name: asdict(interval) for name, interval in figures.items()}


def progress() -> Progress:
    """A bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[detail]}"), console=Console(stderr=True))


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write a report; numpy and enumerations have been turned into plain values before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


def finish(out: Path, report: Mapping[str, object], table: str) -> None:
    """Write the JSON report, with command and date, and a Markdown file of the same name; print the table."""
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    write_json(out, {"command": command, "date": datetime.now(UTC).strftime("%Y-%m-%d"), **report})
    out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    sys.stdout.write(table + "\n")
