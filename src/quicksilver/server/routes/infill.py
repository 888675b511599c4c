"""``POST /v1/infill``: several holes, typed events."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from quicksilver.api import (
    Answer,
    CheckReport,
    Commit,
    Completion,
    Done,
    Draft,
    Edit,
    HoleOptions,
    Remask,
    Repairs,
    Resize,
    Snapshot,
    StreamEvent,
    Token,
    split_template,
)
from quicksilver.api import InfillRequest as Infill
from quicksilver.api.requests import parse_layout
from quicksilver.errors import UsageError
from quicksilver.protocol.infill import (
    CheckOutcome,
    FilledHole,
    HoleLimits,
    InfillEvent,
    InfillRequest,
    InfillResponse,
    LikelyToken,
    TokenConfidence,
)
from quicksilver.protocol.wire import ErrorResponse, Usage
from quicksilver.server import sse
from quicksilver.server.checked import CheckedFill, find_check
from quicksilver.server.errors import ApiError, as_api_error
from quicksilver.server.generation import (
    Head,
    account,
    cell_frames,
    collected,
    finish_reason,
    trace_of,
    used_until_abort,
)
from quicksilver.server.metering import Permit
from quicksilver.server.routes._shared import ERRORS, ServiceOf, count_input, most_output
from quicksilver.server.sampling import decoding_options
from quicksilver.server.service import ClientGoneError, Service, merged

router = APIRouter()

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": InfillEvent.model_json_schema()}}}
}


@router.post("/v1/infill", response_model=InfillResponse, responses={**ERRORS, **_STREAM})
async def infill(body: InfillRequest, http: Request, service: ServiceOf) -> Response:
    """Fill all holes of a template; everything outside them stays as it is."""
    head = Head.new(service, "infill-", body.model)
    fields = frozenset(body.model_fields_set)
    if body.check is not None:
        return await _infill_checked(body, body.check, http, service, head)
    if body.repairs is not None:
        raise ApiError(400, "repairs are of a check: name one in check, or leave repairs out", param="repairs")
    try:
        request = await _request(body, service)
        permit = await http.app.state.gate.admit(
            http, model=head.model, num_input=count_input(service, request), max_output=most_output(request)
        )
        try:
            [answer] = await service.submit([request], has_snapshots=body.stream)
        except BaseException:
            permit.release()
            raise
    except UsageError as error:
        raise as_api_error(error, fields=fields) from error
    if body.stream:
        return sse.respond(_events(service, permit, http, body, head, answer))
    try:
        [completion] = await collected(service, permit, http, [answer])
    except ClientGoneError:
        return Response(status_code=499)
    response = await _response(service, permit, http, body, head, answer, completion)
    return JSONResponse(response.model_dump(mode="json"))


async def _infill_checked(body: InfillRequest, name: str, http: Request, service: Service, head: Head) -> Response:
    """The same with a check in the loop: what a client has seen of a draft could not be taken back, so none is sent."""
    if body.stream:
        raise ApiError(400, "a check answers at its end, not as a stream: leave stream out", param="stream")
    repairs = Repairs() if body.repairs is None else Repairs(rounds=body.repairs)
    try:
        request, check = await _request(body, service), find_check(name, service.config)
        most = most_output(request) * (1 + repairs.rounds * repairs.drafts)
        permit = await http.app.state.gate.admit(
            http, model=head.model, num_input=count_input(service, request), max_output=most
        )
        filling = CheckedFill(service, http, request, check, repairs)
        completion = await filling.collected(permit)
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    except ClientGoneError:
        return Response(status_code=499)
    usage = await account(service, permit, http.state.note, filling.answers, filling.completions)
    return JSONResponse(_whole(body, head, completion, usage).model_dump(mode="json"))


async def _request(body: InfillRequest, service: Service) -> Infill:
    stop = body.stop_texts
    constraint = await service.constraints.of(body, stop=stop)
    holes = None if body.holes is None else tuple([await _hole(each, service, stop) for each in body.holes])
    has_own_ends = constraint is not None or bool(holes and all(hole.constraint is not None for hole in holes))
    return Infill(
        texts=split_template(body.template, body.mark),
        holes=holes,
        layout=parse_layout(body.layout),
        options=decoding_options(
            body,
            service.model,
            draft_threshold=body.draft_threshold,
            num_alternatives=body.top_logprobs,
            constraint=constraint,
            has_own_ends=has_own_ends,
        ),
    )


async def _hole(limits: HoleLimits, service: Service, stop: tuple[str, ...]) -> HoleOptions:
    return HoleOptions(
        length=limits.length,
        max_length=limits.max_length,
        draft=limits.draft,
        constraint=await service.constraints.of(limits, stop=stop),
    )


def _token(token: Token) -> TokenConfidence:
    return TokenConfidence(
        text=token.text,
        confidence=token.confidence,
        step=token.step,
        alternatives=[LikelyToken(text=each.text, confidence=each.probability) for each in token.alternatives],
    )


async def _response(
    service: Service,
    permit: Permit,
    http: Request,
    body: InfillRequest,
    head: Head,
    answer: Answer,
    completion: Completion,
) -> InfillResponse:
    return _whole(body, head, completion, await account(service, permit, http.state.note, [answer], [completion]))


def _whole(body: InfillRequest, head: Head, completion: Completion, usage: Usage) -> InfillResponse:
    return InfillResponse(
        id=head.id,
        created=head.created,
        model=head.model,
        text=completion.text,
        holes=[FilledHole(text=hole.text, tokens=list(map(_token, hole.tokens))) for hole in completion.holes],
        finish_reason=finish_reason(completion),
        usage=usage,
        trace=trace_of(completion, body),
        check=None if completion.check is None else _outcome(completion.check),
    )


def _outcome(report: CheckReport) -> CheckOutcome:
    return CheckOutcome(
        name=report.name,
        parts=list(report.parts),
        passed=report.is_passed,
        repairs=report.num_rounds,
        drafts=report.num_drafts,
        problems=list(report.problems),
    )


async def _events(
    service: Service, permit: Permit, http: Request, body: InfillRequest, head: Head, answer: Answer
) -> AsyncIterator[ServerSentEvent]:
    started, has_text, is_settled = time.monotonic(), False, False
    try:
        async with aclosing(merged([answer])) as events:
            async for _, event in events:
                if isinstance(event, Commit) and not has_text:
                    has_text = True
                    service.metrics.first_text.labels("/v1/infill").observe(time.monotonic() - started)
                if isinstance(event, Done):
                    response = await _response(service, permit, http, body, head, answer, event.completion)
                    is_settled = True
                    yield _told(InfillEvent(type="done", response=response))
                else:
                    yield _told(_wire(event))
    except Exception as error:  # noqa: BLE001  # the status has been sent: told as an event
        yield sse.event(ErrorResponse(error=as_api_error(error).body))
    finally:
        if not is_settled:
            service.metrics.aborts.inc()
            with anyio.CancelScope(shield=True):
                await permit.settle(await used_until_abort([answer]), "aborted")
    yield sse.END


def _told(event: InfillEvent) -> ServerSentEvent:
    return sse.event(event, exclude_none=True)


def _wire(event: StreamEvent) -> InfillEvent:
    match event:
        case Draft() | Edit():
            return InfillEvent(
                type="draft" if isinstance(event, Draft) else "edit",
                hole=event.hole,
                start=event.start,
                stop=event.stop,
                texts=list(event.texts),
                confidence=list(event.confidence),
            )
        case Commit() | Remask():
            kind = "commit" if isinstance(event, Commit) else "remask"
            return InfillEvent(type=kind, hole=event.hole, start=event.start, stop=event.stop)
        case Resize():
            return InfillEvent(type="resize", hole=event.hole, start=event.start, added=event.added)
        case Snapshot():
            return InfillEvent(type="frame", nfe=event.nfe, holes=list(map(cell_frames, event.holes)))
        case _:
            raise TypeError(f"no wire form for {type(event).__name__}")
