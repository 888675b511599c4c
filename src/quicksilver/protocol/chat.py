"""``POST /v1/chat/completions``."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from quicksilver.protocol.constraints import ConstraintFields
from quicksilver.protocol.sampling import MaxTokens, NumChoices, SamplingFields
from quicksilver.protocol.tools import MAX_TOOLS, Tool, ToolCall, ToolCallDelta, ToolChoice
from quicksilver.protocol.wire import DiffusionMeta, TraceStep, Usage, Wire


class TextPart(Wire):
    """A piece of a message's content."""

    type: str
    text: str | None = None


Content = str | list[TextPart]


class Message(Wire):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Prediction(Wire):
    """What the answer will probably be: decoding starts from it as a draft."""

    type: Literal["content"]
    content: Content


class ChatRequest(ConstraintFields, SamplingFields):
    """A conversation to continue."""

    messages: Annotated[list[Message], Field(min_length=1)]
    n: NumChoices = 1
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    """Goes before ``max_tokens``."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prediction: Prediction | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    """None: ``auto`` if there are tools."""
    parallel_tool_calls: bool | None = None
    """False: at most one call."""

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TopLogprob(Wire):
    """A likely token and the logarithm of its probability when one was written in its place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """One written token and the likeliest ones beside it, as many as ``top_logprobs`` of the request."""

    top_logprobs: Annotated[list[TopLogprob], Field(default_factory=list)]


class ChatLogprobs(Wire):
    """Of all written tokens."""

    content: list[TokenLogprob]


class AssistantMessage(Wire):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """None where there are calls and no text."""
    refusal: None = None
    tool_calls: list[ToolCall] | None = None

    @model_serializer(mode="wrap")
    def _without_calls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = handler(self)
        return found if self.tool_calls else {name: found[name] for name in found if name != "tool_calls"}


class ChatChoice(Wire):
    """One of the ``n`` answers."""

    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: ChatLogprobs | None = None
    trace: list[TraceStep] | None = None


class ChatResponse(Wire):
    """The answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    warning: str | None = None
    system_fingerprint: str


class Delta(Wire):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Some clients append a null content to what they have.
        return {name: value for name, value in handler(self).items() if value is not None}


class ChunkChoice(Wire):
    """A piece of one answer."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    logprobs: ChatLogprobs | None = None
    trace: list[TraceStep] | None = None


class ChatChunk(Wire):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    diffusion_meta: DiffusionMeta | None = None
    system_fingerprint: str


def text_of(content: Content | None) -> str:
    """The text of a message's content.

    Raises:
        ValueError: a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise ValueError(f"content parts of type {part.type!r} are not supported; send text")
    return "".join(part.text or "" for part in content)
