"""What every generating route does: admit, submit, collect or stream, account, answer."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, Self

import anyio
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from sse_starlette import ServerSentEvent

from quicksilver.api import (
    Answer,
    Cell,
    Completion,
    Done,
    FinishReason,
    GenerateRequest,
    InfillRequest,
    SettledText,
    Snapshot,
    State,
    StreamEvent,
)
from quicksilver.engine.request import Usage as EngineUsage
from quicksilver.protocol.sampling import SamplingFields
from quicksilver.protocol.wire import (
    CellFrame,
    CompletionDetails,
    DiffusionMeta,
    ErrorResponse,
    PromptDetails,
    TraceStep,
    Usage,
)
from quicksilver.server import sse
from quicksilver.server.errors import as_api_error
from quicksilver.server.logs import log
from quicksilver.server.metering import Permit
from quicksilver.server.service import ClientGoneError, Service, completions_of, merged, until_hang_up

Note = dict[str, str | int | float]
"""What the log will say of a request."""

MASK_SIGN = "░"
"""Stands for a mask in the frames of a ``diffusing`` stream."""

_STATES = {State.PROMPT: "final", State.MASK: "mask", State.DRAFT: "draft", State.FINAL: "final"}
_STOPPED = frozenset({FinishReason.EOS, FinishReason.STOP, FinishReason.FILLED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What all bodies of one answer begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, service: Service, prefix: str, wanted: str | None) -> Self:
        """Of an answer made now, by the name that the client calls the model."""
        return cls(
            id=prefix + secrets.token_hex(12),
            created=int(service.clock()),
            model=service.name(wanted),
            system_fingerprint=service.system_fingerprint,
        )


class Shape(Protocol):
    """How a route writes what was generated."""

    @property
    def prefix(self) -> str:
        """Of the answer's id."""
        ...

    def whole(self, head: Head, completions: Sequence[Completion], usage: Usage) -> BaseModel:
        """The answer to a request that does not stream."""
        ...

    def first(self, head: Head, index: int) -> BaseModel | None:
        """What opens a choice in a stream."""
        ...

    def deltas(self, head: Head, index: int, text: str) -> Sequence[BaseModel]:
        """Settled text."""
        ...

    def frame(self, head: Head, index: int, text: str, meta: DiffusionMeta) -> BaseModel:
        """The whole canvas."""
        ...

    def last(self, head: Head, index: int, completion: Completion) -> Sequence[BaseModel]:
        """What closes a choice."""
        ...

    def usage(self, head: Head, usage: Usage) -> BaseModel:
        """What a stream ends with if it is asked for."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One HTTP request that generates."""

    http: Request
    fields: SamplingFields
    requests: Sequence[GenerateRequest | InfillRequest]
    shape: Shape
    num_per_prompt: int = 1
    """So many consecutive requests share a prompt, which is counted once."""
    num_predicted: int = 0
    """Tokens of a prediction that decoding starts from."""

    async def account(
        self, service: Service, permit: Permit, answers: Sequence[Answer], completions: Sequence[Completion]
    ) -> Usage:
        """As the function of this name."""
        return await account(
            service,
            permit,
            self.http.state.note,
            answers,
            completions,
            num_per_prompt=self.num_per_prompt,
            num_predicted=self.num_predicted,
        )


async def answer(service: Service, permit: Permit, work: Work) -> Response:
    """Run the work and answer, at once or as a stream.

    Raises:
        ApiError, UsageError, EngineError: before anything is sent.
    """
    started = time.monotonic()
    head = Head.new(service, work.shape.prefix, work.fields.model)
    try:
        answers = await service.submit(work.requests, has_snapshots=work.fields.diffusing and work.fields.stream)
    except BaseException:
        permit.release()
        raise
    if work.fields.stream:
        events = _Stream(service, permit, work, head, answers, started).events()
        return sse.respond(events)
    try:
        completions = await collected(service, permit, work.http, answers)
    except ClientGoneError:
        return Response(status_code=499)
    usage = await work.account(service, permit, answers, completions)
    return JSONResponse(work.shape.whole(head, completions, usage).model_dump(mode="json"))


