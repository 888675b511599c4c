"""Spans of requests for OpenTelemetry, where its environment variables name a collector."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quicksilver.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """Tells a tracer of every request."""

    def __init__(self, tracer: "Tracer | None") -> None:
        """Use a tracer; None: no spans."""
        self._tracer = tracer

    @contextmanager
    def span(self, attributes: Mapping[str, str | int | float]) -> Iterator[None]:
        """A span around a request; ``attributes`` are read when it ends."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span("request") as span:
            try:
                yield
            finally:
                span.update_name(str(attributes.get("route", "request")))
                span.set_attributes({f"quicksilver.{name}": value for name, value in attributes.items()})


def from_environment() -> Tracing:
    """Spans go where OpenTelemetry's environment variables say; nowhere if they say nothing.

    Raises:
        ConfigError: they name a collector and OpenTelemetry is not installed.
    """
    if not any(os.environ.get(name) for name in _VARIABLES):
        return Tracing(None)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{_VARIABLES[0]} is set, but {error.name} is missing: pip install 'quicksilver-lm[otel]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "quicksilver"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("quicksilver"))
