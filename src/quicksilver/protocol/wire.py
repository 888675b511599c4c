"""What all bodies share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """A JSON object. Fields it does not know are ignored: clients send each other's extensions to everyone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ErrorBody(Wire):
    """What went wrong, as in OpenAI's API."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(Wire):
    """The body of every answer that is no success."""

    error: ErrorBody


class PromptDetails(Wire):
    """Of the input tokens."""

    cached_tokens: int = 0


class CompletionDetails(Wire):
    """Of the written tokens."""

    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Wire):
    """Tokens of a request, and what diffusion took for them. Flat figures repeat nested ones for old clients."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int = 0
    cached_input_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = PromptDetails()
    completion_tokens_details: CompletionDetails | None = CompletionDetails()
    nfe: int | None = None
    """Forward passes, all of them counted; None from other servers, like the next."""
    tokens_per_forward: float | None = None
    stale_rows: int | None = None
    """Rows that forwards saw as an earlier one had computed them, with a ``cache`` that is not exact; summed."""


class StreamOptions(Wire):
    """Of a stream."""

    include_usage: bool = False


class CellFrame(Wire):
    """One position of a canvas in a frame."""

    text: str
    """Empty for a mask."""
    state: Literal["mask", "draft", "final"]
    confidence: float


class DiffusionMeta(Wire):
    """State of the canvas behind one frame of a ``diffusing`` stream."""

    diffusion_content: bool = True
    """False in the last frame, whose text is the answer."""
    diffusion_progress: float
    """Share of the canvas that is no mask, in [0, 1]."""
    step: int
    nfe: int
    settled_chars: int
    """Characters that will not change any more."""
    mean_confidence: float
    cells: list[CellFrame] | None = None
    """The canvas token by token, for requests with ``return_trace``."""


class TraceStep(Wire):
    """One decision of the decoder; see ``decoding.TraceEntry``."""

    step: int
    hole: int
    position: int
    token_id: int
    confidence: float
