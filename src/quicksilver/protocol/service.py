"""Bodies of the routes around the models: lists, tokens, health, usage."""

from typing import Annotated, Literal

from pydantic import Field

from quicksilver.protocol.wire import Wire


class ModelPricing(Wire):
    """Dollars per token, as strings of decimals."""

    prompt: str
    completion: str
    input_cache_reads: str
    input_cache_writes: str = "0"


class ModelObject(Wire):
    """A served model: OpenAI's fields and Inception's."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "quicksilver"
    name: str
    description: str
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    context_length: int
    max_output_length: int
    pricing: ModelPricing
    supported_sampling_parameters: list[str]
    supported_features: list[str]
    supported_endpoints: list[str]


class ModelList(Wire):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class Health(Wire):
    """Whether the server takes requests."""

    status: Literal["ok", "draining"]
    model: str
    num_running: int


class Version(Wire):
    """Of the package."""

    version: str


class TokenizeRequest(Wire):
    """A text to tokenize."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = False


class TokenizeResponse(Wire):
    """Its tokens."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(Wire):
    """Tokens to read."""

    tokens: list[Annotated[int, Field(ge=0)]]
    model: str | None = None


class DetokenizeResponse(Wire):
    """Their text."""

    prompt: str


class TokenizerInfo(Wire):
    """What an evaluation harness must know of the tokenizer."""

    vocab_size: int
    eos_token: str
    bos_token: str | None
    pad_token: str | None
    chat_template: str | None


class UsageTotals(Wire):
    """What requests took together."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    nfe: int
    cost_nanodollars: int


class UsageDay(UsageTotals):
    """The same on one day (UTC) with one model."""

    day: str
    model: str


class UsageReport(Wire):
    """What the caller's key has used."""

    object: Literal["usage"] = "usage"
    key: str
    totals: UsageTotals
    days: list[UsageDay]
    remaining_tokens: int | None
    """Of its grant; null is without limit."""
