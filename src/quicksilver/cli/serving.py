"""A server for the time of a command."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from quicksilver.api import Model
from quicksilver.errors import ServerError
from quicksilver.server.app import create_app
from quicksilver.server.run import listen

_START_S = 60.0


@contextmanager
def served(model: Model) -> Iterator[str]:
    """The URL of a server of a model, which nothing else may use meanwhile; only this machine can reach it.

    Raises:
        ServerError: it does not start.
    """
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def main_loop(self) -> None:
            ready.set()
            await super().main_loop()

    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(model), log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    with listener:
        thread.start()
        try:
            if not ready.wait(_START_S):
                raise ServerError(f"the server of {model.name} did not start within {_START_S:g} s")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
