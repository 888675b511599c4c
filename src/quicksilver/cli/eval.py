"""`quicksilver eval`: put models to a suite of questions."""

import json
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from quicksilver.cli import options
from quicksilver.cli.files import write_text
from quicksilver.cli.terminal import loading_bar, spinner
from quicksilver.errors import ConfigError

if TYPE_CHECKING:
    from quicksilver.evaluation.running import Record, Sampling, Side
    from quicksilver.evaluation.subject import Editor, Subject
    from quicksilver.evaluation.subjects import Settings
    from quicksilver.evaluation.suite import Suite
    from quicksilver.evaluation.suites.execution import Running
    from quicksilver.evaluation.suites.filling import Length
    from quicksilver.evaluation.suites.registry import Entry

EXAMPLES = """quicksilver eval list
quicksilver eval humaneval-single-line --items 100
quicksilver eval humaneval-single-line --length one-line --json runs/lines.json
quicksilver eval fim-line --tokens data/corpus --model quicksilver-coder --model quicksilver-coder-ar
quicksilver eval lm --tokens data/corpus --items 400 --samples 2 --json runs/bits.json
quicksilver eval humaneval --samples 20 --temperature 0.8 --json runs/pass.json
quicksilver eval humaneval-plus --data HumanEvalPlus.jsonl.gz
quicksilver eval mbpp --validate"""


_OF_VALIDATION = {"suite", "validate", "report", "data", "package", "items", "seed", "sandbox", "accept_unsafe"}
"""Options that say something to --validate."""
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[so_far]}"),
)