async def collected(service: Service, permit: Permit, http: Request, answers: Sequence[Answer]) -> list[Completion]:
    """The completions; if there are none, what was used is recorded.

    Raises:
        ClientGoneError: the client hung up.
        EngineError: the engine failed.
    """
    try:
        return await until_hang_up(http, completions_of(answers))
    except BaseException as error:
        await settle_failed(service, permit, answers, error)
        raise


async def settle_failed(service: Service, permit: Permit, answers: Sequence[Answer], error: BaseException) -> None:
    """Abort what runs and record what was used, where ``error`` leaves a request without an answer."""
    service.metrics.aborts.inc(len(answers))
    reason = "aborted" if isinstance(error, ClientGoneError) else "failed"
    with anyio.CancelScope(shield=True):
        await permit.settle(await used_until_abort(answers), reason)


async def used_until_abort(answers: Sequence[Answer]) -> list[EngineUsage]:
    """Abort what runs, and what it took."""
    return [usage for answer in answers for usage in await answer.aborted()]


async def account(
    service: Service,
    permit: Permit,
    note: Note,
    answers: Sequence[Answer],
    completions: Sequence[Completion],
    *,
    num_per_prompt: int = 1,
    num_predicted: int = 0,
) -> Usage:
    """Count what was used, durably, before the client is told, and note it; see ``Work`` for the last two."""
    usages = engine_usages(answers)
    service.metrics.ended(usages)
    usage = _usage(answers, completions, num_per_prompt, num_predicted)
    note |= {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "nfe": sum(each.nfe for each in usages),
    }
    if service.config.logs_prompts:
        note["text"] = "\n".join(completion.text for completion in completions)
    await permit.settle(usages, finish_reason(completions[0]))
    return usage


def read_usage(*, num_prompt: int, num_written: int, nfe: int) -> EngineUsage:
    """What a request took that only reads, beside the engine."""
    return EngineUsage(
        nfe=nfe,
        num_forwards=nfe,
        num_written=num_written,
        num_edits=0,
        num_prompt=num_prompt,
        num_cached=0,
        num_preemptions=0,
        num_stale_forwards=0,
        num_stale_rows=0,
        queue_seconds=0.0,
        seconds=0.0,
    )


def finish_reason(completion: Completion) -> str:
    """OpenAI's word for how an answer ended."""
    return "stop" if completion.finish_reason in _STOPPED else "length"


def trace_of(completion: Completion, fields: SamplingFields) -> list[TraceStep] | None:
    """The decisions, if the request asks for them."""
    if not fields.return_trace:
        return None
    return [
        TraceStep(step=e.step, hole=e.hole, position=e.position, token_id=e.token_id, confidence=e.confidence)
        for e in completion.trace
    ]


def cell_frames(cells: Sequence[Cell]) -> list[CellFrame]:
    """A hole as it stands, token by token."""
    return [
        CellFrame.model_validate({"text": cell.text, "state": _STATES[cell.state], "confidence": cell.confidence})
        for cell in cells
    ]


