"""The engine behind asyncio: one thread steps it, coroutines submit and listen.

The thread alone touches the engine. Coroutines hand it commands, which it obeys between two forwards; what a forward
brought goes to the event loop in one call, so every consumer sees its events in order. Nothing polls: the thread sleeps
on a condition while there is no request, a consumer on an asyncio event while it has no news.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from quicksilver.decoding.events import Event, Result
from quicksilver.engine.engine import Engine, Ticket
from quicksilver.engine.request import Request, Usage
from quicksilver.errors import EngineError


class AsyncTicket:
    """A request in the engine, seen from the event loop.

    ``async for event in ticket`` gives each event once and raises what ended the request; so only one task may do it.
    Events that are not read are kept, as many as the request has. ``async with ticket`` aborts on leaving.
    """

    def __init__(self, request: Request, abort: Callable[["AsyncTicket"], None]) -> None:
        """Made by ``AsyncEngine.submit``."""
        self.request = request
        self.error: Exception | None = None
        """What ended the request, if not its own end."""
        self.usage: Usage | None = None
        """Known once the request has ended, unless it was refused or the engine broke."""
        self.is_ended = False
        self._abort = abort
        self._events: deque[Event] = deque()
        self._result: Result | None = None
        self._is_accepted = False
        self._changed = asyncio.Event()

    def abort(self) -> None:
        """End the request before the next forward; its pages are free then. One that has ended stays as it is."""
        if not self.is_ended:
            self._abort(self)

    async def result(self) -> Result:
        """What was written, once the request has ended; its events may still be read.

        Raises:
            EngineError: the request was aborted, or the engine was closed or broke.
            Exception: whatever else ended the request.
        """
        while not self.is_ended:
            await self._news()
        if self.error is not None:
            raise self.error
        if self._result is None:
            raise EngineError("the request was aborted and has no result")
        return self._result

    def __aiter__(self) -> "AsyncTicket":
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self.error is not None:
                raise self.error
            if self.is_ended:
                raise StopAsyncIteration
            await self._news()
        return self._events.popleft()

    async def __aenter__(self) -> "AsyncTicket":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    async def _news(self) -> None:
        # Between the caller's look and this line nothing else has run in the loop, so no news is cleared away.
        self._changed.clear()
        await self._changed.wait()

    async def _accepted(self) -> None:
        """Return once the engine has taken the request; raises why it did not."""
        while not self._is_accepted:
            if self.error is not None:
                raise self.error
            await self._news()

    def _take(self, news: "_News") -> None:
        self._is_accepted = self._is_accepted or news.is_accepted
        self._events += news.events
        self.is_ended = news.is_ended
        self.error, self.usage, self._result = news.error, news.usage, news.result
        self._changed.set()


@dataclass(frozen=True, kw_only=True, slots=True)
class _News:
    """What the thread tells the loop about one request."""

    ticket: AsyncTicket
    events: Sequence[Event] = ()
    is_accepted: bool = True
    is_ended: bool = False
    error: Exception | None = None
    usage: Usage | None = None
    result: Result | None = None


class AsyncEngine:
    """Many requests of one event loop, one engine, one thread.

    The thread starts with ``async with`` or the first ``submit`` and ends with ``aclose``. From then until its end the
    engine is the thread's alone.

    Example:
        >>> async with AsyncEngine(engine) as serving:
        ...     async for event in serving.stream(request):
        ...         ...
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = threading.Condition()
        """Guards the four below."""
        self._commands: deque[Callable[[], None]] = deque()
        self._open: set[AsyncTicket] = set()
        """Submitted and not ended."""
        self._is_closing = False
        self._end: Callable[[], EngineError] | None = None
        """Why nothing can be submitted any more."""
        self._running: dict[AsyncTicket, Ticket] = {}
        """The thread's own."""
        self._by_id: dict[int, AsyncTicket] = {}
        """The thread's own."""
        self._loop: asyncio.AbstractEventLoop | None = None
        # A daemon: a program that forgets to close the engine can still end.
        self._thread = threading.Thread(target=self._work, name="quicksilver-engine", daemon=True)

    @property
    def num_requests(self) -> int:
        """Submitted and not ended."""
        return len(self._open)

    def clock(self) -> float:
        """Seconds, by which deadlines are told."""
        return self._engine.clock()

    async def __aenter__(self) -> "AsyncEngine":
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def submit(self, request: Request, *, submitted: float | None = None) -> AsyncTicket:
        """Queue a request; returns when the engine has taken it, after the forward under way at the latest.

        If the caller is cancelled meanwhile, the request is aborted.

        Args:
            request: what is asked.
            submitted: when by the engine's clock its caller asked, from where its deadline counts; None: now.

        Raises:
            ConfigError, InputError: the request contradicts itself or the checkpoint, or is too long.
            OverloadedError: the queue is full.
            EngineError: the engine is closed, or it broke, or belongs to another event loop.
        """
        self._start()
        ticket = AsyncTicket(request, self._request_abort)
        submitted = self.clock() if submitted is None else submitted
        with self._wake:
            if self._end is not None:
                raise self._end()
            self._open.add(ticket)
            self._commands.append(partial(self._accept, ticket, submitted))
            self._wake.notify()
        try:
            await ticket._accepted()
        except asyncio.CancelledError:
            ticket.abort()
            raise
        return ticket

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """The events of a request; the last is Done.

        The request is aborted when its consumer is cancelled or closes the generator. One that leaves the loop early
        should close it (``contextlib.aclosing``), or the request runs until the generator is collected.

        Raises:
            Exception: at the first event what ``submit`` raises, later what ended the request.
        """
        async with await self.submit(request) as ticket:
            async for event in ticket:
                yield event

    async def aclose(self) -> None:
        """Abort what runs and end the thread; consumers get an EngineError. Closing twice does nothing."""
        with self._wake:
            self._is_closing = True
            if self._loop is None:
                self._end = _closed
            self._wake.notify()
        if self._loop is not None:
            await asyncio.to_thread(self._thread.join)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        with self._wake:
            if self._end is not None:
                raise self._end()
            if self._loop is None:
                self._loop = loop
                self._thread.start()
        if self._loop is not loop:
            raise EngineError("this engine serves another event loop; every loop needs an AsyncEngine of its own")

    def _request_abort(self, ticket: AsyncTicket) -> None:
        with self._wake:
            if self._end is None:
                self._commands.append(partial(self._drop, ticket))
                self._wake.notify()

    # What follows runs in the thread.

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001  # whatever it is, every consumer must hear of it
            self._finish(partial(_broken, error))
        else:
            self._finish(_closed)

    def _serve(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._commands or self._engine.num_requests or self._is_closing)
                commands = list(self._commands)
                self._commands.clear()
                is_closing = self._is_closing
            for command in commands:
                command()
            if is_closing:
                for ticket in self._running.values():
                    self._engine.abort(ticket)
                return
            if self._engine.num_requests:
                self._step()

    def _step(self) -> None:
        advanced = self._engine.step()
        if not advanced:
            raise EngineError(f"{self._engine.num_requests} requests are there and none got a row")
        self._tell([self._news_of(self._by_id[ticket.job_id], ticket) for ticket in advanced])

    def _accept(self, ticket: AsyncTicket, submitted: float) -> None:
        try:
            taken = self._engine.submit(ticket.request, submitted=submitted)
        except Exception as error:  # noqa: BLE001  # a refusal is the submitter's alone
            with self._wake:
                self._open.discard(ticket)
            self._tell([_News(ticket=ticket, is_accepted=False, is_ended=True, error=error)])
            return
        self._running[ticket], self._by_id[taken.job_id] = taken, ticket
        self._tell([self._news_of(ticket, taken)])

    def _drop(self, ticket: AsyncTicket) -> None:
        running = self._running.get(ticket)
        if running is not None:
            self._engine.abort(running)
            self._tell([self._news_of(ticket, running)])

    def _news_of(self, ticket: AsyncTicket, running: Ticket) -> _News:
        events = tuple(running.events)
        running.events.clear()
        if running.is_ended:
            del self._running[ticket], self._by_id[running.job_id]
            with self._wake:
                self._open.discard(ticket)
        done = running.sequence.done
        return _News(
            ticket=ticket,
            events=events,
            is_ended=running.is_ended,
            error=running.error,
            usage=running.usage,
            result=None if done is None else done.result,
        )

    def _tell(self, news: Sequence[_News]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(_spread, news)

    def _finish(self, end: Callable[[], EngineError]) -> None:
        """The thread's last act: nobody waits for ever."""
        with self._wake:
            self._end = end
            left, self._open = self._open, set()
            self._commands.clear()
        usages = {ticket: running.usage for ticket, running in self._running.items()}
        # The loop may be gone, and its consumers with it.
        with suppress(RuntimeError):
            self._tell(
                [
                    _News(ticket=ticket, is_accepted=False, is_ended=True, error=end(), usage=usages.get(ticket))
                    for ticket in left
                ]
            )


def _spread(news: Sequence[_News]) -> None:
    for each in news:
        each.ticket._take(each)


def _closed() -> EngineError:
    return EngineError("the engine is closed")


def _broken(cause: BaseException) -> EngineError:
    # One exception per consumer: raising adds to an exception's traceback.
    error = EngineError(f"the engine's loop broke: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