def command(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Name of a suite; list shows them all.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Whom to ask: a bundled model or a checkpoint folder; several are asked by turns and compared with "
            f"the first. [default: {options.DEFAULT_MODEL}]",
        ),
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Ask the model behind this URL; may be repeated too.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the report here, and beside it every answer: the same command goes on where it stopped.",
        ),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that quicksilver corpus build wrote.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Folder of the sets, or the suite's own file. [default: the repository's data/eval]",
        ),
    ] = None,
    package: Annotated[
        Path | None,
        typer.Option(metavar="WHEEL|DIR", help="Of fim-exec: networkx as pinned. [default: the installed one]"),
    ] = None,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate",
            help="Ask nobody: show that the references pass and that wrong answers do not, for all items or --items.",
        ),
    ] = False,
    sandbox: Annotated[
        str | None,
        typer.Option(
            metavar="fast|strict|off",
            help="Where answers run: in sandboxes that are used again, in one for each, or not at all, which leaves "
            "figures of a hole's text. [default: fast]",
        ),
    ] = None,
    accept_unsafe: Annotated[
        bool, typer.Option("--accept-unsafe", help="Run answers even where this machine cannot confine them.")
    ] = False,
    items: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Random items; of lm windows. [default: the suite's]")
    ] = None,
    length: Annotated[
        str,
        typer.Option(
            metavar="unknown|one-line|given",
            help="What is told of a hole: nothing; nothing, but the answer ends at its first line end; its tokens.",
        ),
    ] = "unknown",
    samples: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Answers per item; of lm random masks per window. [default: 1; of lm 4]"),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, metavar="T", help="0 takes the most probable tokens.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the items and the answers.")] = 0,
    layout: Annotated[
        str | None,
        typer.Option(metavar="in_place|psm", help="Holes in place, or after prefix and suffix. [default: the model's]"),
    ] = None,
    policy: options.Policy = None,
    threshold: options.Threshold = None,
    steps: options.Steps = None,
    revision: options.Revision = None,
    block_length: options.BlockLength = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    max_nfe: options.MaxNfe = None,
    cache: options.Cache = None,
    refresh_every: options.RefreshEvery = None,
    max_length: Annotated[
        int | None, typer.Option("--context", metavar="N", help="Most tokens the model sees. [default: the model's]")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
) -> None:
    """Measure models: quality with 95 % intervals (bootstrap over items), speed, and paired differences.

    Nothing is fetched: sets that others made lie in the repository, held-out packages in the corpus.
    """
    # Long because every option is a parameter.
    if suite == "list":
        write_text(_list() + "\n", None)
        return
    if validate:
        _check_validation(context)
    decoding = {
        "policy": policy,
        "threshold": threshold,
        "steps": steps,
        "revision": revision,
        "block_length": block_length,
        "top_k": top_k,
        "top_p": top_p,
        "max_nfe": max_nfe,
        "cache": cache,
        "refresh_every": refresh_every,
    }
    given = {name: value for name, value in decoding.items() if value is not None}
    with spinner("reading the suite …"):
        from quicksilver.cli.held_out import open_split
        from quicksilver.evaluation.report import as_json, as_table, columns
        from quicksilver.evaluation.running import Sampling, Side
        from quicksilver.evaluation.subjects import Settings
        from quicksilver.evaluation.suites.registry import Kind, Materials, find_suite

        entry = find_suite(suite)
        entry.check_decoding(given | ({} if layout is None else {"layout": layout}))
        is_read = entry.kind is Kind.LIKELIHOODS
        sampling = Sampling(num_samples=1 if is_read else samples or 1, seed=seed, temperature=temperature)
        made = entry.build(
            Materials(
                data=data,
                corpus=None if tokens is None else open_split(tokens),
                count=items,
                seed=seed,
                length=_length(length),
                context=max_length,
                block_length=block_length,
                num_draws=samples,
                has_all=validate,
                running=_running(sandbox),
                accept_unsafe=accept_unsafe,
                package=package,
            )
        )
    if validate:
        _validate(made, report, _command(context))
        return
    settings = Settings(
        device=device,
        dtype=dtype,
        quantize=quantize,
        context=max_length,
        layout=layout,
        decoding={} if is_read else given,
    )
    specs = [*(model or ()), *(server or ())] or [options.DEFAULT_MODEL]
    with ExitStack() as servers:
        load = partial(_editor, servers) if entry.kind is Kind.EDITS else _load
        sides = [Side(subject=load(spec, settings)) for spec in specs]
        _keep(made, sides, sampling, report)
        _ask(made, sides, sampling)
    found = columns(made, sides)
    if report is not None:
        write_text(json.dumps(as_json(made, found, sampling, _command(context)), indent=2) + "\n", report)
    write_text(f"{made.name}, {len(made.items())} items\n\n{as_table(found)}\n", None)


def _check_validation(context: typer.Context) -> None:
    """Raise ConfigError if an option is given that says nothing where nobody is asked."""
    said = options.said(context)
    unread = sorted(set(said) - _OF_VALIDATION)
    if unread:
        raise ConfigError(f"--validate asks nobody, so {', '.join(unread)} would be ignored")


