"""``POST /v1/apply/completions``: a lazy snippet put into its file.

The merge is the structure's, not the model's, so it is as right with a weak model as with a strong one; the model only
tells which of several candidates the snippet leaves open is likeliest. Files may be longer than the model's context.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
import anyio.to_process
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from quicksilver.coding.apply import ApplyPrompt, Hole, Merge, choose_candidates, merge, parse_apply
from quicksilver.errors import ConfigError, MergeError, UsageError
from quicksilver.protocol.chat import AssistantMessage, ChatChunk, ChunkChoice, Delta
from quicksilver.protocol.completions import EditChoice, EditRequest, EditResponse
from quicksilver.protocol.wire import CompletionDetails, ErrorResponse, Usage
from quicksilver.server import sse
from quicksilver.server.errors import as_api_error
from quicksilver.server.generation import Head, read_usage
from quicksilver.server.metering import Permit
from quicksilver.server.routes._shared import CHAT_STREAM, ERRORS, ServiceOf, user_text
from quicksilver.server.service import ClientGoneError, Service, until_hang_up

router = APIRouter()

_REFUSED = {422: {"model": ErrorResponse, "description": "The snippet does not say for certain what the file becomes."}}
_LINES_PER_EVENT = 16
_BEFORE, _CANDIDATE, _AFTER = 160, 200, 48
"""Most tokens that are read before a candidate, of it and behind it."""


@dataclass(frozen=True, slots=True)
class _Applied:
    """A merged file, and how its holes were filled."""

    text: str
    num_holes: int
    num_read: int
    """Forwards of the model."""
    num_changed: int
    """Holes in which it preferred another candidate than the structure's first."""


@router.post("/v1/apply/completions", response_model=EditResponse, responses={**ERRORS, **_REFUSED, **CHAT_STREAM})
async def apply(body: EditRequest, http: Request, service: ServiceOf) -> Response:
    """The whole merged file, plain; how to decode it is not asked, because nothing is written freely."""
    head = Head.new(service, "cmpl-", body.model)
    count = service.model.tokenizer.encode
    try:
        text = user_text(body)
        prompt = parse_apply(text)
        num_input, num_snippet = len(count(text)), len(count(prompt.snippet))
        with service.beside_engine():
            permit = await http.app.state.gate.admit(
                http, model=head.model, num_input=num_input, max_output=num_input + num_snippet
            )
            applied = await _admitted(http, service, permit, prompt)
    except UsageError as error:
        raise as_api_error(error, fields=frozenset(body.model_fields_set)) from error
    except ClientGoneError:
        return Response(status_code=499)
    num_written = len(count(applied.text))
    await permit.settle([read_usage(num_prompt=num_input, num_written=num_written, nfe=applied.num_read)], "stop")
    http.state.note |= {"input_tokens": num_input, "output_tokens": num_written, "nfe": applied.num_read}
    usage = Usage(
        prompt_tokens=num_input,
        completion_tokens=num_written,
        total_tokens=num_input + num_written,
        # Every token is the file's or the snippet's.
        completion_tokens_details=CompletionDetails(accepted_prediction_tokens=num_written),
        nfe=applied.num_read,
        tokens_per_forward=0.0,
    )
    if body.stream:
        return sse.respond(_events(head, applied.text, usage if body.includes_usage else None))
    response = EditResponse(
        id=head.id,
        object="apply.completion",
        created=head.created,
        model=head.model,
        choices=[EditChoice(message=AssistantMessage(content=applied.text), finish_reason="stop")],
        usage=usage,
        details={"holes": applied.num_holes, "holes_decided_by_model": applied.num_changed},
    )
    return JSONResponse(response.model_dump(mode="json"))


async def _admitted(http: Request, service: Service, permit: Permit, prompt: ApplyPrompt) -> _Applied:
    """The merge; whatever ends it otherwise costs nothing."""
    try:
        return await until_hang_up(http, _applied(service, prompt))
    except BaseException:
        permit.release()
        raise


async def _applied(service: Service, prompt: ApplyPrompt) -> _Applied:
    merged = await _merged(prompt, service.config.merge_seconds)
    scores = [await _scores(service, merged, hole) for hole in merged.holes]
    text, picks = choose_candidates(prompt.original, prompt.snippet, merged, scores)
    return _Applied(
        text=text,
        num_holes=len(picks),
        num_read=sum(len(each) for each in scores if each is not None),
        num_changed=sum(pick > 0 for pick in picks),
    )


async def _merged(prompt: ApplyPrompt, seconds: float) -> Merge:
    """``merge`` in a process of its own: what takes too long is killed, and nothing waits for it."""
    try:
        with anyio.fail_after(seconds):
            return await anyio.to_process.run_sync(merge, prompt.original, prompt.snippet, cancellable=True)
    except TimeoutError as error:
        raise MergeError(
            f"the merge took longer than {seconds:g} s (merge_seconds); lines that stand in the file only once show "
            "faster where the snippet belongs"
        ) from error


async def _scores(service: Service, merged: Merge, hole: Hole) -> list[float] | None:
    """Log-likelihood of each candidate with what follows it; None where the model cannot read them."""
    encode = service.model.tokenizer.encode
    before, after = encode(merged.text[: hole.start])[-_BEFORE:], encode(merged.text[hole.end :])[:_AFTER]
    candidates = [encode(candidate) for candidate in hole.candidates]
    if max(map(len, candidates)) > _CANDIDATE or not (after or all(candidates)):
        return None
    scores: list[float] = []
    for candidate in candidates:
        shown = candidate + after
        try:
            rows = await service.next_token_logprobs(before + shown)
        except ConfigError:  # no next-token reading in this checkpoint
            return None
        scores.append(float(rows[len(before) :][range(len(shown)), shown].sum()))
    return scores


async def _events(head: Head, text: str, usage: Usage | None) -> AsyncIterator[ServerSentEvent]:
    """The file as a chat's stream, some lines an event."""
    lines = text.splitlines(keepends=True)
    parts = ["".join(lines[at : at + _LINES_PER_EVENT]) for at in range(0, len(lines), _LINES_PER_EVENT)]
    yield _event(head, [ChunkChoice(index=0, delta=Delta(role="assistant", content=""))])
    for part in parts:
        yield _event(head, [ChunkChoice(index=0, delta=Delta(content=part))])
    yield _event(head, [ChunkChoice(index=0, delta=Delta(), finish_reason="stop")])
    if usage is not None:
        yield _event(head, [], usage)
    yield sse.END


def _event(head: Head, choices: list[ChunkChoice], usage: Usage | None = None) -> ServerSentEvent:
    return sse.event(
        ChatChunk(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=usage,
            system_fingerprint=head.system_fingerprint,
        )
    )
