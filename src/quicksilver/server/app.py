"""The application: routes, limits, errors, one engine."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quicksilver import __version__
from quicksilver.api import Model
from quicksilver.protocol.service import ModelPricing
from quicksilver.server import errors, logs
from quicksilver.server.accounts import Prices
from quicksilver.server.config import ServerConfig
from quicksilver.server.errors import ApiError, to_response
from quicksilver.server.metering import Gate, OpenGate
from quicksilver.server.routes import apply, chat, completions, decisions, edit, infill, playground, service
from quicksilver.server.service import Service
from quicksilver.server.tracing import Tracing, from_environment


def create_app(
    model: Model,
    config: ServerConfig | None = None,
    *,
    gate: Gate | None = None,
    prices: Prices | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The HTTP application of one model.

    Args:
        model: to serve; nothing else may use its engine meanwhile.
        config: limits; None: defaults.
        gate: who may ask for how much; None: everybody.
        prices: told by the model lists; None: nothing costs anything.
        tracing: spans of requests; None: where the environment says.
    """
    config = ServerConfig() if config is None else config
    served = Service(model, config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with served.running():
            yield

    app = FastAPI(title="Quicksilver", version=__version__, lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.state.service, app.state.gate, app.state.prices = served, gate or OpenGate(), _pricing(prices or Prices())
    for routes in (apply, chat, completions, decisions, edit, infill, service, playground):
        app.include_router(routes.router)
    app.include_router(service.guarded)
    errors.install(app)
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    app.add_middleware(RequestLog, service=served, tracing=tracing or from_environment())
    return app


def _pricing(prices: Prices) -> ModelPricing:
    per_token = [format(price / 10**6, "f") for price in (prices.input, prices.output, prices.cached)]
    return ModelPricing(prompt=per_token[0], completion=per_token[1], input_cache_reads=per_token[2])


class BodyLimit:
    """Refuses bodies above a size, before or while they are read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Guard an application."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await to_response(self._error())(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._error()
            return message

        await self._app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._max_bytes} bytes (max_body_bytes)", code="body_too_large")


class RequestLog:
    """Gives every request an id; when it has ended, counts it and tells log and spans of it."""

    def __init__(self, app: ASGIApp, service: Service, tracing: Tracing) -> None:
        """Watch an application."""
        self._app, self._service, self._tracing = app, service, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = f"req_{uuid.uuid4().hex}"
        # Routes add to the note: tokens, forwards, and prompts where that is asked for.
        note: dict[str, str | int | float] = {"request_id": request_id, "status": 500}
        scope.setdefault("state", {}).update(request_id=request_id, note=note)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                note["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.monotonic() - started) * 1000))
                for name, value in scope["state"].get("headers", {}).items():
                    headers.setdefault(name, value)
            await send(message)

        with self._tracing.span(note):
            try:
                await self._app(scope, receive, noted)
            finally:
                # Not the path: a scanner's random paths would each become a time series.
                note["route"] = getattr(scope.get("route"), "path", "unknown")
                note["seconds"] = round(time.monotonic() - started, 4)
                self._service.metrics.requests.labels(note["route"], str(note["status"])).inc()
                self._service.metrics.latency.labels(note["route"]).observe(time.monotonic() - started)
                logs.request(dict(note))
