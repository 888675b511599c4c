"""What route files share."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from quicksilver.api import DecodingOptions, GenerateRequest, InfillRequest
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS
from quicksilver.errors import UsageError
from quicksilver.protocol.chat import ChatChunk, text_of
from quicksilver.protocol.completions import CompletionResponse, EditRequest
from quicksilver.protocol.wire import ErrorResponse
from quicksilver.server.errors import ApiError, as_api_error, unsupported
from quicksilver.server.generation import Work, answer
from quicksilver.server.service import Service

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in (
        (400, "The request cannot be served as it is."),
        (401, "No valid API key."),
        (402, "The key's grant of tokens is spent."),
        (404, "No such model."),
        (413, "The body is too large."),
        (429, "A rate limit; retry-after says when to come again."),
        (500, "The server failed."),
        (503, "Overloaded or shutting down; retry-after says when to come again."),
    )
}
"""What every generating route may answer instead."""


def _stream_of(body: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"text/event-stream": {"schema": body.model_json_schema()}}}}


TEXT_STREAM = _stream_of(CompletionResponse)
CHAT_STREAM = _stream_of(ChatChunk)


def _service(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(_service)]


async def run(service: Service, work: Work) -> Response:
    """Admit the work and answer it; what is wrong with it is told by field."""
    limits = [most_output(request) for request in work.requests]
    num_input = sum(count_input(service, request) for request in work.requests[:: work.num_per_prompt])
    if service.config.logs_prompts:
        work.http.state.note["prompt"] = repr([_shown(request) for request in work.requests])
    try:
        permit = await work.http.app.state.gate.admit(
            work.http, model=service.name(work.fields.model), num_input=num_input, max_output=sum(limits)
        )
        return await answer(service, permit, work)
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(work.fields.model_fields_set)) from error


def _shown(request: GenerateRequest | InfillRequest) -> object:
    return request.texts if isinstance(request, InfillRequest) else request.prompt_ids or request.prompt


def count_input(service: Service, request: GenerateRequest | InfillRequest) -> int:
    """Tokens of the prompt, or of the texts around the holes."""
    if isinstance(request, InfillRequest):
        return sum(map(len, service.model.tokenizer.encode_batch(request.texts)))
    if request.prompt_ids is not None:
        return len(request.prompt_ids)
    return len(service.model.tokenizer.encode(request.prompt))


def most_output(request: GenerateRequest | InfillRequest) -> int:
    """Tokens that a request may write."""
    if isinstance(request, GenerateRequest):
        return request.max_tokens or DEFAULT_MAX_TOKENS
    return sum(hole.length or hole.max_length or DEFAULT_MAX_TOKENS for hole in request.hole_options)


def nth(options: DecodingOptions, index: int) -> DecodingOptions:
    """The options of one of ``n`` choices: with a seed, choice i has seed + i, or all would be the same."""
    return options if options.seed is None else replace(options, seed=(options.seed + index) % 2**63)


def user_text(body: EditRequest) -> str:
    """The prompt: the last message of the user. Clients may send one of the system before it.

    Raises:
        ApiError: there is none, or its content is no text.
    """
    users = [message for message in body.messages if message.role == "user"]
    if not users:
        raise ApiError(400, "there is no message of role user", param="messages", code="invalid_value")
    try:
        return text_of(users[-1].content)
    except ValueError as error:
        raise unsupported("messages", str(error)) from error
