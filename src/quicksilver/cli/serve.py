"""`quicksilver serve`: an OpenAI-compatible API for a model."""

import sys
from typing import Annotated

import typer

from quicksilver.cli import options
from quicksilver.cli.terminal import spinner
from quicksilver.errors import ConfigError

EXAMPLES = r"""quicksilver serve
quicksilver serve --model runs/my-model/final --port 9000 --served-model-name gpt-4o mercury-coder
quicksilver serve --host 0.0.0.0      # needs keys: quicksilver keys create NAME
curl http://127.0.0.1:8080/v1/fim/completions -d '{"prompt": "def add(a, b):\n    return ", "suffix": "\n"}'"""


def command(
    model: options.Model = options.DEFAULT_MODEL,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Where to listen; 0 takes any free one.")] = 8080,
    served_model_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of the model; may be given several times.")
    ] = None,
    max_open: Annotated[int, typer.Option(metavar="N", help="Requests that wait or run; more are refused.")] = 256,
    drain_seconds: Annotated[
        float, typer.Option(metavar="S", help="How long a shutdown waits for accepted requests.")
    ] = 30.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Let logs hold prompts and answers.")] = False,
    device: options.Device = None,
) -> None:
    """Serve a model over HTTP: OpenAI's routes, fill-in-the-middle, edits, and a playground in the browser."""
    with spinner(f"loading {model} …"):
        from quicksilver.api import load
        from quicksilver.server.app import create_app
        from quicksilver.server.config import ServerConfig
        from quicksilver.server.run import is_loopback, serve

        if not is_loopback(host):
            raise ConfigError(f"without keys the server listens on loopback only, not on {host}")
        config = ServerConfig(
            served_names=tuple(served_model_name or ()),
            max_open=max_open,
            drain_seconds=drain_seconds,
            logs_prompts=log_prompts,
        )
        loaded = load(model, device=device)
        app = create_app(loaded, config)
    sys.stderr.write(f"{loaded.name} at http://{host}:{port}\n")
    serve(app, host=host, port=port)
