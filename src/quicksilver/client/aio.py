"""The client for asyncio."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx

from quicksilver.client import calls
from quicksilver.client.calls import Call
from quicksilver.client.connection import Connection, http_options, refusal, unreachable
from quicksilver.client.interface import DEFAULT_MARK
from quicksilver.client.options import NO_OPTIONS, RequestOptions
from quicksilver.client.replies import InfillReader, Reply
from quicksilver.client.retries import wait_after_failure, wait_after_status
from quicksilver.client.streams import AsyncStream, AsyncTextStream
from quicksilver.protocol.chat import Message
from quicksilver.protocol.decisions import StateDecisions, StateQuestion, Told
from quicksilver.protocol.infill import HoleLimits, InfillEvent, InfillResponse

T = TypeVar("T")


class AsyncClient:
    r"""As ``Client``, for asyncio; satisfies ``AsyncCompletionClient``.

    Example:
        >>> async with AsyncClient("http://127.0.0.1:8080") as client:
        ...     print((await client.fill("def add(a, b):\n    return ", "\n")).text)
        ...     async with client.stream_complete("def mean(xs):") as texts:
        ...         async for text in texts: ...
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As ``Client``."""
        self.connection = Connection.resolve(base_url, api_key, model, timeout_s, max_retries)
        self._http = httpx.AsyncClient(transport=transport, **http_options(self.connection))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def models(self) -> tuple[str, ...]:
        """Names of the models that the server has."""
        return await self._ask(calls.models())

    async def complete(
        self, prompt: str, *, max_tokens: int | None = None, num_choices: int = 1, options: RequestOptions = NO_OPTIONS
    ) -> Reply:
        """Continue a prompt."""
        model = self.connection.model
        return await self._ask(
            calls.complete(prompt, model=model, max_tokens=max_tokens, num_choices=num_choices, options=options)
        )

    def stream_complete(
        self, prompt: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> AsyncTextStream:
        """Continue a prompt, piece by piece."""
        model = self.connection.model
        return self._stream(calls.complete(prompt, model=model, max_tokens=max_tokens, num_choices=1, options=options))

    async def decide(self, state: Told, questions: Mapping[str, StateQuestion]) -> StateDecisions:
        """Answer questions about a state with probabilities."""
        return await self._ask(calls.decide(state, questions, model=self.connection.model))

    async def fill(
        self, prefix: str, suffix: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> Reply:
        """Write what stands between two texts."""
        model = self.connection.model
        return await self._ask(calls.fill(prefix, suffix, model=model, max_tokens=max_tokens, options=options))

    def stream_fill(
        self, prefix: str, suffix: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> AsyncTextStream:
        """Write what stands between two texts, piece by piece."""
        model = self.connection.model
        return self._stream(calls.fill(prefix, suffix, model=model, max_tokens=max_tokens, options=options))

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        num_choices: int = 1,
        prediction: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> Reply:
        """Write the next turn; ``prediction`` is what it will probably be."""
        call = calls.chat(
            messages,
            model=self.connection.model,
            max_tokens=max_tokens,
            num_choices=num_choices,
            prediction=prediction,
            options=options,
        )
        return await self._ask(call)

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        prediction: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> AsyncTextStream:
        """Write the next turn, piece by piece."""
        call = calls.chat(
            messages,
            model=self.connection.model,
            max_tokens=max_tokens,
            num_choices=1,
            prediction=prediction,
            options=options,
        )
        return self._stream(call)

    async def infill(
        self,
        template: str,
        *,
        mark: str = DEFAULT_MARK,
        holes: Sequence[HoleLimits] | None = None,
        layout: str | None = None,
        check: str | None = None,
        repairs: int | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> InfillResponse:
        """Fill all holes of a template; with a ``check`` that the server knows, what fails is written anew."""
        call = calls.infill(
            template,
            model=self.connection.model,
            mark=mark,
            holes=holes,
            layout=layout,
            options=options,
            check=check,
            repairs=repairs,
        )
        return await self._ask(call)

    def stream_infill(
        self,
        template: str,
        *,
        mark: str = DEFAULT_MARK,
        holes: Sequence[HoleLimits] | None = None,
        layout: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> AsyncStream[InfillEvent]:
        """Fill all holes and tell every step; the last event, ``done``, holds the response."""
        model = self.connection.model
        call = calls.infill(template, model=model, mark=mark, holes=holes, layout=layout, options=options)
        return AsyncStream(lambda: self._send(call.streamed), InfillReader())

    async def edit(self, prompt: str, *, options: RequestOptions = NO_OPTIONS) -> Reply:
        """Rewrite the region of a next-edit prompt, as ``coding.next_edit`` renders it; the text is in a fence."""
        return await self._ask(calls.edit(prompt, model=self.connection.model, options=options))

    async def apply(self, prompt: str) -> Reply:
        """Merge the snippet of an apply prompt into its file, as ``coding.apply`` reads it; the text is the file."""
        return await self._ask(calls.apply(prompt, model=self.connection.model))

    async def _ask(self, call: Call[T]) -> T:
        response = await self._send(call)
        try:
            return call.read(await response.aread())
        except httpx.RequestError as error:
            raise unreachable(self.connection, error) from error
        finally:
            await response.aclose()

    def _stream(self, call: Call[Reply]) -> AsyncTextStream:
        return AsyncTextStream(lambda: self._send(call.streamed))

    async def _send(self, call: Call[T]) -> httpx.Response:
        """A response that is a success, not read yet; asks again where that helps."""
        num_tries = 0
        while True:
            num_tries += 1
            try:
                request = self._http.build_request(call.method, call.path, json=call.body)
                response = await self._http.send(request, stream=True)
                if response.is_success:
                    return response
                await response.aread()
                wait, failure = wait_after_status(response, num_tries), refusal(response)
            except httpx.RequestError as error:
                wait, failure = wait_after_failure(error, num_tries), unreachable(self.connection, error)
            if wait is None or num_tries > self.connection.max_retries:
                raise failure
            await asyncio.sleep(wait)
