"""What all routes share: the served model, its limits, the accounts, the counters."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from fastapi import Request

from quicksilver import __version__
from quicksilver.api import Answer, AsyncModel, Completion, Done, GenerateRequest, InfillRequest, Model, StreamEvent
from quicksilver.constraints.constraint import CompileOptions
from quicksilver.engine.replay import fingerprint
from quicksilver.errors import EngineError
from quicksilver.server.chat_template import ChatTemplate
from quicksilver.server.config import ServerConfig
from quicksilver.server.constraints import Constraints
from quicksilver.server.errors import ApiError, overloaded
from quicksilver.server.metrics import Metrics

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client hung up: nobody reads what would be answered."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """One of several answers is complete, or failed."""

    index: int
    error: Exception | None = None


class Service:
    """One model and its engine, for all routes."""

    def __init__(self, model: Model, config: ServerConfig, *, clock: Callable[[], float] = time.time) -> None:
        """Put a model to service; ``running`` starts its engine."""
        self.model, self.config, self.clock = model, config, clock
        self.created = int(clock())
        self.names = (model.name, *config.served_names)
        self.template = _template(model)
        weights = fingerprint(model.engine.denoiser, model.spec)
        self.system_fingerprint = f"qs-{__version__}-{weights[:12]}"
        self.metrics = Metrics(model.engine)
        self.constraints = Constraints(model, self.metrics, config, CompileOptions())
        self.is_draining = False
        self._async_model: AsyncModel | None = None
        self._scoring = asyncio.Lock()
        self._num_beside = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The engine runs inside."""
        async with AsyncModel(self.model) as self._async_model:
            yield

    async def stop(self) -> None:
        """End the engine; what still runs fails with an error that says so."""
        if self._async_model is not None:
            await self._async_model.aclose()

    @property
    def serving(self) -> AsyncModel:
        if self._async_model is None:
            raise EngineError("the server has not started")
        return self._async_model

    @property
    def num_open(self) -> int:
        """Requests that wait or run: a shutdown waits for them."""
        return self._num_beside + (0 if self._async_model is None else self._async_model.num_requests)

    @contextmanager
    def beside_engine(self) -> Iterator[None]:
        """One open request inside, whose work the engine does not know of; ApiError if there is no room for it."""
        self.require_room(1)
        self._num_beside += 1
        try:
            yield
        finally:
            self._num_beside -= 1

    def name(self, wanted: str | None) -> str:
        """The model's name as the client calls it.

        Raises:
            ApiError: no such model is served.
        """
        if wanted is None:
            return self.names[0]
        if wanted not in self.names:
            known = ", ".join(self.names)
            raise ApiError(404, f"no model {wanted!r} here; there are: {known}", param="model", code="model_not_found")
        return wanted

    def require_room(self, count: int) -> None:
        """Raise ApiError unless ``count`` more requests may be taken."""
        wait = self.config.retry_after_seconds
        if self.is_draining:
            raise overloaded("the server is shutting down", wait)
        if self.num_open + count > self.config.max_open:
            raise overloaded(
                f"{self.num_open} requests are open and {count} more are asked for, the limit is "
                f"{self.config.max_open} (max_open)",
                wait,
            )

    async def submit(
        self, requests: Sequence[GenerateRequest | InfillRequest], *, has_snapshots: bool = False
    ) -> list[Answer]:
        """Hand requests to the engine; all of them or none.

        Raises:
            ApiError, ConfigError, InputError, OverloadedError: one of them cannot be taken.
        """
        self.require_room(len(requests))
        answers: list[Answer] = []
        try:
            for request in requests:
                answers.append(await self.serving.submit(request, has_snapshots=has_snapshots))
        except BaseException:
            for answer in answers:
                answer.abort()
            raise
        return answers

    async def next_token_logprobs(self, token_ids: Sequence[int]) -> torch.Tensor:
        """As ``Model.next_token_logprobs``, beside the engine; one text at a time."""
        async with self._scoring:
            return await asyncio.to_thread(self.model.next_token_logprobs, token_ids)


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, StreamEvent], None]:
    """The events of several answers as they come, each with its answer's index.

    Leaving early aborts them all.

    Raises:
        Exception: what ended one of them; the others are aborted.
    """
    queue: asyncio.Queue[tuple[int, StreamEvent] | _Ended] = asyncio.Queue()

    async def pump(index: int, answer: Answer) -> None:
        try:
            async for event in answer:
                queue.put_nowait((index, event))
            queue.put_nowait(_Ended(index))
        except Exception as error:  # noqa: BLE001  # raised again where the stream is read
            queue.put_nowait(_Ended(index, error))

    pumps = [asyncio.create_task(pump(index, answer)) for index, answer in enumerate(answers)]
    try:
        left = len(answers)
        while left:
            item = await queue.get()
            if isinstance(item, _Ended):
                if item.error is not None:
                    raise item.error
                left -= 1
            else:
                yield item
    finally:
        for task, answer in zip(pumps, answers, strict=True):
            task.cancel()
            answer.abort()
        await asyncio.gather(*pumps, return_exceptions=True)


async def completions_of(answers: Sequence[Answer]) -> list[Completion]:
    """The completions of several answers, in their order."""
    found: dict[int, Completion] = {}
    async with aclosing(merged(answers)) as events:
        async for index, event in events:
            if isinstance(event, Done):
                found[index] = event.completion
    return [found[index] for index in range(len(answers))]


async def until_hang_up(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of ``work``, which is cancelled if the client hangs up before.

    Raises:
        ClientGoneError: it did.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _template(model: Model) -> ChatTemplate | None:
    if model.chat_template is None:
        return None
    special, name = model.spec.special, model.tokenizer.name_of
    named = {"eos_token": special.eos, "bos_token": special.file, "pad_token": special.filler}
    variables = {role: "" if token is None else name(token) for role, token in named.items()}
    return ChatTemplate(model.chat_template, model.tokenizer, variables)