class _Stream:
    """The events of one streamed answer."""

    def __init__(
        self, service: Service, permit: Permit, work: Work, head: Head, answers: Sequence[Answer], started: float
    ) -> None:
        self._service, self._permit, self._work, self._head = service, permit, work, head
        self._answers, self._started = answers, started
        model = service.model
        self._settled = [
            SettledText(model.tokenizer, model.spec.special.eos, stop=request.options.stop) for request in work.requests
        ]
        self._ended: dict[int, Completion] = {}
        self._has_text = False

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """All events, the terminator included. A failure is told as an event: the status has been sent."""
        is_settled = False
        try:
            for index in range(len(self._answers)):
                opening = self._work.shape.first(self._head, index)
                if opening is not None:
                    yield sse.event(opening)
            async with aclosing(merged(self._answers)) as told:
                async for index, event in told:
                    for body in self._told(index, event):
                        yield sse.event(body)
            completions = [self._ended[index] for index in range(len(self._answers))]
            usage = await self._work.account(self._service, self._permit, self._answers, completions)
            is_settled = True
            for index, completion in enumerate(completions):
                for body in self._work.shape.last(self._head, index, completion):
                    yield sse.event(body)
            if self._work.fields.includes_usage:
                yield sse.event(self._work.shape.usage(self._head, usage))
        except Exception as error:  # noqa: BLE001  # the status has been sent: told as an event
            log.warning("%s failed in mid-stream: %s", self._head.id, error)
            yield sse.event(ErrorResponse(error=as_api_error(error).body))
        finally:
            if not is_settled:
                self._service.metrics.aborts.inc(len(self._answers) - len(self._ended))
                # The client's hang-up cancels everything here, but what was used must still be written down.
                with anyio.CancelScope(shield=True):
                    await self._permit.settle(await self._used(), "aborted")
        yield sse.END

    async def _used(self) -> list[EngineUsage]:
        """What was used so far; of a job without an end, what the client was told counts as written."""
        used = []
        for answer, settled in zip(self._answers, self._settled, strict=True):
            used += [
                replace(usage, num_written=usage.num_written or settled.num_tokens) for usage in await answer.aborted()
            ]
        return used

    def _told(self, index: int, event: StreamEvent) -> Sequence[BaseModel]:
        shape, settled = self._work.shape, self._settled[index]
        if isinstance(event, Done):
            self._ended[index] = event.completion
            text = event.completion.holes[0].text
            rest = settled.rest(text)
            if self._work.fields.diffusing:
                meta = _last_meta(event.completion, has_cells=self._work.fields.return_trace)
                return [shape.frame(self._head, index, text, meta)]
            return self._deltas(index, rest)
        told = settled.take(event)
        if not self._work.fields.diffusing:
            return self._deltas(index, told)
        return [self._frame(index, event)] if isinstance(event, Snapshot) else []

    def _deltas(self, index: int, text: str) -> Sequence[BaseModel]:
        if not text:
            return []
        if not self._has_text:
            self._has_text = True
            route = self._work.http.url.path
            self._service.metrics.first_text.labels(route).observe(time.monotonic() - self._started)
        return self._work.shape.deltas(self._head, index, text)

    def _frame(self, index: int, snapshot: Snapshot) -> BaseModel:
        cells = snapshot.holes[0]
        known = [cell for cell in cells if cell.state is not State.MASK]
        text = "".join(MASK_SIGN if cell.state is State.MASK else cell.text for cell in cells)
        meta = DiffusionMeta(
            diffusion_progress=len(known) / len(cells) if cells else 0.0,
            step=snapshot.nfe,
            nfe=snapshot.nfe,
            settled_chars=len(self._settled[index].text),
            mean_confidence=sum(cell.confidence for cell in known) / len(known) if known else 0.0,
            cells=cell_frames(cells) if self._work.fields.return_trace else None,
        )
        return self._work.shape.frame(self._head, index, text, meta)


def _last_meta(completion: Completion, *, has_cells: bool) -> DiffusionMeta:
    hole = completion.holes[0]
    cells = [CellFrame(text=token.text, state="final", confidence=token.confidence) for token in hole.tokens]
    return DiffusionMeta(
        diffusion_content=False,
        diffusion_progress=1.0,
        step=completion.nfe,
        nfe=completion.nfe,
        settled_chars=len(hole.text),
        mean_confidence=sum(cell.confidence for cell in cells) / len(cells) if cells else 0.0,
        cells=cells if has_cells else None,
    )


def engine_usages(answers: Sequence[Answer]) -> list[EngineUsage]:
    """What the jobs that have ended took."""
    return [usage for answer in answers for usage in answer.usages]


def _usage(
    answers: Sequence[Answer], completions: Sequence[Completion], num_per_prompt: int, num_predicted: int
) -> Usage:
    first = [answers[index].usages[0] for index in range(0, len(answers), num_per_prompt)]
    prompt = sum(usage.num_prompt for usage in first)
    cached = sum(min(usage.num_cached, usage.num_prompt) for usage in first)
    written = sum(completion.num_tokens for completion in completions)
    nfe = sum(completion.nfe for completion in completions)
    tokens = [token for completion in completions for hole in completion.holes for token in hole.tokens]
    accepted = sum(token.step == 0 for token in tokens)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=written,
        total_tokens=prompt + written,
        cached_input_tokens=cached,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
        completion_tokens_details=CompletionDetails(
            accepted_prediction_tokens=accepted,
            rejected_prediction_tokens=max(num_predicted * len(completions) - accepted, 0),
        ),
        nfe=nfe,
        tokens_per_forward=round(written / nfe, 4) if nfe else 0.0,
        stale_rows=sum(completion.num_stale_rows for completion in completions),
    )
