"""A model behind asyncio: many requests at once, each an asynchronous stream of events with text."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType

from quicksilver.api.events import Done, StreamEvent
from quicksilver.api.model import Model
from quicksilver.api.requests import GenerateRequest, InfillRequest
from quicksilver.api.session import Plan
from quicksilver.engine.aio import AsyncEngine, AsyncTicket
from quicksilver.engine.request import Usage
from quicksilver.errors import EngineError


class Answer:
    """A request that the engine has taken. ``async for`` gives its events, the last of which is Done.

    ``async with`` aborts what has not ended on leaving, so a consumer that is cancelled frees its pages.
    """

    def __init__(self, engine: AsyncEngine, plan: Plan, first: AsyncTicket, submitted: float) -> None:
        """Made by ``AsyncModel.submit``."""
        self._engine, self._plan, self._ticket, self._submitted = engine, plan, first, submitted
        self.usages: list[Usage] = []
        """What every job of the request took, once it has ended."""

    async def __aenter__(self) -> "Answer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def abort(self) -> None:
        """End the request before the next forward."""
        self._ticket.abort()

    async def aborted(self) -> Sequence[Usage]:
        """Abort, and what all jobs took until then; at once if the request has ended."""
        self.abort()
        with suppress(EngineError):
            await self._ticket.result()
        last = self._ticket.usage
        return self.usages if last is None or last in self.usages else [*self.usages, last]

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        session = self._plan.session
        while True:
            async for event in self._ticket:
                told = session.take(event)
                if told is not None:
                    yield told
            usage = await self._ended()
            self.usages.append(usage)
            session.spend(usage.seconds - usage.queue_seconds)
            job = next(self._plan.jobs, None)
            if job is None:
                break
            self._ticket = await self._engine.submit(job, submitted=self._submitted)
        yield Done(completion=self._plan.completion())

    async def _ended(self) -> Usage:
        await self._ticket.result()
        if self._ticket.usage is None:
            raise EngineError("the request ended without an account of what it took")
        return self._ticket.usage


class AsyncModel:
    """Serves one model to one event loop; start and end it with ``async with``.

    Example:
        >>> async with AsyncModel(quicksilver.load()) as serving:
        ...     async with await serving.submit(GenerateRequest(prompt="def mean(xs):")) as answer:
        ...         async for event in answer: ...
    """

    def __init__(self, model: Model) -> None:
        """Take the model's engine for as long as this lives: nothing else may use it meanwhile."""
        self.model = model
        self._engine = AsyncEngine(model.engine)

    @property
    def num_requests(self) -> int:
        """Waiting and running ones."""
        return self._engine.num_requests

    async def __aenter__(self) -> "AsyncModel":
        await self._engine.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Abort what runs; its consumers get an EngineError. Closing twice does nothing."""
        await self._engine.aclose()

    async def submit(self, request: GenerateRequest | InfillRequest, *, has_snapshots: bool = False) -> Answer:
        """Queue a request; returns once the engine has taken it.

        Raises:
            ConfigError, InputError: the request contradicts itself or the checkpoint, or is too long.
            OverloadedError: the queue is full.
            EngineError: the engine is closed or broke.
        """
        plan = self.model.plan(request, has_frames=has_snapshots)
        submitted = self._engine.clock()
        first = await self._engine.submit(next(plan.jobs), submitted=submitted)
        return Answer(self._engine, plan, first, submitted)