def _validate(suite: "Suite[Any]", report: Path | None, command: str) -> None:
    """Judge answers that are known to be right or wrong; exit status 1 if one is not judged so."""
    from quicksilver.evaluation.validation import as_json, as_table, controls_of
    from quicksilver.evaluation.validation import validate as validated

    total = len(controls_of(suite))
    with Progress(*_COLUMNS, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{suite.name}, validation", total=total, so_far="")
        tallies = validated(suite, lambda: bar.advance(task))
    if report is not None:
        write_text(json.dumps(as_json(suite, tallies, command), indent=2) + "\n", report)
    write_text(f"{suite.name}, {len(suite.items())} items\n\n{as_table(tallies)}\n", None)
    if any(tally.surprises for tally in tallies):
        raise typer.Exit(1)


def _list() -> str:
    """Every suite: what it asks, needs and measures."""
    from quicksilver.evaluation.suites.registry import ENTRIES, Kind
    from quicksilver.evaluation.tables import markdown_table

    def needs(entry: "Entry") -> str:
        parts = {
            "--tokens": entry.needs_corpus,
            "a server, its own": entry.kind is Kind.EDITS,
            "a sandbox": entry.is_run,
            "networkx": entry.has_package,
        }
        return ", ".join(part for part, is_needed in parts.items() if is_needed)

    rows = [(entry.name, entry.kind.value, needs(entry), entry.measures) for entry in ENTRIES]
    return markdown_table(("suite", "asks", "needs", "measures"), rows)


def _length(name: str) -> "Length":
    from quicksilver.evaluation.suites.filling import Length

    try:
        return Length(name)
    except ValueError as error:
        raise ConfigError(f"--length is one of {', '.join(Length)}, got {name!r}") from error


def _running(name: str | None) -> "Running | None":
    from quicksilver.evaluation.suites.execution import Running

    try:
        return None if name is None else Running(name)
    except ValueError as error:
        raise ConfigError(f"--sandbox is one of {', '.join(Running)}, got {name!r}") from error


def _load(spec: str, settings: "Settings") -> "Subject":
    from quicksilver.evaluation.subjects import make_subject

    with loading_bar(f"loading {spec}") as progress:
        return make_subject(spec, settings, progress=progress)


def _editor(servers: ExitStack, spec: str, settings: "Settings") -> "Editor":
    """A subject with routes that change code; a local model gets a server, which ends with ``servers``."""
    from quicksilver.cli.serving import served
    from quicksilver.client import Client, RequestOptions
    from quicksilver.evaluation.subjects.editing import EditingSubject
    from quicksilver.evaluation.subjects.engine import EngineSubject
    from quicksilver.evaluation.subjects.http import HttpSubject

    subject = _load(spec, settings)
    if isinstance(subject, EngineSubject):
        client = servers.enter_context(Client(servers.enter_context(served(subject.model))))
    elif isinstance(subject, HttpSubject):
        client = servers.enter_context(subject.client)
    else:
        raise ConfigError(f"{spec} has no routes that change code; name a server, or a model of our engine")
    return EditingSubject(subject=subject, client=client, options=RequestOptions(**settings.decoding))


def _keep(suite: "Suite[Any]", sides: "list[Side]", sampling: "Sampling", report: Path | None) -> None:
    """Give every subject a log beside the report."""
    if report is None:
        return
    from quicksilver.evaluation.results import ResultLog

    for number, side in enumerate(sides, 1):
        identity = {"suite": dict(suite.about()), "subject": dict(side.subject.about()), **asdict(sampling)}
        part = ".items.jsonl" if len(sides) == 1 else f".{number}.items.jsonl"
        side.log = ResultLog(report.with_suffix(part), json.loads(json.dumps(identity, default=str)))


def _ask(suite: "Suite[Any]", sides: "list[Side]", sampling: "Sampling") -> None:
    """Run it, with the headline so far."""
    from quicksilver.evaluation.running import compare

    items = suite.items()
    with Progress(*_COLUMNS, console=Console(stderr=True)) as bar:
        for side in sides:
            total = len(items) * sampling.num_samples
            task = bar.add_task(f"{suite.name}, {side.subject.name}", total=total, so_far="")
            side.on_record = _follower(bar, task, suite.headline)
        compare(suite, sides, items, sampling)


def _follower(bar: Progress, task: TaskID, headline: str) -> "Callable[[Record], None]":
    """Advances a bar and shows the mean of the headline so far."""
    numerator = denominator = 0.0

    def follow(record: "Record") -> None:
        nonlocal numerator, denominator
        value = record.mark.values.get(headline)
        part = record.mark.ratios.get(headline, (0.0, 0.0)) if value is None else (value, 1.0)
        numerator, denominator = numerator + part[0], denominator + part[1]
        so_far = f"{headline} {numerator / denominator:.3f}" if denominator else ""
        bar.update(task, advance=1, so_far=so_far)

    return follow


def _command(context: typer.Context) -> str:
    return shlex.join(["quicksilver", *context.find_root().obj])
