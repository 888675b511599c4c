"""What a server answered. Reads what any OpenAI-compatible server sends: only what is needed, and nulls anywhere."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import ValidationError, WrapValidator

from quicksilver.client.errors import ReplyError, UnreachableError, refusal
from quicksilver.protocol.decisions import StateDecisions
from quicksilver.protocol.infill import InfillEvent, InfillResponse
from quicksilver.protocol.wire import Usage, Wire

M = TypeVar("M", bound=Wire)

END = "[DONE]"
"""Data of the last event of a stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of the answers to a request."""

    text: str
    finish_reason: str | None
    """``stop``: the text is complete. ``length``: a limit ended it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The answer to a request."""

    choices: tuple[Choice, ...]
    id: str | None
    model: str | None
    """As the server names it."""
    usage: Usage | None
    """None if the server does not say."""

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> str | None:
        """Of the first choice."""
        return self.choices[0].finish_reason


class _Said(Wire):
    content: str | None = None


class _Choice(Wire):
    index: int = 0
    text: str | None = None
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        message = self.message or self.delta
        return self.text or (message.content if message else None) or ""


def _usage_or_none(value: object, read: Callable[[object], Usage | None]) -> Usage | None:
    # An account that cannot be read must not cost the answer.
    try:
        return read(value)
    except ValidationError:
        return None


class _Body(Wire):
    """Of all four: chat or not, whole or in pieces."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Annotated[Usage | None, WrapValidator(_usage_or_none)] = None


class _Model(Wire):
    id: str


class _Models(Wire):
    data: list[_Model]


def read_reply(content: bytes) -> Reply:
    """The answer to a request that does not stream.

    Raises:
        ReplyError: it has no choices, or is no JSON.
    """
    body = _parsed(_Body, content)
    if not body.choices:
        raise ReplyError("the server's answer has no choices")
    ordered = sorted(body.choices, key=lambda choice: choice.index)
    return Reply(
        choices=tuple(Choice(text=choice.said, finish_reason=choice.finish_reason) for choice in ordered),
        id=body.id,
        model=body.model,
        usage=body.usage,
    )


def read_infill(content: bytes) -> InfillResponse:
    """The answer of ``/v1/infill``."""
    return _parsed(InfillResponse, content)


def read_decisions(content: bytes) -> StateDecisions:
    """The answer of ``/v1/decisions`` about a state."""
    return _parsed(StateDecisions, content)


def read_models(content: bytes) -> tuple[str, ...]:
    """Names of the models, in the server's order."""
    return tuple(model.id for model in _parsed(_Models, content).data)


class TextReader:
    """Puts the events of a stream of one choice together."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._last = _Body()
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._has_ended = False

    def take(self, data: str) -> list[str]:
        """The text that an event adds, if it adds any.

        Raises:
            ServerError: the event says that the server failed.
            ReplyError: it is none of this API.
        """
        if data == END:
            self._has_ended = True
            return []
        body = _parsed_event(_Body, data)
        self._last = body
        self._usage = body.usage or self._usage
        told = [choice for choice in body.choices or [] if choice.index == 0]
        for choice in told:
            self._finish_reason = choice.finish_reason or self._finish_reason
        texts = [choice.said for choice in told if choice.said]
        self._texts += texts
        return texts

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def finish(self) -> None:
        """Called where the stream ends.

        Raises:
            UnreachableError: before the answer did.
        """
        if not self._has_ended and self._finish_reason is None:
            raise UnreachableError("the stream ended before the answer was complete")
        self._has_ended = True

    @property
    def reply(self) -> Reply | None:
        if not self._has_ended:
            return None
        choice = Choice(text="".join(self._texts), finish_reason=self._finish_reason)
        return Reply(choices=(choice,), id=self._last.id, model=self._last.model, usage=self._usage)


class InfillReader:
    """Reads the typed events of ``/v1/infill``."""

    def __init__(self) -> None:
        self.has_ended = False
        self._is_done = False

    def take(self, data: str) -> list[InfillEvent]:
        """As ``TextReader.take``."""
        if data == END:
            self.has_ended = True
            return []
        event = _parsed_event(InfillEvent, data)
        self._is_done = self._is_done or event.type == "done"
        return [event]

    def finish(self) -> None:
        """As ``TextReader.finish``."""
        if not self._is_done:
            raise UnreachableError("the stream ended before all holes were filled")


def _parsed(kind: type[M], content: str | bytes) -> M:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise ReplyError(f"the server's answer is not of this API: {where}: {first['msg']}") from error


def _parsed_event(kind: type[M], data: str) -> M:
    if '"error"' in data:
        _raise_error(data)
    return _parsed(kind, data)


def _raise_error(data: str) -> None:
    try:
        body = json.loads(data)
    except ValueError:
        return
    if isinstance(body, dict) and body.get("error"):
        raise refusal(200, data.encode())
