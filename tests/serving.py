"""A real server on a free loopback port, in a thread of its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from quicksilver.server.run import listen


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The base URL while the application serves."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 30
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def wait_until(condition, seconds: float = 10.0) -> None:
    """Return once the condition holds; fail if it does not within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true")
        time.sleep(0.005)


def events(response: httpx.Response) -> list[str]:
    """The data of a stream's events; comments are left out."""
    blocks = response.text.split("\n\n")
    return ["\n".join(line[6:] for line in block.split("\n") if line.startswith("data: ")) for block in blocks if block]
