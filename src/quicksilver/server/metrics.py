"""Counters and histograms for Prometheus, of things that matter in diffusion decoding."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from quicksilver.engine.engine import Engine
from quicksilver.engine.request import Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TPF = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
_RATES = (5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)
_FORWARDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One server's figures, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        """Watch an engine."""
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("quicksilver_requests", "HTTP requests", ["route", "status"], registry=registry)
        self.latency = Histogram(
            "quicksilver_request_seconds", "Whole HTTP requests", ["route"], buckets=_SECONDS, registry=registry
        )
        self.first_text = Histogram(
            "quicksilver_time_to_first_text_seconds",
            "From the request to its first committed text",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Histogram(
            "quicksilver_queue_seconds", "Waiting for the first forward", buckets=_SECONDS, registry=registry
        )
        self.tpf = Histogram(
            "quicksilver_tokens_per_forward", "Written tokens per forward", buckets=_TPF, registry=registry
        )
        self.nfe = Histogram("quicksilver_nfe", "Forwards of a request", buckets=_FORWARDS, registry=registry)
        self.speed = Histogram(
            "quicksilver_tokens_per_second", "Written tokens per second of a request", buckets=_RATES, registry=registry
        )
        self.tokens = Counter("quicksilver_tokens", "Tokens by kind", ["kind"], registry=registry)
        self.edits = Counter("quicksilver_edits", "Draft tokens that were replaced", registry=registry)
        self.preemptions = Counter("quicksilver_preemptions", "Requests that lost their pages", registry=registry)
        self.aborts = Counter("quicksilver_aborts", "Requests that were aborted", registry=registry)
        self.constraints = Counter(
            "quicksilver_constraints",
            "Constraints asked for: known already, read from disk, compiled, or refused",
            ["outcome"],
            registry=registry,
        )
        self.compiling = Histogram(
            "quicksilver_constraint_compile_seconds",
            "Compiling a constraint, or finding that it cannot be",
            buckets=_SECONDS,
            registry=registry,
        )
        self._gauges(engine, registry)

    def _gauges(self, engine: Engine, registry: CollectorRegistry) -> None:
        # Read when scraped; each is one attribute of plain Python, which the engine's thread may be changing.
        for name, text, read in (
            ("quicksilver_engine_requests", "Waiting and running requests", lambda: engine.num_requests),
            ("quicksilver_row_budget", "Rows of one forward", lambda: engine.config.row_budget),
            ("quicksilver_batch_rows", "Rows of the last forward", lambda: engine.num_rows),
            ("quicksilver_pages", "Pages of key/value memory", lambda: engine.num_pages),
            ("quicksilver_pages_in_use", "Pages that running requests hold", lambda: engine.num_pages_in_use),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def ended(self, usages: Sequence[Usage]) -> None:
        """Count a request that has ended by itself."""
        for usage in usages:
            self.queue.observe(usage.queue_seconds)
            self.tpf.observe(usage.tpf)
            self.nfe.observe(usage.nfe)
            decoding = usage.seconds - usage.queue_seconds
            if decoding > 0:
                self.speed.observe(usage.num_written / decoding)
            self.tokens.labels("input").inc(usage.num_prompt)
            self.tokens.labels("cached").inc(usage.num_cached)
            self.tokens.labels("output").inc(usage.num_written)
            self.edits.inc(usage.num_edits)
            self.preemptions.inc(usage.num_preemptions)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
