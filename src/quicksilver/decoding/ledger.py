"""The accounts of one request: forwards, edits, trace, and the events that report each step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.alternatives import Alternatives, TokenAlternatives
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.events import (
    Commit,
    Done,
    Draft,
    Edit,
    Event,
    FinishReason,
    Frame,
    Remask,
    Result,
    TraceEntry,
)
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One decision, in canvas coordinates. Tokens and what is known of them are read where something is written."""

    token_ids: Int[Tensor, " L"]
    confidence: Float[Tensor, " L"]
    commit: Bool[Tensor, " L"]
    edit: Bool[Tensor, " L"]
    remask: Bool[Tensor, " L"]
    is_settled: bool
    alternatives: Alternatives | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where a row of adjacent canvas positions stands."""

    hole: Sequence[int]
    offset: Sequence[int]
    """In the hole."""
    first: int = 0
    """Position on the canvas of the first of them."""

    @classmethod
    def of(cls, canvas: Canvas) -> "Places":
        return cls(canvas.hole.tolist(), canvas.offset.tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """A step's decision in plain lists, one entry per place; ``Step`` says what the fields mean."""

    token_ids: Sequence[int]
    confidence: Sequence[float]
    commit: Sequence[bool]
    edit: Sequence[bool]
    remask: Sequence[bool]

    @classmethod
    def of(cls, step: Step) -> "Marks":
        return cls(
            token_ids=step.token_ids.tolist(),
            confidence=step.confidence.tolist(),
            commit=step.commit.tolist(),
            edit=step.edit.tolist(),
            remask=step.remask.tolist(),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Adjacent marked positions of one hole."""

    hole: int
    start: int
    """Offset in the hole."""
    index: slice
    """Among the places."""

    @property
    def stop(self) -> int:
        return self.start + self.index.stop - self.index.start


def spans(places: Places, marked: Sequence[bool]) -> Iterator[Span]:
    """The maximal runs of marked positions, hole by hole, in order."""
    if not any(marked):
        return
    hole, offset = places.hole, places.offset
    start = 0
    while start < len(marked):
        if not marked[start]:
            start += 1
            continue
        stop = start + 1
        while (
            stop < len(marked) and marked[stop] and hole[stop] == hole[start] and offset[stop] == offset[stop - 1] + 1
        ):
            stop += 1
        yield Span(hole=hole[start], start=offset[start], index=slice(start, stop))
        start = stop


class Ledger:
    """Counts what a request has used and turns its steps into events. Not shared between requests."""

    def __init__(self) -> None:
        """Start with empty accounts."""
        self.nfe = 0
        self.num_edits = 0
        self.num_stale_forwards = 0
        self.num_stale_rows = 0
        self.trace: list[TraceEntry] = []

    def forward(
        self, logits_fn: CanvasLogits, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]
    ) -> Float[Tensor, "L V"]:
        """One counted forward pass.

        Raises:
            InputError: the logits are not one row per position, or hold NaN or plus infinity.
        """
        self.nfe += 1
        logits = logits_fn(token_ids, block_ids)
        if logits.ndim != 2 or logits.shape[0] != token_ids.shape[0]:
            raise InputError(f"{token_ids.shape[0]} positions need as many rows of logits, got {tuple(logits.shape)}")
        if not bool((logits < torch.inf).all()):
            raise InputError(f"the denoiser gave NaN or infinite logits at forward {self.nfe}")
        return logits

    def count_stale(self, num_rows: int) -> None:
        """A forward saw so many stale rows."""
        self.num_stale_forwards += num_rows > 0
        self.num_stale_rows += num_rows

    def record(self, places: Places, marks: Marks, mask_id: int) -> list[Event]:
        """Trace a step on the canvas it was decided for, and report what it writes and unwrites."""
        self.num_edits += sum(marks.edit)
        events: list[Event] = []
        for kind, where in ((Draft, marks.commit), (Edit, marks.edit)):
            for span in spans(places, where):
                tokens, confidence = tuple(marks.token_ids[span.index]), tuple(marks.confidence[span.index])
                self._write_trace(places, span, tokens, confidence)
                events.append(kind(hole=span.hole, start=span.start, token_ids=tokens, confidence=confidence))
        for span in spans(places, marks.remask):
            count = span.stop - span.start
            self._write_trace(places, span, (mask_id,) * count, (0.0,) * count)
            events.append(Remask(hole=span.hole, start=span.start, stop=span.stop))
        return events

    def record_resize(
        self, places: Places, marked: Sequence[bool], token_ids: Sequence[int], confidence: Sequence[float]
    ) -> None:
        """Trace expand and delete decisions; their events depend on the order of application."""
        for span in spans(places, marked):
            self._write_trace(places, span, token_ids[span.index], confidence[span.index])

    def _write_trace(self, places: Places, span: Span, token_ids: Sequence[int], confidence: Sequence[float]) -> None:
        start = places.first + span.index.start
        for position, (token, probability) in enumerate(zip(token_ids, confidence, strict=True), start):
            self.trace.append(
                TraceEntry(step=self.nfe, hole=span.hole, position=position, token_id=token, confidence=probability)
            )

    def frame(self, canvas: Canvas) -> Frame:
        """A snapshot for display."""
        return Frame(
            nfe=self.nfe,
            token_ids=tuple(canvas.token_ids.tolist()),
            state=tuple(State(value) for value in canvas.state.tolist()),
            confidence=tuple(canvas.confidence.tolist()),
            hole=tuple(canvas.hole.tolist()),
        )

    def done(self, canvas: Canvas, num_holes: int, reason: FinishReason) -> Done:
        """The result: everything that stands in the holes of ``canvas``."""
        inside = [canvas.hole == hole for hole in range(num_holes)]
        return self.result(
            [tuple(canvas.token_ids[hole].tolist()) for hole in inside],
            [tuple(canvas.confidence[hole].tolist()) for hole in inside],
            [tuple(canvas.step_committed[hole].tolist()) for hole in inside],
            reason,
            [canvas.alternatives.rows(hole).tokens() for hole in inside] if canvas.alternatives is not None else (),
        )

    def result(
        self,
        holes: Sequence[tuple[int, ...]],
        confidence: Sequence[tuple[float, ...]],
        step_committed: Sequence[tuple[int, ...]],
        reason: FinishReason,
        alternatives: Sequence[tuple[TokenAlternatives, ...]] = (),
    ) -> Done:
        """The result of given holes; the arguments mean what ``Result``'s fields mean."""
        return Done(
            result=Result(
                holes=tuple(holes),
                confidence=tuple(confidence),
                step_committed=tuple(step_committed),
                nfe=self.nfe,
                num_edits=self.num_edits,
                finish_reason=reason,
                trace=tuple(self.trace),
                num_stale_forwards=self.num_stale_forwards,
                num_stale_rows=self.num_stale_rows,
                alternatives=tuple(alternatives),
            )
        )


def commits(canvas: Canvas, where: Bool[Tensor, " L"]) -> list[Event]:
    """The events that make the marked positions final."""
    return commit_events(Places.of(canvas), where.tolist())


def commit_events(places: Places, marked: Sequence[bool]) -> list[Event]:
    """The events that make the marked positions final."""
    return [Commit(hole=span.hole, start=span.start, stop=span.stop) for span in spans(places, marked)]
