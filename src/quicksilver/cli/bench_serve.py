"""`quicksilver bench serve`: a server under load, in an agent's loop, in voice turns."""

import asyncio
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicksilver.cli import options
from quicksilver.cli.files import write_text
from quicksilver.cli.terminal import counting_bar, spinner
from quicksilver.errors import ConfigError

if TYPE_CHECKING:
    from quicksilver.evaluation.load.measuring import Part

EXAMPLES = """quicksilver bench serve http://127.0.0.1:8080
quicksilver bench serve http://127.0.0.1:8080 --rate 1 --rate 4 --rate 16 --json runs/serve.json --plot runs/serve.svg
quicksilver bench serve http://127.0.0.1:8080 --twin http://127.0.0.1:8081 --part agent --part voice"""


def command(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a server of OpenAI's completions API.")],
    twin: Annotated[
        str | None, typer.Option(metavar="URL", help="A second server, measured by turns: the autoregressive twin's.")
    ] = None,
    server_model: options.ServerModel = None,
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="load|agent|voice", help="Only this one; may be repeated. [default: all]"),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(metavar="R", help="Requests a second; may be repeated. [default: 1, 2, 4]")
    ] = None,
    duration: Annotated[float, typer.Option(metavar="S", help="Seconds of every rate.")] = 30.0,
    fill_share: Annotated[
        float, typer.Option(metavar="P", help="Share of short fills among the requests, 0 to 1; the rest is long.")
    ] = 0.8,
    fill_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens of a fill.")] = 24,
    long_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens of a long generation.")] = 128,
    prompt_chars: Annotated[int, typer.Option(metavar="N", help="Characters of every prompt.")] = 600,
    fill_limit_ms: Annotated[
        float, typer.Option(metavar="MS", help="A fill that takes longer is not counted as goodput.")
    ] = 500.0,
    first_limit_ms: Annotated[
        float, typer.Option(metavar="MS", help="Likewise a long generation whose first text takes longer.")
    ] = 1000.0,
    calls: Annotated[int, typer.Option(min=1, metavar="N", help="Dependent calls of the agent's loop.")] = 30,
    turns: Annotated[int, typer.Option(min=1, metavar="N", help="Voice turns.")] = 10,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Voice: ask for an early first text; only quicksilver serve knows it.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the texts and the arrivals.")] = 0,
    report: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures and every request here.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of latency and goodput by rate, .svg or .png.")
    ] = None,
) -> None:
    """Measure a server: under load, in an agent's loop of dependent calls, in voice turns.

    Load: requests arrive as a Poisson process and do not wait for earlier ones; latency counts from when a request was
    due. Agent: what many calls cost whose prompts hold the answers before. Voice: the time to the first text, then a
    barge-in: the call is hung up, and the time until the server's memory is free, as /metrics tells.

    The server must have nothing else to do. A key is read from QUICKSILVER_API_KEY.
    """
    # Long because every option is a parameter.
    with spinner("reading sources …"):
        from quicksilver.evaluation.load import measuring
        from quicksilver.evaluation.load.driving import Limits
        from quicksilver.evaluation.load.plots import plot_load
        from quicksilver.evaluation.load.work import Mix, read_sources
        from quicksilver.evaluation.pictures import require_matplotlib

        if plot is not None:
            require_matplotlib()
        sources = read_sources()
        plan = measuring.Plan(
            parts=tuple(_part(each) for each in part or measuring.Part),
            rates=tuple(rate or (1.0, 2.0, 4.0)),
            duration_s=duration,
            mix=Mix(fill_share=fill_share, fill_tokens=fill_tokens, long_tokens=long_tokens, prompt_chars=prompt_chars),
            limits=Limits(fill_ms=fill_limit_ms, first_ms=first_limit_ms),
            num_calls=calls,
            num_turns=turns,
            is_realtime=realtime,
            seed=seed,
        )
        if plot is not None and measuring.Part.LOAD not in plan.parts:
            raise ConfigError("--plot draws the part load, which is not measured")
    servers = {measuring.SERVER: measuring.Address(url=url, model=server_model)}
    if twin is not None:
        servers[measuring.TWIN] = measuring.Address(url=twin)
    with counting_bar() as bar:
        task = bar.add_task("requests, calls and turns", total=plan.num_steps(len(servers), sources))
        found = asyncio.run(measuring.measure(servers, plan, sources, lambda: bar.advance(task)))
    if report is not None:
        command = shlex.join(["quicksilver", *context.find_root().obj])
        write_text(json.dumps(measuring.as_json(servers, plan, found, command), indent=2) + "\n", report)
    if plot is not None:
        plot_load(list(found.load), plot, " and ".join(each.url for each in servers.values()))
    typer.echo(measuring.tables(found, plan.limits))


def _part(name: str) -> "Part":
    from quicksilver.evaluation.load.measuring import Part

    try:
        return Part(name)
    except ValueError as error:
        raise ConfigError(f"--part is one of {', '.join(Part)}, got {name!r}") from error
