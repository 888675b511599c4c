"""Routes around the models: lists, tokens, health, metrics, usage."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from quicksilver import __version__
from quicksilver.decoding import POLICY_NAMES
from quicksilver.protocol.service import (
    DetokenizeRequest,
    DetokenizeResponse,
    Health,
    ModelList,
    ModelObject,
    ModelPricing,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
    UsageReport,
    Version,
)
from quicksilver.server.errors import ApiError
from quicksilver.server.routes._shared import ERRORS, ServiceOf
from quicksilver.server.service import Service


async def _known(http: Request) -> None:
    await http.app.state.gate.check(http)


router = APIRouter()
"""Open to all: they tell nothing of anybody."""
guarded = APIRouter(dependencies=[Depends(_known)])

GENERATING = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/fim/completions",
    "/v1/infill",
    "/v1/edit/completions",
    "/v1/apply/completions",
    "/v1/decisions",
)
_PARAMETERS = (
    "cache",
    "banned_strings",
    "cfg_until",
    "choice",
    "classifier",
    "classifier_scale",
    "deadline_ms",
    "frequency_penalty",
    "grammar",
    "guidance",
    "logit_bias",
    "logprobs",
    "max_nfe",
    "max_tokens",
    "negative_prompt",
    "policy",
    "presence_penalty",
    "regex",
    "repetition_penalty",
    "required_strings",
    "response_format",
    "revision",
    "seed",
    "steps",
    "stop",
    "temperature",
    "threshold",
    "top_k",
    "top_logprobs",
    "top_p",
)


@guarded.get("/v1/models", responses=ERRORS)
@guarded.get("/v1/chat/completions/models", responses=ERRORS)
@guarded.get("/v1/fim/completions/models", responses=ERRORS)
@guarded.get("/v1/edit/completions/models", responses=ERRORS)
@guarded.get("/v1/apply/completions/models", responses=ERRORS)
async def models(http: Request, service: ServiceOf) -> ModelList:
    """All names of the served model."""
    prices = http.app.state.prices
    return ModelList(data=[_model(service, name, prices) for name in service.names])


@guarded.get("/v1/models/{name}", responses=ERRORS)
async def model(name: str, http: Request, service: ServiceOf) -> ModelObject:
    """One served model."""
    return _model(service, service.name(name), http.app.state.prices)


def _model(service: Service, name: str, prices: ModelPricing) -> ModelObject:
    served = service.model
    endpoints = [route for route in GENERATING if "chat" not in route or service.template is not None]
    return ModelObject(
        id=name,
        created=service.created,
        name=name,
        description=f"{served.num_parameters / 1e6:.1f}M parameters, objective {served.spec.objective}; "
        f"policies: {', '.join(POLICY_NAMES)}",
        context_length=served.max_length,
        max_output_length=served.max_length,
        pricing=prices,
        supported_sampling_parameters=list(_PARAMETERS),
        supported_features=["json_mode", "structured_outputs", "tools"],
        supported_endpoints=endpoints,
    )


@router.get("/health")
async def health(service: ServiceOf) -> Health:
    """Whether requests are taken."""
    return Health(
        status="draining" if service.is_draining else "ok", model=service.names[0], num_running=service.num_open
    )


@router.get("/version")
async def version() -> Version:
    """Of the package."""
    return Version(version=__version__)


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceOf) -> Response:
    """For Prometheus."""
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@guarded.post("/tokenize", responses=ERRORS)
async def tokenize(body: TokenizeRequest, service: ServiceOf) -> TokenizeResponse:
    """Token ids of a text."""
    service.name(body.model)
    ids = service.model.tokenizer.encode(body.prompt)
    start = service.model.spec.special.file
    if body.add_special_tokens and start is not None:
        ids.insert(0, start)
    return TokenizeResponse(tokens=ids, count=len(ids), max_model_len=service.model.max_length)


@guarded.post("/detokenize", responses=ERRORS)
async def detokenize(body: DetokenizeRequest, service: ServiceOf) -> DetokenizeResponse:
    """Text of token ids; special tokens by their names."""
    service.name(body.model)
    size = service.model.tokenizer.vocab_size
    if body.tokens and max(body.tokens) >= size:
        raise ApiError(400, f"token ids must lie in [0, {size}), got {max(body.tokens)}", param="tokens")
    return DetokenizeResponse(prompt=service.model.tokenizer.decode(body.tokens, keep_special=True))


@guarded.get("/tokenizer_info")
async def tokenizer_info(service: ServiceOf) -> TokenizerInfo:
    """What an evaluation harness must know."""
    special, name = service.model.spec.special, service.model.tokenizer.name_of
    return TokenizerInfo(
        vocab_size=service.model.tokenizer.vocab_size,
        eos_token=name(special.eos),
        bos_token=None if special.file is None else name(special.file),
        pad_token=name(special.filler),
        chat_template=None if service.template is None else service.template.source,
    )


@guarded.get("/v1/usage", responses=ERRORS)
async def usage(http: Request) -> UsageReport:
    """What the caller's key has used."""
    return await http.app.state.gate.report(http)
