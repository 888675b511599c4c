"""The ``quicksilver`` command: finds the subcommand, imports that one alone, and turns errors into exit status.

0 done, 1 failed, 2 bad usage or input, 130 interrupted. Expected errors are one line on stderr, never a traceback.
"""

import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from quicksilver import __version__
from quicksilver.cli.options import examples
from quicksilver.errors import QuicksilverError, UsageError

# The base of all errors typer's parser raises; which library defines it differs between versions of typer.
_PARSER_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

_COMMANDS = {
    "infill": "Fill the holes of a file.",
    "generate": "Continue a prompt.",
    "decide": "Say which of some texts stands in a place of a file.",
    "serve": "Serve a model over HTTP.",
    "demo": "Fill a file while you watch, and say what it took.",
    "replay": "Repeat a recorded request and check every forward.",
    "tune": "Find the fastest decoding defaults that are good enough on your prompts.",
    "calibrate": "Fit the temperature of a model's decisions.",
    "eval": "Measure models on suites of questions, with intervals.",
    "bench": "Measure quality against speed, and a server under load.",
    "train": "Train a model by a recipe.",
    "corpus": "Build and look at the training corpus.",
    "import": "Write a published checkpoint as a folder of our own, perhaps quantized.",
    "export": "Write a model as a Hugging Face folder or a GGUF file.",
    "keys": "Make, list and revoke API keys of the server.",
}

_GROUP_EXAMPLES = {
    "bench": "quicksilver bench frontier --items 100\nquicksilver bench serve http://127.0.0.1:8080 --rate 2 --rate 8",
    "corpus": "quicksilver corpus build --profile test --out data/corpus\nquicksilver corpus list --profile laptop",
    "keys": "quicksilver keys create laptop --grant unlimited\nquicksilver keys list\nquicksilver keys revoke laptop",
}
"""Of subcommands that have subcommands of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the installed command exits with the status that this returns.

    Args:
        arguments: without the program's name; None takes the process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        status = _build_app(given)(args=given, prog_name="quicksilver", standalone_mode=False, obj=tuple(given))
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except BrokenPipeError:
        # The reader has gone. Without this the interpreter complains once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except _PARSER_ERROR as error:
        return _usage(error)
    except UsageError as error:
        return _fail(str(error), 2)
    except QuicksilverError as error:
        return _fail(str(error), 1)


def _usage(error: Exception) -> int:
    message = str(getattr(error, "format_message", error.__str__)())
    if message.startswith("Usage:"):  # a group without a subcommand answers with its help
        sys.stderr.write(message + "\n")
        return 2
    return _fail(message[:1].lower() + message[1:].rstrip("."), 2)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"quicksilver: error: {' '.join(message.split())}\n")
    return status


def _build_app(arguments: Sequence[str]) -> typer.Typer:
    """All subcommands by name, the asked one with its options; importing one can take seconds."""
    app = typer.Typer(
        help="Quicksilver: diffusion language models that write and mend code.",
        epilog=examples("printf 'def mean(xs):\\n    return <FILL>\\n' | quicksilver infill -\nquicksilver demo"),
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        if name != asked:
            app.command(name, help=summary)(_unused)
            continue
        # A module cannot be called import.
        module = importlib.import_module(f"quicksilver.cli.{name}{'_' if keyword.iskeyword(name) else ''}")
        if isinstance(getattr(module, "app", None), typer.Typer):
            app.add_typer(module.app, name=name, epilog=examples(_GROUP_EXAMPLES[name]))
        else:
            app.command(name, epilog=examples(module.EXAMPLES))(module.command)
    return app


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=lambda value: _version(value)
        ),
    ] = False,
) -> None:
    pass


def _version(is_asked: bool) -> bool:
    if is_asked:
        typer.echo(f"quicksilver {__version__}")
        raise typer.Exit
    return is_asked


def _unused() -> None:
    """Stand-in for a subcommand that was not asked for."""
