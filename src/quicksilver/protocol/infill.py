"""``POST /v1/infill``: a text with several holes."""

from typing import Annotated, Literal

from pydantic import Field

from quicksilver.protocol.constraints import ConstraintFields, HoleType
from quicksilver.protocol.sampling import MaxTokens, SamplingFields
from quicksilver.protocol.wire import CellFrame, TraceStep, Usage, Wire


class HoleLimits(ConstraintFields):
    """What is asked of one hole."""

    length: MaxTokens | None = None
    """Exact number of tokens."""
    max_length: MaxTokens | None = None
    draft: Annotated[str, Field(min_length=1)] | None = None
    """Text to start from; the hole has its length."""
    type: HoleType | None = None
    """What the hole holds, instead of another constraint."""


class InfillRequest(ConstraintFields, SamplingFields):
    """A template, and what is known of its holes. A constraint is one of every hole that has none of its own."""

    template: str
    mark: Annotated[str, Field(min_length=1)] = "<FILL>"
    holes: list[HoleLimits] | None = None
    """In order; None: nothing is known of any."""
    layout: Literal["in_place", "psm"] | None = None
    draft_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    """Likeliest tokens to name beside each written one."""
    check: str | None = None
    """Look whether the filled file is right, and write anew what is wrong: ``python``, or a check of the server's own.
    The answer comes once, at the end."""
    repairs: Annotated[int, Field(ge=0, le=16)] | None = None
    """Most rounds of that; None: 3, and 0 only checks."""


class LikelyToken(Wire):
    """A token and its probability."""

    text: str
    confidence: float


class TokenConfidence(LikelyToken):
    """One written token."""

    step: int
    alternatives: Annotated[list[LikelyToken], Field(default_factory=list)]
    """The likeliest tokens where it was written, as many as ``top_logprobs`` asks for."""


class FilledHole(Wire):
    """What was written in one hole."""

    text: str
    tokens: list[TokenConfidence]


class CheckOutcome(Wire):
    """What came of a check."""

    name: str
    parts: list[str]
    """What was checked, in words."""
    passed: bool
    repairs: int
    """How often it was tried."""
    drafts: int
    """Of all these rounds together; the usage counts them."""
    problems: list[str]
    """What is still wrong."""


class InfillResponse(Wire):
    """The whole text, and hole by hole."""

    id: str
    object: Literal["infill"] = "infill"
    created: int
    model: str
    text: str
    holes: list[FilledHole]
    finish_reason: str
    usage: Usage
    trace: list[TraceStep] | None = None
    check: CheckOutcome | None = None


class InfillEvent(Wire):
    """One event of a stream: draft, edit, commit, remask, resize, frame; then done with the response."""

    type: Literal["draft", "edit", "commit", "remask", "resize", "frame", "done"]
    hole: int | None = None
    start: int | None = None
    stop: int | None = None
    added: int | None = None
    texts: list[str] | None = None
    confidence: list[float] | None = None
    nfe: int | None = None
    holes: list[list[CellFrame]] | None = None
    response: InfillResponse | None = None
