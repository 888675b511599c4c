"""The server process: listening, and a shutdown that answers what was accepted."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from quicksilver.errors import ConfigError, UsageError
from quicksilver.server.accounts import Accounts, Prices
from quicksilver.server.metering import Gate, KeyGate, OpenGate
from quicksilver.server.service import Service

_POLL_SECONDS = 0.02


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT refuses new requests, answers the accepted ones, then ends; a second signal ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        """Serve ``config.app``, whose service is told to drain; ``on_ready`` is called once requests are taken."""
        super().__init__(config)
        self._on_ready = on_ready
        self._service = service
        self._drain: asyncio.Task[None] | None = None

    async def main_loop(self) -> None:
        """Until the drain is over."""
        self._loop = asyncio.get_running_loop()
        self._on_ready()
        await super().main_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second signal is uvicorn's own."""
        if self._service.is_draining or not self.started:
            super().handle_exit(sig, frame)
            return
        self._service.is_draining = True
        self._loop.call_soon_threadsafe(self._begin, sig, frame)

    def _begin(self, sig: int, frame: FrameType | None) -> None:
        self._drain = self._loop.create_task(self._finish(sig, frame))

    async def _finish(self, sig: int, frame: FrameType | None) -> None:
        end = self._loop.time() + self._service.config.drain_seconds
        while self._service.num_open and self._loop.time() < end:
            await asyncio.sleep(_POLL_SECONDS)
        # What is left hears it from the engine's end: its consumers get an error, and their clients are told.
        await self._service.stop()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket for connections to an address.

    Raises:
        UsageError: nobody can listen there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from error
    # Accepted connections inherit it. asyncio sets it only where a socket names its protocol, which create_server's
    # do not; without it the second part of an answer waits for the client's delayed acknowledgement, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(app: FastAPI, *, host: str, port: int, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until a signal ends it.

    Args:
        app: made by ``create_app``.
        host: where to listen.
        port: where to listen; 0 takes any free one.
        on_ready: is told the server's URL once it takes requests.

    Raises:
        UsageError: nobody can listen at that address.
    """
    listener = listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # The drain has ended all requests; this is for connections that linger.
        timeout_graceful_shutdown=5,
    )
    server = DrainingServer(config, app.state.service, lambda: on_ready(_url(host, listener)))
    with listener, suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def gate_for(host: str, *, needs_keys: bool | None, database: str | None, prices: Prices) -> Gate:
    """Who may enter a server at an address.

    Args:
        host: where it listens.
        needs_keys: None: only where other machines can reach it.
        database: of keys and usage; None: SQLite in Quicksilver's folder.
        prices: what usage costs.

    Raises:
        ConfigError: the server would be open to others and has no key, or a database is named that nothing reads.
        StorageError: the database cannot be opened.
    """
    if needs_keys is None:
        needs_keys = not is_loopback(host) or database is not None
    if not needs_keys:
        if database is not None:
            raise ConfigError("--database contradicts --no-keys: without keys nothing is recorded")
        return OpenGate()
    accounts = Accounts.open(database, prices=prices)
    keys = accounts.keys()
    if all(key.revoked_at is not None for key in keys):
        raise ConfigError(
            "there is no API key, so nobody could enter: make one with quicksilver keys create NAME, or say --no-keys"
        )
    return KeyGate(accounts)
