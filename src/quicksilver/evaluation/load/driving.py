"""Sending requests at their times, whether or not earlier ones have been answered, and what became of them.

A client that waits for answers slows down with its server and never sees the queue (coordinated omission): here every
latency counts from the time at which a request was due.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from quicksilver.client import AsyncClient, AsyncTextStream, RequestOptions, ServerError
from quicksilver.evaluation.load.work import Arrival, Job, Kind

_LEAD_S = 0.05
"""Until the first second begins, so that the first request is not late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a request. Times count from when it was due."""

    kind: Kind
    at_s: float
    late_s: float
    """How much later than due it was sent: this machine's fault, not the server's."""
    first_s: float | None
    """Until the first text that stays; None: there was none."""
    total_s: float
    num_tokens: int | None
    """None where the server does not say."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is soon enough."""

    fill_ms: float = 500.0
    """A whole fill."""
    first_ms: float = 1000.0
    """The first text of a continuation."""

    def holds(self, outcome: Outcome) -> bool:
        """Whether an answer came, and soon enough."""
        if outcome.error is not None:
            return False
        if outcome.kind is Kind.FILL:
            return 1000 * outcome.total_s <= self.fill_ms
        # An answer without any text is there when it has ended.
        begun_s = outcome.total_s if outcome.first_s is None else outcome.first_s
        return 1000 * begun_s <= self.first_ms


def connect(url: str, model: str | None = None) -> AsyncClient:
    """A client that sends every request at once and none twice: what the server refuses counts as refused."""
    transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None, max_keepalive_connections=64))
    return AsyncClient(url, model=model, max_retries=0, transport=transport)


def ask(client: AsyncClient, job: Job, options: RequestOptions) -> AsyncTextStream:
    """The stream of a job's answer; it is sent when the first piece is asked for."""
    if job.kind is Kind.FILL:
        return client.stream_fill(job.prefix, job.suffix, max_tokens=job.max_tokens, options=options)
    return client.stream_complete(job.prefix, max_tokens=job.max_tokens, options=options)


def options_of(job: Job) -> RequestOptions:
    """Greedy, and without a seed: a server may then shorten blocks under load, as it would for anybody."""
    return RequestOptions(temperature=0.0, stop=job.stop)


async def drive(
    client: AsyncClient, arrivals: Sequence[Arrival], advance: Callable[[], None]
) -> tuple[list[Outcome], float]:
    """Send every request at its time; its outcome, in the order of arrival, and the seconds until the last answer.

    Args:
        client: of ``connect``.
        arrivals: in order of time.
        advance: called when a request has ended, however it did.
    """
    start = time.perf_counter() + _LEAD_S
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_send(client, arrival, start, advance)) for arrival in arrivals]
    return [task.result() for task in tasks], time.perf_counter() - start


async def _send(client: AsyncClient, arrival: Arrival, start: float, advance: Callable[[], None]) -> Outcome:
    due = start + arrival.at_s
    await asyncio.sleep(max(due - time.perf_counter(), 0.0))
    sent, first_s, num_tokens, error = time.perf_counter(), None, None, None
    try:
        async with ask(client, arrival.job, options_of(arrival.job)) as stream:
            async for _ in stream:
                first_s = time.perf_counter() - due if first_s is None else first_s
        if stream.reply is not None and stream.reply.usage is not None:
            num_tokens = stream.reply.usage.completion_tokens
    except ServerError as failure:
        error = str(failure)
    finally:
        advance()
    return Outcome(
        kind=arrival.job.kind,
        at_s=arrival.at_s,
        late_s=sent - due,
        first_s=first_s,
        total_s=time.perf_counter() - due,
        num_tokens=num_tokens,
        error=error,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFigures:
    """Of the requests of one kind, or of all."""

    requests: int
    errors: int
    first_ms: Quantiles | None
    """None: no answer had any text."""
    total_ms: Quantiles | None
    tokens_per_s: float | None
    """Over the time until the last answer; None where the server does not count tokens."""
    goodput: float
    """Requests answered within the limits, a second of arrivals."""
    good_share: float
    """Of all requests, in [0, 1]."""


def sum_up(outcomes: Sequence[Outcome], limits: Limits, *, duration_s: float, wall_s: float) -> dict[str, LoadFigures]:
    """Figures of all requests, and of each kind. Quantiles are over answered ones; the failed are ``errors``.

    Args:
        outcomes: of one rate.
        limits: of goodput.
        duration_s: in which requests arrived.
        wall_s: until the last answer.
    """
    parts = {"all": list(outcomes)}
    parts |= {kind.value: [each for each in outcomes if each.kind is kind] for kind in Kind}
    return {name: _figures(part, limits, duration_s, wall_s) for name, part in parts.items() if part}


def _figures(outcomes: Sequence[Outcome], limits: Limits, duration_s: float, wall_s: float) -> LoadFigures:
    answered = [each for each in outcomes if each.error is None]
    counts = [each.num_tokens for each in answered if each.num_tokens is not None]
    good = sum(map(limits.holds, outcomes))
    return LoadFigures(
        requests=len(outcomes),
        errors=len(outcomes) - len(answered),
        first_ms=quantiles([each.first_s for each in answered if each.first_s is not None]),
        total_ms=quantiles([each.total_s for each in answered]),
        tokens_per_s=sum(counts) / wall_s if answered and len(counts) == len(answered) else None,
        goodput=good / duration_s,
        good_share=good / len(outcomes),
    )


def quantiles(seconds: Sequence[float]) -> Quantiles | None:
    """Of times in seconds; None if there is none."""
    if not seconds:
        return None
    p50, p95, p99 = (float(each) for each in 1000 * np.percentile(seconds, [50, 95, 99]))
    return Quantiles(p50=p50, p95=p95, p99=p99)
