"""What stands on a model asks of a client: four questions, each answered whole or as a stream.

``fill`` has one hole between two texts, ``infill`` any number of holes in a template. Only Quicksilver's server
answers ``infill``. Texts of a stream are appended to each other and never taken back.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol, runtime_checkable

from quicksilver.client.options import NO_OPTIONS, RequestOptions
from quicksilver.client.replies import Reply
from quicksilver.protocol.chat import Message
from quicksilver.protocol.infill import HoleLimits, InfillEvent, InfillResponse

DEFAULT_MARK = "<FILL>"


@runtime_checkable
class CompletionClient(Protocol):
    """Blocks until the answer, or its next piece, is there. Failures are ``ServerError``."""

    def complete(
        self, prompt: str, *, max_tokens: int | None = None, num_choices: int = 1, options: RequestOptions = NO_OPTIONS
    ) -> Reply: ...

    def stream_complete(
        self, prompt: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> Iterator[str]: ...

    def fill(
        self, prefix: str, suffix: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> Reply: ...

    def stream_fill(
        self, prefix: str, suffix: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> Iterator[str]: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        num_choices: int = 1,
        prediction: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> Reply: ...

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        prediction: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> Iterator[str]: ...

    def infill(
        self,
        template: str,
        *,
        mark: str = DEFAULT_MARK,
        holes: Sequence[HoleLimits] | None = None,
        layout: str | None = None,
        check: str | None = None,
        repairs: int | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> InfillResponse: ...

    def stream_infill(
        self,
        template: str,
        *,
        mark: str = DEFAULT_MARK,
        holes: Sequence[HoleLimits] | None = None,
        layout: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> Iterator[InfillEvent]: ...


@runtime_checkable
class AsyncCompletionClient(Protocol):
    """The same for asyncio."""

    async def complete(
        self, prompt: str, *, max_tokens: int | None = None, num_choices: int = 1, options: RequestOptions = NO_OPTIONS
    ) -> Reply: ...

    def stream_complete(
        self, prompt: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> AsyncIterator[str]: ...

    async def fill(
        self, prefix: str, suffix: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> Reply: ...

    def stream_fill(
        self, prefix: str, suffix: str, *, max_tokens: int | None = None, options: RequestOptions = NO_OPTIONS
    ) -> AsyncIterator[str]: ...

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        num_choices: int = 1,
        prediction: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> Reply: ...

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        prediction: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> AsyncIterator[str]: ...

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
    ) -> InfillResponse: ...

    def stream_infill(
        self,
        template: str,
        *,
        mark: str = DEFAULT_MARK,
        holes: Sequence[HoleLimits] | None = None,
        layout: str | None = None,
        options: RequestOptions = NO_OPTIONS,
    ) -> AsyncIterator[InfillEvent]: ...
