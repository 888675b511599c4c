"""`quicksilver corpus`: build the training corpus from its lock."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from quicksilver.api.loading import find_model
from quicksilver.cli.corpus_inspect import inspect
from quicksilver.training.corpus.build import BuildConfig, CorpusMeta, build_corpus
from quicksilver.training.corpus.lock import Profile, read_lock
from quicksilver.training.corpus.texts import tokenize_texts

app = typer.Typer(name="corpus", help="Build the training corpus from pinned Python wheels.", no_args_is_help=True)
app.command()(inspect)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("[dim]{task.fields[detail]}"), console=console)


class _Bars:
    """One progress bar per build step, on the error stream so that standard output stays clean."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, step: str, total: int) -> None:
        self._task = self._progress.add_task(step, total=total, detail="", visible=total > 0)

    def advance(self, units: int, detail: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, advance=units, detail=detail)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the corpus; a build that was interrupted goes on.")],
    profile: Annotated[Profile, typer.Option(help="Text: test 5 MB, laptop 111 MB, full 169 MB.")] = Profile.FULL,
    wheels: Annotated[Path | None, typer.Option(help="Folder of the wheels; missing ones are downloaded.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this tokenizer.json instead of training one.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Ids of the tokenizer that is trained.")] = 8192,
    lock: Annotated[Path | None, typer.Option(help="Another lock file than the built-in one.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that read wheels; all cores by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print meta.json instead of a table.")] = False,
) -> None:
    """Download the pinned wheels, filter and split their sources, train the tokenizer, write token files."""
    console = Console(stderr=True)
    config = BuildConfig(
        profile=profile,
        out=out,
        wheels=wheels,
        lock=lock,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        jobs=jobs if jobs is not None else os.cpu_count() or 1,
    )
    with _progress(console) as progress:
        meta = build_corpus(config, _Bars(progress))
    if meta.expected_corpus_id not in (None, meta.corpus_id):
        console.print(f"[yellow]warning:[/] corpus id {meta.corpus_id} is not the lock's {meta.expected_corpus_id}")
    if as_json:
        typer.echo(json.dumps(asdict(meta), indent=2))
    else:
        Console().print(_table(meta))


@app.command()
def tokenize(
    texts: Annotated[Path, typer.Argument(metavar="FOLDER", help="Text files, subfolders included.", exists=True)],
    model: Annotated[str, typer.Option(metavar="MODEL", help="Folder or bundled model whose tokenizer is used.")],
    out: Annotated[Path, typer.Option(help="Folder of the token files, for `train --tokens`.")],
    suffix: Annotated[str, typer.Option(help="Only files that end so, for example .py.")] = "",
) -> None:
    """Write token files of your own texts for any model, for example one to adapt."""
    with _progress(Console(stderr=True)) as progress:
        written = tokenize_texts(texts, find_model(model), out, suffix=suffix, progress=_Bars(progress))
    for split, tokens in written.items():
        typer.echo(f"{split}: {tokens.num_docs:,} documents, {tokens.num_tokens:,} tokens", err=True)


@app.command("list")
def list_packages(
    profile: Annotated[Profile, typer.Option(help="Whose packages.")] = Profile.FULL,
    lock: Annotated[Path | None, typer.Option(help="Another lock file than the built-in one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the pinned packages with their licences and splits."""
    packages = read_lock(lock).of_profile(profile)
    if as_json:
        rows = [
            {"package": row.package, "version": row.version, "licence": row.licence, "split": row.split.value}
            for row in packages
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("package", "version", "licence", "split")
    for package in packages:
        table.add_row(package.package, package.version, package.licence, package.split.value)
    Console().print(table)


def _table(meta: CorpusMeta) -> Table:
    title = f"corpus {meta.profile} {meta.corpus_id[:12]}"
    table = Table("split", "documents", "MB", "tokens", "bytes/token", title=title)
    for name, size in meta.splits.items():
        ratio = f"{size.bytes / size.tokens:.3f}" if size.tokens else "-"
        table.add_row(name, f"{size.documents:,}", f"{size.bytes / 1e6:.1f}", f"{size.tokens:,}", ratio)
    return table
