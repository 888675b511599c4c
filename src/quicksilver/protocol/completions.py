"""``POST /v1/completions``, ``/v1/fim/completions``, ``/v1/edit/completions``, ``/v1/apply/completions``."""

from typing import Annotated, Any, Literal

from pydantic import Field

from quicksilver.protocol.chat import AssistantMessage, Message
from quicksilver.protocol.constraints import ConstraintFields
from quicksilver.protocol.sampling import MaxTokens, NumChoices, SamplingFields
from quicksilver.protocol.wire import DiffusionMeta, TraceStep, Usage, Wire

TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Prompt = str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]


class CompletionRequest(ConstraintFields, SamplingFields):
    """Texts to continue, or to fill before a suffix."""

    prompt: Prompt
    suffix: str | None = None
    n: NumChoices = 1
    best_of: int | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """0 with ``echo`` scores the prompt and writes nothing."""
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class FimRequest(ConstraintFields, SamplingFields):
    """A hole between ``prompt`` and ``suffix``."""

    prompt: str
    suffix: str | None = None
    max_tokens: MaxTokens | None = None
    min_tokens: int | None = None


class Logprobs(Wire):
    """One entry per token, as in OpenAI's first API."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Wire):
    """One completion; in a stream, a piece of it."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: Logprobs | None = None
    trace: list[TraceStep] | None = None


class CompletionResponse(Wire):
    """The completions, or one event of a stream of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    diffusion_meta: DiffusionMeta | None = None
    warning: str | None = None
    system_fingerprint: str


class EditRequest(SamplingFields):
    """A next-edit prompt or an apply prompt, as the last user message."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None


class EditChoice(Wire):
    """The rewritten text."""

    index: int = 0
    message: AssistantMessage
    finish_reason: str


class EditResponse(Wire):
    """The rewritten region, fenced; or the merged file, plain."""

    id: str
    object: str
    created: int
    model: str
    choices: list[EditChoice]
    usage: Usage
    details: dict[str, Any] | None = None
    """How a merge came about."""
