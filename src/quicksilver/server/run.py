"""The server process: listening, and a shutdown that answers what was accepted."""

import asyncio
from types import FrameType

import uvicorn
from fastapi import FastAPI

from quicksilver.errors import UsageError
from quicksilver.server.service import Service

_POLL_SECONDS = 0.02


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT refuses new requests, answers the accepted ones, then ends; a second signal ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        """Serve ``config.app``, whose service is told to drain."""
        super().__init__(config)
        self._service = service
        self._drain: asyncio.Task[None] | None = None

    async def main_loop(self) -> None:
        """Until the drain is over."""
        self._loop = asyncio.get_running_loop()
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


def serve(app: FastAPI, *, host: str, port: int) -> None:
    """Serve until a signal ends it.

    Raises:
        UsageError: nobody can listen at that address.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        # The drain has ended all requests; this is for connections that linger.
        timeout_graceful_shutdown=5,
    )
    server = DrainingServer(config, app.state.service)
    try:
        server.run()
    except SystemExit as error:
        raise UsageError(f"cannot listen at {host}:{port}; is something else there? choose another --port") from error
    except KeyboardInterrupt:
        pass
    if not server.started:
        raise UsageError(f"cannot listen at {host}:{port}; is something else there? choose another --port")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in ("localhost", "::1") or host.startswith("127.")
