"""`quicksilver serve`: an OpenAI-compatible API for a model."""

import sys
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated

import typer

from quicksilver.cli import options, ranks
from quicksilver.cli.memory import show_plan
from quicksilver.cli.terminal import loading_bar
from quicksilver.errors import ConfigError

EXAMPLES = r"""quicksilver serve
quicksilver serve --model runs/my-model/final --port 9000 --served-model-name gpt-4o mercury-coder
quicksilver serve --model downloads/LLaDA-8B-Instruct --dry-run
torchrun --nproc-per-node 2 -m quicksilver serve --model runs/large      # two processes: docs/parallel.md
quicksilver serve --check 'types=mypy {}' --check 'tests=pytest -q {}'
quicksilver serve --host 0.0.0.0      # needs keys: quicksilver keys create NAME
curl http://127.0.0.1:8080/v1/fim/completions -d '{"prompt": "def add(a, b):\n    return ", "suffix": "\n"}'"""


class LogLevel(StrEnum):
    """Least weight of what is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def command(
    context: typer.Context,
    model: options.Model = options.DEFAULT_MODEL,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Where to listen; 0 takes any free one.")] = 8080,
    served_model_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of the model; may be given several times.")
    ] = None,
    max_open: Annotated[int, typer.Option(metavar="N", help="Requests that wait or run; more are refused.")] = 256,
    keys: Annotated[
        bool | None,
        typer.Option(help="Ask every caller for an API key. [default: only where other machines can reach the server]"),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Of keys and usage, as SQLAlchemy has it. [default: SQLite in QUICKSILVER_HOME]"
        ),
    ] = None,
    price_input: Annotated[str, typer.Option(metavar="DOLLARS", help="Of a million input tokens.")] = "0",
    price_cached: Annotated[str, typer.Option(metavar="DOLLARS", help="Of a million cached input tokens.")] = "0",
    price_output: Annotated[str, typer.Option(metavar="DOLLARS", help="Of a million written tokens.")] = "0",
    drain_seconds: Annotated[
        float, typer.Option(metavar="S", help="How long a shutdown waits for accepted requests.")
    ] = 30.0,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COMMAND",
            help="A command that clients may have filled files checked by, by its name; it runs in a sandbox. May be "
            "given several times.",
        ),
    ] = None,
    accept_unsafe: Annotated[
        bool, typer.Option("--accept-unsafe", help="Run these commands on this machine as it is, without a sandbox.")
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option(help="What the log on stderr tells; info is a line of JSON per request.")
    ] = LogLevel.INFO,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Let logs hold prompts and answers.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    num_pages: Annotated[
        int | None,
        typer.Option(metavar="N", help="Pages of key/value memory. [default: for 64 requests, at most 1 GB]"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what memory it would take, load nothing, and end.")
    ] = False,
) -> None:
    """Serve a model over HTTP: OpenAI's routes, fill-in-the-middle, edits, and a playground in the browser."""
    # Long because every option is a parameter.
    if dry_run:
        if ranks.is_first():
            plan = {"device": device, "dtype": dtype, "quantize": quantize, "num_pages": num_pages}
            show_plan(model, **plan, num_ranks=ranks.count())
        return
    ranks.follow_unless_first(model, device, dtype=dtype, quantize=quantize)
    with loading_bar(f"loading {model}") as progress:
        from quicksilver.sandbox import require_commands
        from quicksilver.server.accounts import Prices
        from quicksilver.server.accounts.home import cache_folder
        from quicksilver.server.app import create_app
        from quicksilver.server.config import ServerConfig
        from quicksilver.server.logs import start
        from quicksilver.server.run import gate_for, serve

        prices = Prices(
            input=_dollars("--price-input", price_input),
            cached=_dollars("--price-cached", price_cached),
            output=_dollars("--price-output", price_output),
        )
        gate = gate_for(host, needs_keys=keys, database=database, prices=prices)
        config = ServerConfig(
            served_names=tuple(served_model_name or ()),
            max_open=max_open,
            constraint_folder=cache_folder() / "constraints",
            drain_seconds=drain_seconds,
            checks=dict(map(_named_command, check or ())),
            confines_checks=not accept_unsafe,
            logs_prompts=log_prompts,
        )
        if config.checks and config.confines_checks:
            require_commands()
        loaded = ranks.load(
            context, model, device, dtype=dtype, quantize=quantize, num_pages=num_pages, progress=progress
        )
        app = create_app(loaded, config, gate=gate, prices=prices)
    start(log_level)
    serve(app, host=host, port=port, on_ready=_greet)


def _dollars(option: str, text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ConfigError(f"{option} must be a number of dollars, got {text!r}") from error


def _named_command(text: str) -> tuple[str, str]:
    name, separator, command = text.partition("=")
    if not (separator and name.strip() and command.strip()):
        raise ConfigError(f"--check is NAME=COMMAND, got {text!r}")
    return name.strip(), command


def _greet(url: str) -> None:
    sys.stderr.write(
        f"""quicksilver serves at {url}
  playground  {url}/
  try         curl {url}/v1/fim/completions -H 'content-type: application/json' \\
                -d '{{"prompt": "def add(a, b):\\n    return ", "suffix": "\\n"}}'
  stop        Ctrl+C
"""
    )
