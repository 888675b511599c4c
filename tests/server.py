"""A real server in a thread of this process, for tests of everything that speaks HTTP."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from quicksilver.api import Model
from quicksilver.checkpoints.folder import CHAT_TEMPLATE_FILE
from quicksilver.protocol.service import ModelPricing
from quicksilver.server.app import FREE, create_app
from quicksilver.server.config import ServerConfig
from quicksilver.server.metering import Gate
from quicksilver.server.service import Service

CHAT_TEMPLATE = "{% for m in messages %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"
_START_S = 60.0
_STOP_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A server that takes requests."""

    url: str
    """``http://127.0.0.1:PORT``, without a path."""
    service: Service

    def wait_until_idle(self, timeout_s: float = 10.0) -> bool:
        """Whether all requests end in time: what is true soon after a client hung up."""
        end = time.monotonic() + timeout_s
        while self.service.num_open and time.monotonic() < end:
            time.sleep(0.005)
        return self.service.num_open == 0


@contextmanager
def serving(
    model: Model, *, gate: Gate | None = None, prices: ModelPricing = FREE, **config: object
) -> Iterator[Served]:
    """Serve a model on a free port of loopback.

    Args:
        model: nothing else may use its engine meanwhile.
        gate: as for ``create_app``.
        prices: as for ``create_app``.
        config: fields of ``ServerConfig``.
    """
    app = create_app(model, ServerConfig(**config), gate=gate, prices=prices)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield Served(url=f"http://127.0.0.1:{listener.getsockname()[1]}", service=app.state.service)
        finally:
            server.should_exit = True
            thread.join(_STOP_S)
    if thread.is_alive():
        raise TimeoutError(f"the server did not stop within {_STOP_S} s")


def add_chat_template(folder: Path) -> Path:
    """Let a checkpoint of ``tiny_checkpoints`` chat; returns its folder."""
    (folder / CHAT_TEMPLATE_FILE).write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    end = time.monotonic() + _START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise TimeoutError("the server did not start")
        time.sleep(0.005)
