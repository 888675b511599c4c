"""``POST /v1/completions`` and ``POST /v1/fim/completions``."""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from quicksilver.api import DecodingOptions, GenerateRequest, InfillRequest
from quicksilver.coding.dialects import parse_fim
from quicksilver.errors import UsageError
from quicksilver.protocol.completions import (
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    FimRequest,
    Logprobs,
)
from quicksilver.protocol.wire import Usage
from quicksilver.server.errors import ApiError, as_api_error, unsupported
from quicksilver.server.generation import Head, Work, read_usage
from quicksilver.server.logprobs import prompt_logprobs
from quicksilver.server.routes._shared import ERRORS, TEXT_STREAM, ServiceOf, nth, run
from quicksilver.server.sampling import decoding_options
from quicksilver.server.service import Service
from quicksilver.server.shapes import TextShape

router = APIRouter()

Prompt = str | tuple[int, ...]

_NO_SUFFIX = frozenset({"", "<|endoftext|>"})
"""What clients send where nothing follows the cursor."""


@router.post("/v1/completions", response_model=CompletionResponse, responses={**ERRORS, **TEXT_STREAM})
async def complete(body: CompletionRequest, http: Request, service: ServiceOf) -> Response:
    """Continue texts; with a suffix, or a prompt in an editor's fill-in-the-middle dialect, fill the hole."""
    service.name(body.model)
    prompts = _prompts(body, service)
    _check(body, prompts)
    try:
        if body.echo and body.logprobs is not None:
            with service.beside_engine():
                scores = [await _score(service, prompt, body.logprobs) for prompt in prompts]
        else:
            scores = []
        echoes = [_text(service, prompt) for prompt in prompts] if body.echo else []
        if body.max_tokens == 0:
            return await _scored(service, http, body, echoes, scores)
        constraint = await service.constraints.of(body, stop=body.stop_texts)
        options = decoding_options(
            body,
            service.model,
            num_alternatives=body.logprobs or 0,
            constraint=constraint,
            has_own_ends=constraint is not None,
        )
        requests = [
            _request(service, prompt, body.suffix, body.max_tokens, nth(options, index))
            for prompt in prompts
            for index in range(body.n)
        ]
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    shape = TextShape(
        fields=body,
        has_logprobs=body.logprobs is not None,
        echoes=[echo for echo in echoes for _ in range(body.n)],
        prompt_logprobs=[score for score in scores for _ in range(body.n)],
    )
    return await run(service, Work(http=http, fields=body, requests=requests, shape=shape, num_per_prompt=body.n))


@router.post("/v1/fim/completions", response_model=CompletionResponse, responses={**ERRORS, **TEXT_STREAM})
async def fim(body: FimRequest, http: Request, service: ServiceOf) -> Response:
    """Fill the hole between prompt and suffix."""
    service.name(body.model)
    try:
        constraint = await service.constraints.of(body, stop=body.stop_texts)
        options = decoding_options(body, service.model, constraint=constraint, has_own_ends=constraint is not None)
        request = _request(service, body.prompt, body.suffix, body.max_tokens, options)
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    return await run(service, Work(http=http, fields=body, requests=[request], shape=TextShape(fields=body)))


def _prompts(body: CompletionRequest, service: Service) -> list[Prompt]:
    given = body.prompt
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        prompts: list[Prompt] = [tuple(given)]  # type: ignore[arg-type]
    else:
        prompts = [each if isinstance(each, str) else tuple(each) for each in given]  # type: ignore[union-attr]
    limit = service.config.max_prompts
    if len(prompts) > limit:
        raise ApiError(400, f"{len(prompts)} prompts, the limit is {limit} (max_prompts)", param="prompt")
    return prompts


def _check(body: CompletionRequest, prompts: Sequence[Prompt]) -> None:
    if body.best_of is not None and body.best_of != body.n:
        raise unsupported("best_of", f"best_of {body.best_of} is not supported beside n {body.n}; leave it out")
    if body.suffix is not None and not all(isinstance(prompt, str) for prompt in prompts):
        raise unsupported("suffix", "a suffix needs the prompt as text, not as token ids")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens 0 writes nothing; it is for echo", param="max_tokens", code="invalid_value")
    if body.max_tokens == 0 and body.stream:
        raise unsupported("stream", "nothing is written with max_tokens 0, so there is nothing to stream")
    if body.echo and body.suffix is not None:
        raise unsupported("echo", "echo contradicts suffix: the answer stands between the two")


def _request(
    service: Service, prompt: Prompt, suffix: str | None, max_tokens: int | None, options: DecodingOptions
) -> GenerateRequest | InfillRequest:
    found = parse_fim(prompt) if isinstance(prompt, str) and suffix is None else None
    if found is not None:
        prompt, suffix = found.prefix, found.suffix
    most = _within_context(service, prompt, max_tokens)
    if not isinstance(prompt, str):
        return GenerateRequest(prompt_ids=prompt, max_tokens=most, options=options)
    if suffix is None or suffix in _NO_SUFFIX:
        return GenerateRequest(prompt=prompt, max_tokens=most, options=options)
    most = service.model.spec.decoding.max_hole_length
    return InfillRequest(texts=(prompt, suffix), max_hole_length=min(max_tokens or most, most), options=options)


def _within_context(service: Service, prompt: Prompt, max_tokens: int | None) -> int | None:
    """A limit that the context ends before is none: clients ask for far more than they need."""
    used = 1 + (len(prompt) if not isinstance(prompt, str) else len(service.model.tokenizer.encode(prompt)))
    return None if max_tokens is None or used + max_tokens > service.model.max_length else max_tokens


def _text(service: Service, prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else service.model.tokenizer.decode(list(prompt), keep_special=True)


async def _score(service: Service, prompt: Prompt, num_top: int) -> Logprobs:
    tokenizer = service.model.tokenizer
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if ids and max(ids) >= tokenizer.vocab_size:
        raise ApiError(400, f"token ids must lie in [0, {tokenizer.vocab_size}), got {max(ids)}", param="prompt")
    rows = await service.next_token_logprobs(ids)
    return prompt_logprobs(ids, rows, tokenizer, num_top)


async def _scored(
    service: Service, http: Request, body: CompletionRequest, echoes: Sequence[str], scores: Sequence[Logprobs]
) -> Response:
    """The prompts themselves, with their log-probabilities; one forward each."""
    num_input = sum(len(score.tokens) for score in scores)
    head = Head.new(service, "cmpl-", body.model)
    permit = await http.app.state.gate.admit(http, model=head.model, num_input=num_input, max_output=0)
    read = read_usage(num_prompt=num_input, num_written=0, nfe=len(scores))
    await permit.settle([read], "length")
    choices = [
        CompletionChoice(index=index, text=echo, finish_reason="length", logprobs=scores[index] if scores else None)
        for index, echo in enumerate(echoes)
    ]
    usage = Usage(
        prompt_tokens=num_input,
        completion_tokens=0,
        total_tokens=num_input,
        nfe=len(scores),
        tokens_per_forward=0.0,
    )
    response = CompletionResponse(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=choices,
        usage=usage,
        system_fingerprint=head.system_fingerprint,
    )
    return JSONResponse(response.model_dump(mode="json"))
