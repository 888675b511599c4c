"""``POST /v1/chat/completions``."""

import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from quicksilver.api import GenerateRequest
from quicksilver.api.constraint_fields import wanted_constraint
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.errors import ConfigError, UsageError
from quicksilver.protocol.chat import ChatRequest, ChatResponse, Content, Message, text_of
from quicksilver.protocol.tools import FunctionCall
from quicksilver.server.chat_template import ChatTemplate
from quicksilver.server.errors import ApiError, as_api_error, unsupported
from quicksilver.server.generation import Work
from quicksilver.server.routes._shared import CHAT_STREAM, ERRORS, ServiceOf, nth, run
from quicksilver.server.sampling import decoding_options
from quicksilver.server.service import Service
from quicksilver.server.shapes import ChatShape
from quicksilver.server.tools import Calling, calls_of

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatResponse, responses={**ERRORS, **CHAT_STREAM})
async def chat(body: ChatRequest, http: Request, service: ServiceOf) -> Response:
    """Continue a conversation."""
    service.name(body.model)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    template = _template(service)
    try:
        content = wanted_constraint(body)
        calls = calls_of(body, template, None if content is None else content.constraint)
        if calls is not None:
            constraint = await service.constraints.compiled(calls, param="tools")
        else:
            constraint = await service.constraints.of(body, stop=body.stop_texts)
        if calls is not None and body.stop_texts:
            raise ConfigError("stop contradicts tools, whose calls end where they are whole; leave stop out")
        requests, num_predicted = _requests(body, service, template, constraint)
        calling = (
            None if calls is None else Calling(constraint=calls, most_tokens=service.model.token_limit(requests[0]))
        )
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    tokenizer = service.model.tokenizer
    shape = ChatShape(fields=body, tokenizer=tokenizer, has_logprobs=bool(body.logprobs), calling=calling)
    work = Work(
        http=http, fields=body, requests=requests, shape=shape, num_per_prompt=body.n, num_predicted=num_predicted
    )
    return await run(service, work)


def _template(service: Service) -> ChatTemplate:
    if service.template is None:
        raise ApiError(
            400,
            f"{service.names[0]} has no chat template; use /v1/completions",
            param="messages",
            code="chat_template_missing",
        )
    return service.template


def _requests(
    body: ChatRequest, service: Service, template: ChatTemplate, constraint: TokenAutomaton | None
) -> tuple[list[GenerateRequest], int]:
    tools = [] if body.tool_choice == "none" else body.tools or []
    prompt = template.encode(
        [_turn(message, template) for message in body.messages],
        [tool.model_dump(exclude_none=True) for tool in tools],
    )
    draft = _content(body.prediction.content, "prediction") if body.prediction else None
    options = decoding_options(
        body,
        service.model,
        num_alternatives=body.top_logprobs or 0,
        constraint=constraint,
        has_own_ends=constraint is not None,
    )
    num_predicted = len(service.model.tokenizer.encode(draft)) if draft else 0
    return [
        GenerateRequest(
            prompt_ids=prompt, max_tokens=body.token_limit, draft=draft or None, options=nth(options, index)
        )
        for index in range(body.n)
    ], num_predicted


def _turn(message: Message, template: ChatTemplate) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": _content(message.content, "messages")}
    turn |= {name: value for name in ("name", "tool_call_id") if (value := getattr(message, name)) is not None}
    calls = [{**call.model_dump(), "function": _called(call.function)} for call in message.tool_calls or ()]
    if calls and template.shows_calls:
        turn["tool_calls"] = calls
    elif calls:
        # As the model writes them under this template.
        written = [json.dumps(call["function"], ensure_ascii=False, separators=(",", ":")) for call in calls]
        turn["content"] = "\n".join([turn["content"], *written] if turn["content"] else written)
    return turn


def _called(function: FunctionCall) -> dict[str, Any]:
    """Arguments as values, which is what templates expect; those that are no JSON stay a text."""
    try:
        return {"name": function.name, "arguments": json.loads(function.arguments)}
    except ValueError:
        return function.model_dump()


def _content(content: Content | None, param: str) -> str:
    try:
        return text_of(content)
    except ValueError as error:
        raise unsupported(param, str(error)) from error
