"""`quicksilver bench frontier`: quality against speed."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quicksilver.cli import options
from quicksilver.cli.terminal import counting_bar, loading_bar, spinner
from quicksilver.errors import ConfigError

if TYPE_CHECKING:
    from quicksilver.evaluation.frontier.crossover import Comparison, Duel
    from quicksilver.evaluation.frontier.sweep import Contender
    from quicksilver.evaluation.subjects.engine import EngineSubject
    from quicksilver.evaluation.suites.filling import FillSuite

EXAMPLES = """quicksilver bench frontier --items 100 --length one-line --out docs/report
quicksilver bench frontier --suite fim-line --tokens data/corpus --policy confidence_threshold --block-length 16
quicksilver bench frontier --baseline transformers:quicksilver-coder-ar --baseline llama.cpp:twin.gguf"""


def command(
    context: typer.Context,
    model: options.Model = options.DEFAULT_MODEL,
    twin: Annotated[
        str,
        typer.Option(metavar="NAME|FOLDER|none", help="An autoregressive checkpoint of the same size and data."),
    ] = "quicksilver-coder-ar",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="Anything else that answers: NAME|FOLDER, transformers:FOLDER, llama.cpp:FILE, http://HOST/v1#MODEL; "
            "may be repeated.",
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="Whose holes are filled; quicksilver eval list shows them.")
    ] = "humaneval-single-line",
    tokens: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that quicksilver corpus build wrote.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the sets. [default: the repository's data/eval]")
    ] = None,
    items: Annotated[int, typer.Option(min=1, metavar="N", help="Random items, the same for all.")] = 150,
    length: Annotated[
        str, typer.Option(metavar="unknown|one-line|given", help="What is told of a hole, as in quicksilver eval.")
    ] = "one-line",
    quality: Annotated[
        str | None, typer.Option(metavar="FIGURE", help="What counts as quality. [default: the suite's headline]")
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option(metavar="in_place|psm", help="Only this one; may be repeated. [default: all that were trained]"),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one, with all its parameters; may be repeated.")
    ] = None,
    block_length: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Only this one, in psm; may be repeated.")
    ] = None,
    cache: options.Cache = None,
    tolerance: Annotated[
        float, typer.Option(metavar="Q", help="Quality below the twin's that still counts as equal.")
    ] = 0.01,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Of every condition of the crossover.")] = 3,
    crossover: Annotated[
        bool, typer.Option(help="Measure where diffusion begins to lose to the twin: output, context, load.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of items, answers and contexts.")] = 0,
    max_length: Annotated[
        int | None, typer.Option("--context", metavar="N", help="Most tokens a model sees. [default: the model's]")
    ] = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of the CPU. [default: as many as torch takes]")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Page, pictures and figures; in DIR/answers every answer, to go on from."),
    ] = Path("docs/report"),
) -> None:
    """Sweep policies, thresholds, block lengths and forwards on a suite, beside the twin, and write a report.

    The report is a page that needs no network, with pictures, tables and what they say; frontier.json has all figures.
    The same command goes on where an interrupted run stopped. Run it on a machine that does nothing else.
    """
    # Long because every option is a parameter.
    with spinner("reading the suite …"):
        import torch

        from quicksilver.evaluation.frontier.page import Report, require_libraries, write_report
        from quicksilver.evaluation.frontier.sweep import mark_chosen, run_sweep
        from quicksilver.evaluation.provenance import environment
        from quicksilver.evaluation.running import Sampling
        from quicksilver.evaluation.subjects import Settings

        require_libraries()
        if threads is not None:
            torch.set_num_threads(threads)
        made = _suite(suite, tokens, data, items, length, seed)
    settings = Settings(device=device, dtype=dtype, context=max_length)
    twin_name = None if twin == "none" else twin
    ours, twins, contenders = _contenders(
        model, twin_name, baseline or [], settings, cache, layouts=layout, policies=policy, block_lengths=block_length
    )
    figure, machine = quality or made.headline, environment()
    with counting_bar() as bar:
        task = bar.add_task(f"{len(contenders)} contenders", total=len(contenders) * len(made.items()))
        points = run_sweep(
            made,
            contenders,
            Sampling(seed=seed),
            figure,
            folder=out / "answers",
            machine=machine,
            advance=lambda: bar.advance(task),
        )
    points = mark_chosen(points, tolerance)
    winner = next(each for each, point in zip(contenders, points, strict=True) if point.is_compared)
    duel = None
    comparisons: list[Comparison] = []
    if twins is not None and crossover:
        duel = _duel(winner, twins, made, rounds, seed)
        comparisons = _compare(duel, winner, out / "answers", machine)
    report = Report(
        model=ours.name,
        twin=None if twins is None else twins.name,
        suite=made.about(),
        num_items=len(made.items()),
        quality=figure,
        tolerance=tolerance,
        points=points,
        comparisons=comparisons,
        base=None if duel is None else duel.base,
        subjects=[each.subject.about() for each in contenders],
        seed=seed,
        environment=machine,
        command=shlex.join(["quicksilver", *context.find_root().obj]),
    )
    for sentence in report.words():
        typer.echo(sentence)
    for path in write_report(report, out):
        typer.echo(f"wrote {path}", err=True)


def _suite(name: str, tokens: Path | None, data: Path | None, items: int, length: str, seed: int) -> "FillSuite":
    from quicksilver.cli.held_out import open_split
    from quicksilver.evaluation.suites.execution import Running
    from quicksilver.evaluation.suites.filling import FillSuite, Length
    from quicksilver.evaluation.suites.registry import Kind, Materials, find_suite

    entry = find_suite(name)
    if entry.kind is not Kind.HOLES:
        raise ConfigError(f"suite {name} asks {entry.kind}; quality against speed is measured on holes")
    if length not in tuple(Length):
        raise ConfigError(f"--length is one of {', '.join(Length)}, got {length!r}")
    materials = Materials(
        data=data,
        corpus=None if tokens is None else open_split(tokens),
        count=items,
        seed=seed,
        length=Length(length),
        running=Running.OFF if entry.is_run else None,  # what is run takes longer than what answers
    )
    made = entry.build(materials)
    if not isinstance(made, FillSuite):
        raise ConfigError(f"suite {name} has no single holes")
    return made


def _contenders(
    model: str,
    twin: str | None,
    baselines: list[str],
    settings: Any,  # noqa: ANN401  # subjects.Settings, which would import torch
    cache: str | None,
    *,
    layouts: list[str] | None,
    policies: list[str] | None,
    block_lengths: list[int] | None,
) -> "tuple[EngineSubject, EngineSubject | None, list[Contender]]":
    """The model, its twin and everyone who is asked."""
    from quicksilver.api import InfillLayout
    from quicksilver.api.requests import parse_layout
    from quicksilver.diffusion.spec import Objective
    from quicksilver.evaluation.frontier.settings import make_settings
    from quicksilver.evaluation.frontier.sweep import baseline_contender, diffusion_contenders, twin_contender
    from quicksilver.evaluation.subjects import make_subject

    ours = _load(model, settings)
    wanted = [parse_layout(each) or InfillLayout.PSM for each in layouts or ()]
    tried = make_settings(ours.model.spec, layouts=wanted, policies=policies or (), block_lengths=block_lengths or ())
    found = diffusion_contenders(ours, tried, cache)
    twins = None
    if twin is not None:
        twins = _load(twin, settings)
        if twins.model.spec.objective is not Objective.AUTOREGRESSIVE:
            raise ConfigError(f"--twin is an autoregressive checkpoint, or none; {twin} is a diffusion model")
        found.append(twin_contender(twins))
    for number, spec in enumerate(baselines, 1):
        with loading_bar(f"loading {spec}") as bar:
            found.append(baseline_contender(make_subject(spec, progress=bar), number))
    return ours, twins, found


def _load(name: str, settings: Any) -> "EngineSubject":  # noqa: ANN401  # as above
    from quicksilver.evaluation.subjects.engine import load_subject

    with loading_bar(f"loading {name}") as bar:
        return load_subject(name, settings, bar)


def _duel(winner: "Contender", twins: "EngineSubject", suite: "FillSuite", rounds: int, seed: int) -> "Duel":
    from quicksilver.evaluation.frontier import crossover
    from quicksilver.evaluation.subjects.engine import EngineSubject

    if not isinstance(winner.subject, EngineSubject):
        raise ConfigError("only a setting in our engine can be compared under load")
    sources = [item.prefix + item.middle + item.suffix for item in suite.items()]
    most = min(winner.subject.model.max_length, twins.model.max_length)
    return crossover.Duel(
        diffusion=winner.subject,
        twin=twins,
        texts=crossover.make_texts(winner.subject.model.tokenizer, sources, seed),
        base=crossover.default_base(most),
        rounds=rounds,
        requests=crossover.REQUESTS,
    )


def _compare(duel: "Duel", winner: "Contender", folder: Path, machine: dict[str, object]) -> "list[Comparison]":
    from quicksilver.evaluation.frontier.crossover import Axis
    from quicksilver.evaluation.results import ResultLog

    identity = {
        "diffusion": dict(duel.diffusion.about()),
        "twin": dict(duel.twin.about()),
        "base": asdict(duel.base),
        "rounds": duel.rounds,
        "requests": duel.requests,
        "machine": machine,
    }
    log = ResultLog(folder / f"crossover-{winner.slug}.jsonl", json.loads(json.dumps(identity, default=str)))
    with counting_bar() as bar:
        task = bar.add_task("crossover", total=sum(len(duel.values(axis)) for axis in Axis))
        return duel.run(log, lambda: bar.advance(task))
