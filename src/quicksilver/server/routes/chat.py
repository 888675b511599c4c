"""``POST /v1/chat/completions``."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from quicksilver.api import GenerateRequest
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.errors import UsageError
from quicksilver.protocol.chat import ChatRequest, ChatResponse, Content, Message, text_of
from quicksilver.server.errors import ApiError, as_api_error, unsupported
from quicksilver.server.generation import Work
from quicksilver.server.routes._shared import CHAT_STREAM, ERRORS, ServiceOf, nth, run
from quicksilver.server.sampling import decoding_options
from quicksilver.server.service import Service
from quicksilver.server.shapes import ChatShape

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatResponse, responses={**ERRORS, **CHAT_STREAM})
async def chat(body: ChatRequest, http: Request, service: ServiceOf) -> Response:
    """Continue a conversation."""
    service.name(body.model)
    _check_supported(body)
    try:
        requests, num_predicted = _requests(body, service, await service.constraints.of(body))
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    shape = ChatShape(fields=body, tokenizer=service.model.tokenizer, has_logprobs=bool(body.logprobs))
    work = Work(
        http=http, fields=body, requests=requests, shape=shape, num_per_prompt=body.n, num_predicted=num_predicted
    )
    return await run(service, work)


def _check_supported(body: ChatRequest) -> None:
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    wants_tool = body.tool_choice not in (None, "auto", "none")
    is_strict = any(tool.function.strict for tool in body.tools or [])
    if wants_tool or is_strict:
        raise unsupported(
            "tool_choice" if wants_tool else "tools",
            "tool calls cannot be enforced yet: constrained decoding is not built; tool_choice may be auto or none",
        )


def _requests(
    body: ChatRequest, service: Service, constraint: TokenAutomaton | None
) -> tuple[list[GenerateRequest], int]:
    if service.template is None:
        raise ApiError(
            400,
            f"{service.names[0]} has no chat template; use /v1/completions",
            param="messages",
            code="chat_template_missing",
        )
    prompt = service.template.encode([_turn(message) for message in body.messages])
    draft = _content(body.prediction.content, "prediction") if body.prediction else None
    options = decoding_options(body, service.model, num_alternatives=body.top_logprobs or 0, constraint=constraint)
    num_predicted = len(service.model.tokenizer.encode(draft)) if draft else 0
    return [
        GenerateRequest(
            prompt_ids=prompt, max_tokens=body.token_limit, draft=draft or None, options=nth(options, index)
        )
        for index in range(body.n)
    ], num_predicted


def _turn(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": _content(message.content, "messages")}


def _content(content: Content | None, param: str) -> str:
    try:
        return text_of(content)
    except ValueError as error:
        raise unsupported(param, str(error)) from error
