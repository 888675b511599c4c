"""How to decode, as requests say it: OpenAI's parameters and ours beside them."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from quicksilver.protocol.wire import StreamOptions, Wire

StopText = Annotated[str, StringConstraints(min_length=1, max_length=512)]
MAX_CHOICES = 16


class Effort(StrEnum):
    """How much decoding effort a request is worth; see ``server.sampling.EFFORT_THRESHOLDS``."""

    INSTANT = "instant"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class SamplingFields(Wire):
    """Fields that every generating route takes."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """-1 and 0 take every token."""
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    diffusing: bool = False
    """Stream the whole canvas at every step; each frame replaces the one before."""
    realtime: bool = False
    """Prefer an early first token: shorter blocks."""
    reasoning_effort: Effort | None = None
    policy: str | None = None
    threshold: float | None = None
    steps: int | None = None
    revision: str | None = None
    """What may happen to what is written until its block is final."""
    guidance: Annotated[float, Field(ge=0, le=20)] | None = None
    """Scale of classifier-free guidance."""
    cfg_until: Annotated[float, Field(gt=0, le=1)] | None = None
    negative_prompt: str | None = None
    classifier: str | None = None
    classifier_scale: Annotated[float, Field(ge=0, le=20)] | None = None
    block_length: int | None = None
    cache: str | None = None
    """Only for holes in place."""
    refresh_every: Annotated[int, Field(ge=1)] | None = None
    max_nfe: Annotated[int, Field(ge=1)] | None = None
    deadline_ms: Annotated[float, Field(gt=0)] | None = None
    return_trace: bool = False
    user: str | None = None

    @property
    def stop_texts(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


MaxTokens = Annotated[int, Field(ge=1)]
NumChoices = Annotated[int, Field(ge=1, le=MAX_CHOICES)]
