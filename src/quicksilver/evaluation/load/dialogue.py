"""One user at a time: an agent whose calls depend on each other, and someone who speaks with a model and interrupts."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from quicksilver.client import AsyncClient, RequestOptions
from quicksilver.errors import EngineError
from quicksilver.evaluation.load.driving import Quantiles, quantiles

_PAGES = re.compile(r"^quicksilver_pages_in_use (\S+)", re.MULTILINE)
_POLL_S = 0.001
_MOST_POLLED_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of an agent's loop."""

    seconds: float
    num_tokens: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentFigures:
    """Of one loop."""

    calls: int
    seconds: float
    """Of all calls together: what the agent waits."""
    call_ms: Quantiles | None
    num_tokens: int | None
    """Written in all; None where the server does not say."""


async def agent_loops(
    clients: Mapping[str, AsyncClient],
    beginning: str,
    *,
    num_calls: int,
    max_tokens: int,
    prompt_chars: int,
    advance: Callable[[], None],
) -> dict[str, AgentFigures]:
    """The same loop with every server, call by call in turns. A call's prompt ends in all that the loop wrote before.

    Args:
        clients: by name.
        beginning: of the first prompt.
        num_calls: of each loop.
        max_tokens: of a call's answer.
        prompt_chars: most characters of a prompt: the last ones.
        advance: called after every call.

    Raises:
        ServerError: a call failed, and with it the loop.
    """
    prompts = dict.fromkeys(clients, beginning)
    calls: dict[str, list[Call]] = {name: [] for name in clients}
    for name, client in clients.items():
        await _call(client, beginning[-prompt_chars:], 1)
        calls[name] = []
    for number in range(num_calls):
        names = list(clients)
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            prompts[name] += f"\n\n# step {number + 1}\n"
            text, call = await _call(clients[name], prompts[name][-prompt_chars:], max_tokens)
            prompts[name] += text
            calls[name].append(call)
            advance()
    return {name: _sum_up(each) for name, each in calls.items()}


async def _call(client: AsyncClient, prompt: str, max_tokens: int) -> tuple[str, Call]:
    start = time.perf_counter()
    reply = await client.complete(prompt, max_tokens=max_tokens, options=RequestOptions(temperature=0.0))
    seconds = time.perf_counter() - start
    return reply.text, Call(seconds=seconds, num_tokens=reply.usage.completion_tokens if reply.usage else None)


def _sum_up(calls: Sequence[Call]) -> AgentFigures:
    counts = [call.num_tokens for call in calls if call.num_tokens is not None]
    return AgentFigures(
        calls=len(calls),
        seconds=sum(call.seconds for call in calls),
        call_ms=quantiles([call.seconds for call in calls]),
        num_tokens=sum(counts) if len(counts) == len(calls) else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class VoiceFigures:
    """Of some turns."""

    turns: int
    first_ms: Quantiles | None
    """Until the first text that stays, which can be spoken."""
    freed_ms: Quantiles | None
    """From hanging up until the server holds no page for the turn; None where /metrics does not say."""
    num_silent: int
    """Turns that had no text to interrupt."""


async def voice_turns(
    client: AsyncClient,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    is_realtime: bool,
    advance: Callable[[], None],
) -> VoiceFigures:
    """Ask, wait for the first text, interrupt, wait until the memory is free; one turn after the other.

    Args:
        client: of the server, which nobody else may use meanwhile.
        prompts: one per turn.
        max_tokens: of an answer, enough that it would go on.
        is_realtime: whether to ask for an early first text, which only this project's server understands.
        advance: called after every turn.

    Raises:
        ServerError: a turn failed.
        EngineError: the server still holds the pages of a turn after ten seconds.
    """
    options = RequestOptions(temperature=0.0, realtime=is_realtime)
    first, freed, num_silent = [], [], 0
    async with httpx.AsyncClient(base_url=_root(client), timeout=_MOST_POLLED_S) as metrics:
        await _warm_up(client, prompts[0], options)
        for prompt in prompts:
            idle = await pages_in_use(metrics)
            start = time.perf_counter()
            stream = client.stream_complete(prompt, max_tokens=max_tokens, options=options)
            async with stream:
                text = await anext(stream, None)
                seconds = time.perf_counter() - start
            hung_up = time.perf_counter()
            if text is None:
                num_silent += 1
            else:
                first.append(seconds)
                if idle is not None:
                    await _wait_for(metrics, idle)
                    freed.append(time.perf_counter() - hung_up)
            advance()
    return VoiceFigures(turns=len(prompts), first_ms=quantiles(first), freed_ms=quantiles(freed), num_silent=num_silent)


async def _warm_up(client: AsyncClient, prompt: str, options: RequestOptions) -> None:
    await client.complete(prompt, max_tokens=1, options=options)


def _root(client: AsyncClient) -> str:
    """Where the server's own routes are: above the version of its API."""
    return str(httpx.URL(client.connection.base_url).copy_with(path="/"))


async def pages_in_use(metrics: httpx.AsyncClient) -> float | None:
    """Pages that running requests hold, by the server's figures; None if it has none."""
    try:
        response = await metrics.get("/metrics")
    except httpx.RequestError:
        return None
    found = _PAGES.search(response.text) if response.is_success else None
    return None if found is None else float(found.group(1))


async def _wait_for(metrics: httpx.AsyncClient, level: float) -> None:
    start = time.perf_counter()
    while (now := await pages_in_use(metrics)) is not None and now > level:
        if time.perf_counter() - start > _MOST_POLLED_S:
            raise EngineError(
                f"the server still holds {now:g} pages {_MOST_POLLED_S:g} s after the call was hung up, and {level:g} "
                f"before it: a voice turn needs a server that nobody else uses"
            )
        await asyncio.sleep(_POLL_S)
