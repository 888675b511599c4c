"""What is sent for each question, and how the answer is read. Knows nothing of connections."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from quicksilver.client.options import NO_OPTIONS, RequestOptions
from quicksilver.client.replies import Reply, read_decisions, read_infill, read_models, read_reply
from quicksilver.errors import InputError
from quicksilver.protocol.chat import Message
from quicksilver.protocol.decisions import StateDecisions, StateQuestion, Told
from quicksilver.protocol.infill import HoleLimits, InfillResponse

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """One request; ``path`` is below the base URL, ``body`` None makes it a GET."""

    path: str
    read: Callable[[bytes], T]
    body: dict[str, object] | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def streamed(self) -> "Call[T]":
        """The same, answered event by event, with the usage at the end."""
        body = {**(self.body or {}), "stream": True, "stream_options": {"include_usage": True}}
        return Call(path=self.path, read=self.read, body=body)


def complete(
    prompt: str, *, model: str | None, max_tokens: int | None, num_choices: int, options: RequestOptions
) -> Call[Reply]:
    """What follows a prompt."""
    body = _body(model, max_tokens, num_choices, options) | {"prompt": prompt}
    return Call(path="completions", read=read_reply, body=body)


def fill(
    prefix: str, suffix: str, *, model: str | None, max_tokens: int | None, options: RequestOptions
) -> Call[Reply]:
    """What stands between two texts: the completions route with a suffix, which is OpenAI's own way."""
    body = _body(model, max_tokens, 1, options) | {"prompt": prefix, "suffix": suffix}
    return Call(path="completions", read=read_reply, body=body)


def chat(
    messages: Sequence[Message],
    *,
    model: str | None,
    max_tokens: int | None,
    num_choices: int,
    prediction: str | None,
    options: RequestOptions,
) -> Call[Reply]:
    """The next turn of a conversation."""
    if not messages:
        raise InputError("a conversation needs at least one message")
    body = _body(model, max_tokens, num_choices, options)
    body["messages"] = [message.model_dump(mode="json", exclude_none=True) for message in messages]
    if prediction is not None:
        body["prediction"] = {"type": "content", "content": prediction}
    return Call(path="chat/completions", read=read_reply, body=body)


def infill(
    template: str,
    *,
    model: str | None,
    mark: str,
    holes: Sequence[HoleLimits] | None,
    layout: str | None,
    options: RequestOptions,
    check: str | None = None,
    repairs: int | None = None,
) -> Call[InfillResponse]:
    """All holes of a template; a route of Quicksilver's server."""
    body = _body(model, None, 1, options) | {"template": template, "mark": mark}
    if holes is not None:
        body["holes"] = [hole.model_dump(mode="json", by_alias=True, exclude_defaults=True) for hole in holes]
    if layout is not None:
        body["layout"] = layout
    body |= {name: value for name, value in (("check", check), ("repairs", repairs)) if value is not None}
    return Call(path="infill", read=read_infill, body=body)


def decide(state: Told, questions: Mapping[str, StateQuestion], *, model: str | None) -> Call[StateDecisions]:
    """Answers with probabilities; a route of Quicksilver's server, and of Inception's."""
    # A label's description may be null, which must stay.
    asked = {name: question.model_dump(mode="json", exclude_unset=True) for name, question in questions.items()}
    body = _body(model, None, 1, NO_OPTIONS) | {"state": state, "questions": asked}
    return Call(path="decisions", read=read_decisions, body=body)


def edit(prompt: str, *, model: str | None, options: RequestOptions) -> Call[Reply]:
    """A region as it should be, in a fence; a route of Quicksilver's server, and of Inception's."""
    return Call(path="edit/completions", read=read_reply, body=_asking(prompt, model, options))


def apply(prompt: str, *, model: str | None) -> Call[Reply]:
    """A file with a lazy snippet merged; the same servers. How to decode is not theirs to be told."""
    return Call(path="apply/completions", read=read_reply, body=_asking(prompt, model, NO_OPTIONS))


def _asking(prompt: str, model: str | None, options: RequestOptions) -> dict[str, object]:
    return _body(model, None, 1, options) | {"messages": [{"role": "user", "content": prompt}]}


def models() -> Call[tuple[str, ...]]:
    """Names of the served models."""
    return Call(path="models", read=read_models)


def _body(model: str | None, max_tokens: int | None, num_choices: int, options: RequestOptions) -> dict[str, object]:
    body = options.body()
    if model is not None:
        body["model"] = model
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if num_choices != 1:
        body["n"] = num_choices
    return body
