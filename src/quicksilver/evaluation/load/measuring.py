"""All that is measured of a server, perhaps beside a second one, and the report of it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum

import numpy as np

from quicksilver.client import AsyncClient
from quicksilver.errors import ConfigError
from quicksilver.evaluation.load.dialogue import AgentFigures, VoiceFigures, agent_loops, voice_turns
from quicksilver.evaluation.load.driving import (
    Limits,
    LoadFigures,
    Outcome,
    Quantiles,
    ask,
    connect,
    drive,
    options_of,
    sum_up,
)
from quicksilver.evaluation.load.work import Arrival, Mix, draw_arrivals, draw_jobs
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.tables import markdown_table

SERVER, TWIN = "server", "twin"


class Part(StrEnum):
    """What is measured."""

    LOAD = "load"
    AGENT = "agent"
    VOICE = "voice"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A server."""

    url: str
    model: str | None = None
    """Which of its models; None: its choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a server is measured."""

    parts: tuple[Part, ...] = tuple(Part)
    rates: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Requests a second."""
    duration_s: float = 30.0
    """Of each rate."""
    mix: Mix = field(default_factory=Mix)
    limits: Limits = field(default_factory=Limits)
    num_calls: int = 30
    """Of the agent's loop."""
    call_tokens: int = 48
    num_turns: int = 10
    """Of voice."""
    turn_tokens: int = 256
    is_realtime: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_calls", "call_tokens", "num_turns", "turn_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.parts or (Part.LOAD in self.parts and not self.rates):
            raise ConfigError("there is nothing to measure: no part, or no rate")

    def num_steps(self, num_servers: int, sources: Sequence[str]) -> int:
        """How often ``advance`` will be called."""
        load = sum(len(self.arrivals(rate, sources)) for rate in self.rates) if Part.LOAD in self.parts else 0
        agent = self.num_calls if Part.AGENT in self.parts else 0
        voice = self.num_turns if Part.VOICE in self.parts else 0
        return num_servers * (load + agent + voice)

    def arrivals(self, rate: float, sources: Sequence[str]) -> list[Arrival]:
        """The requests of one rate, the same for every server."""
        return draw_arrivals(rate, self.duration_s, self.mix, sources, self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRow:
    """A server at one rate."""

    server: str
    rate: float
    wall_s: float
    figures: Mapping[str, LoadFigures]
    """Of ``all`` requests and of each kind."""
    most_late_ms: float
    """How late this machine sent a request at worst: if it is not small, the figures are of this machine."""
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Everything; a part that was not asked for is empty."""

    load: Sequence[LoadRow] = ()
    agent: Mapping[str, AgentFigures] = field(default_factory=dict)
    voice: Mapping[str, VoiceFigures] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


async def measure(
    servers: Mapping[str, Address], plan: Plan, sources: Sequence[str], advance: Callable[[], None]
) -> Measured:
    """Measure every server, by turns.

    Args:
        servers: by name: ``SERVER``, and perhaps ``TWIN``.
        plan: what and how.
        sources: the code that prompts are cut from.
        advance: called after every request, call and turn.

    Raises:
        ConfigError: an address or the plan makes no sense.
        ServerError: a server does not answer at all, or a call of a loop or a turn failed.
        EngineError: see ``voice_turns``.
    """
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(connect(each.url, each.model)) for name, each in servers.items()
        }
        rng = np.random.Generator(np.random.Philox(key=[plan.seed, 2]))
        load: list[LoadRow] = []
        if Part.LOAD in plan.parts:
            load = await _load(clients, plan, sources, advance)
        agent: Mapping[str, AgentFigures] = {}
        if Part.AGENT in plan.parts:
            agent = await agent_loops(
                clients,
                _beginnings(plan.mix, sources, rng, 1)[0],
                num_calls=plan.num_calls,
                max_tokens=plan.call_tokens,
                prompt_chars=plan.mix.prompt_chars,
                advance=advance,
            )
        voice: dict[str, VoiceFigures] = {}
        if Part.VOICE in plan.parts:
            prompts = _beginnings(plan.mix, sources, rng, plan.num_turns)
            for name, client in clients.items():
                voice[name] = await voice_turns(
                    client, prompts, max_tokens=plan.turn_tokens, is_realtime=plan.is_realtime, advance=advance
                )
    return Measured(load=load, agent=agent, voice=voice)


def _beginnings(mix: Mix, sources: Sequence[str], rng: np.random.Generator, count: int) -> list[str]:
    only_long = Mix(fill_share=0.0, prompt_chars=mix.prompt_chars)
    jobs = draw_jobs(only_long, sources, rng)
    return [next(jobs).prefix for _ in range(count)]


async def _load(
    clients: Mapping[str, AsyncClient], plan: Plan, sources: Sequence[str], advance: Callable[[], None]
) -> list[LoadRow]:
    for client in clients.values():
        await _warm_up(client, plan, sources)
    rows = []
    for number, rate in enumerate(plan.rates):
        arrivals, names = plan.arrivals(rate, sources), list(clients)
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            outcomes, wall_s = await drive(clients[name], arrivals, advance)
            rows.append(
                LoadRow(
                    server=name,
                    rate=rate,
                    wall_s=wall_s,
                    figures=sum_up(outcomes, plan.limits, duration_s=plan.duration_s, wall_s=wall_s),
                    most_late_ms=1000 * max(each.late_s for each in outcomes),
                    outcomes=outcomes,
                )
            )
    return rows


async def _warm_up(client: AsyncClient, plan: Plan, sources: Sequence[str]) -> None:
    """One request of each kind, of texts that are not asked again; a server that cannot answer is told here."""
    rng = np.random.Generator(np.random.Philox(key=[plan.seed, 3]))
    asked = [share for share in (1.0, 0.0) if plan.mix.fill_share != 1.0 - share]
    for share in asked:
        mix = Mix(fill_share=share, fill_tokens=1, long_tokens=1, prompt_chars=plan.mix.prompt_chars)
        job = next(draw_jobs(mix, sources, rng))
        async with ask(client, job, options_of(job)) as stream:
            async for _ in stream:
                pass


def as_json(servers: Mapping[str, Address], plan: Plan, found: Measured, command: str) -> dict[str, object]:
    """Everything for programs. The environment is this machine's: the servers may run elsewhere."""
    return {
        "servers": {name: asdict(each) for name, each in servers.items()},
        "plan": asdict(plan),
        "command": command,
        "environment": environment(),
        **found.to_dict(),
        "words": saved_words(found.agent),
    }


def tables(found: Measured, limits: Limits) -> str:
    """Everything for people, in Markdown."""
    parts = []
    if found.load:
        header = (
            *("server", "requests/s", "kind", "n", "errors", "first text ms, p50 / p95 / p99"),
            *("whole ms, p50 / p95 / p99", "tokens/s", "goodput/s", "in time"),
        )
        rows = [_load_cells(row, name, each) for row in found.load for name, each in row.figures.items()]
        note = (
            f"Goodput: fills within {limits.fill_ms:g} ms, continuations whose first text came within "
            f"{limits.first_ms:g} ms. Times count from when a request was due; this machine sent the latest "
            f"{max(row.most_late_ms for row in found.load):.0f} ms late."
        )
        parts += [f"**Load**\n\n{markdown_table(header, rows)}\n\n{note}"]
    if found.agent:
        header = ("server", "calls", "seconds", "a call ms, p50 / p95 / p99", "tokens")
        rows = [
            (name, each.calls, f"{each.seconds:.2f}", _cell(each.call_ms), _count(each.num_tokens))
            for name, each in found.agent.items()
        ]
        parts += [f"**Agent loop**\n\n{markdown_table(header, rows)}", *saved_words(found.agent)]
    if found.voice:
        header = (
            *("server", "turns", "first text ms, p50 / p95 / p99"),
            *("hang-up to free pages ms, p50 / p95 / p99", "without text"),
        )
        rows = [
            (name, each.turns, _cell(each.first_ms), _cell(each.freed_ms), each.num_silent)
            for name, each in found.voice.items()
        ]
        parts += [f"**Voice turns**\n\n{markdown_table(header, rows)}"]
    return "\n\n".join(parts)


def saved_words(agent: Mapping[str, AgentFigures]) -> list[str]:
    """How much time the loop saves beside the twin's; nothing without one."""
    if set(agent) != {SERVER, TWIN}:
        return []
    ours, twin = agent[SERVER], agent[TWIN]
    saved = twin.seconds - ours.seconds
    verb = "saves" if saved >= 0 else "loses"
    sentence = (
        f"A loop of {ours.calls} dependent calls {verb} {abs(saved):.2f} s beside the twin "
        f"({ours.seconds:.2f} s and {twin.seconds:.2f} s, {twin.seconds / ours.seconds:.2f} times as fast)"
    )
    if ours.num_tokens is None or twin.num_tokens is None:
        return [sentence + "."]
    return [f"{sentence}, with {ours.num_tokens} and {twin.num_tokens} tokens written."]


def _load_cells(row: LoadRow, name: str, each: LoadFigures) -> tuple[object, ...]:
    return (
        row.server,
        f"{row.rate:g}",
        name,
        each.requests,
        each.errors,
        _cell(each.first_ms),
        _cell(each.total_ms),
        "" if each.tokens_per_s is None else f"{each.tokens_per_s:.1f}",
        f"{each.goodput:.2f}",
        f"{100 * each.good_share:.0f} %",
    )


def _cell(value: Quantiles | None) -> str:
    return "" if value is None else f"{value.p50:.0f} / {value.p95:.0f} / {value.p99:.0f}"


def _count(value: int | None) -> str:
    return "" if value is None else str(value)
