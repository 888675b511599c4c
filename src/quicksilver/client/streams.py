"""Answers that come piece by piece. The request is sent when the first piece is asked for.

Leaving before the end (``close``, or the end of ``with``) hangs up, and the server stops working.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

import httpx
from httpx_sse import EventSource, SSEError

from quicksilver.client.errors import ReplyError, UnreachableError
from quicksilver.client.replies import Reply, TextReader

T = TypeVar("T")


@runtime_checkable
class Reader(Protocol[T]):
    """Makes items of the data of events."""

    @property
    def has_ended(self) -> bool: ...

    def take(self, data: str) -> list[T]: ...

    def finish(self) -> None: ...


class Stream(Iterator[T], Generic[T]):
    """Items as they come."""

    def __init__(self, send: Callable[[], httpx.Response], reader: Reader[T]) -> None:
        """Made by ``Client``."""
        self._items = self._read(send, reader)

    def _read(self, send: Callable[[], httpx.Response], reader: Reader[T]) -> Generator[T, None, None]:
        response = send()
        try:
            for event in EventSource(response).iter_sse():
                yield from reader.take(event.data)
                if reader.has_ended:
                    break
            reader.finish()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _broken(error) from error
        finally:
            response.close()

    def __next__(self) -> T:
        return next(self._items)

    def close(self) -> None:
        """Hang up."""
        self._items.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextStream(Stream[str]):
    """Pieces of one text, each to be appended to those before; ``reply`` holds it all at the end."""

    def __init__(self, send: Callable[[], httpx.Response]) -> None:
        """Made by ``Client``."""
        self._reader = TextReader()
        super().__init__(send, self._reader)

    @property
    def reply(self) -> Reply | None:
        """None until the stream has ended by itself."""
        return self._reader.reply


class AsyncStream(AsyncIterator[T], Generic[T]):
    """Items as they come. Leave early by ``aclose`` or ``async with``: a loop that is merely left hangs up late."""

    def __init__(self, send: Callable[[], Awaitable[httpx.Response]], reader: Reader[T]) -> None:
        """Made by ``AsyncClient``."""
        self._items = self._read(send, reader)

    async def _read(self, send: Callable[[], Awaitable[httpx.Response]], reader: Reader[T]) -> AsyncGenerator[T, None]:
        response = await send()
        try:
            async with aclosing(EventSource(response).aiter_sse()) as events:
                async for event in events:
                    for item in reader.take(event.data):
                        yield item
                    if reader.has_ended:
                        break
            reader.finish()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _broken(error) from error
        finally:
            await response.aclose()

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def aclose(self) -> None:
        """Hang up."""
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncTextStream(AsyncStream[str]):
    """As ``TextStream``."""

    def __init__(self, send: Callable[[], Awaitable[httpx.Response]]) -> None:
        """Made by ``AsyncClient``."""
        self._reader = TextReader()
        super().__init__(send, self._reader)

    @property
    def reply(self) -> Reply | None:
        """None until the stream has ended by itself."""
        return self._reader.reply


def _broken(error: Exception) -> ReplyError | UnreachableError:
    if isinstance(error, SSEError):
        return ReplyError(f"the server does not stream: {error}")
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError("the server fell silent in the middle of its answer")
    return UnreachableError(f"the answer broke off: {error or type(error).__name__}")
