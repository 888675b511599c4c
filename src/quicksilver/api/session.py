"""One request under way: the sampler's events become events with text, and its results one completion."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from quicksilver import decoding
from quicksilver.api.context import splice
from quicksilver.api.events import Cell, Draft, Edit, Snapshot, StreamEvent
from quicksilver.api.results import Alternative, Completion, HoleText, Token
from quicksilver.api.stopping import cut_at_stop
from quicksilver.decoding import NO_HOLE, Commit, FinishReason, Frame, Remask, Resize, Result, State
from quicksilver.engine.request import Request as EngineRequest
from quicksilver.tokenization.tokenizer import Tokenizer


class Session:
    """Takes the events of one sampler run after the other. Holes are numbered over all runs."""

    def __init__(self, tokenizer: Tokenizer, num_holes: int, eos_id: int, seed: int, stop: Sequence[str] = ()) -> None:
        """Start with ``num_holes`` empty holes; texts end before a ``stop`` string."""
        self._stop = stop
        self._tokenizer, self._eos_id, self._seed = tokenizer, eos_id, seed
        self._cells: list[tuple[Cell, ...]] = [()] * num_holes
        self._results: list[Result] = []
        self._holes: list[HoleText] = []
        self._seconds = 0.0
        self._first, self._num_holes = 0, num_holes

    @property
    def _nfe(self) -> int:
        return sum(result.nfe for result in self._results)

    def begin(self, num_holes: int) -> None:
        """Expect the events of a run that fills the next ``num_holes`` holes."""
        self._first, self._num_holes = len(self._holes), num_holes

    def take(self, event: decoding.Event) -> StreamEvent | None:
        """The event with text; None for the Done that ends a run."""
        first = self._first
        match event:
            case decoding.Draft() | decoding.Edit():
                kind = Draft if isinstance(event, decoding.Draft) else Edit
                return kind(
                    hole=event.hole + first,
                    start=event.start,
                    token_ids=event.token_ids,
                    texts=tuple(map(self._token_text, event.token_ids)),
                    confidence=event.confidence,
                )
            case Resize() | Remask() | Commit():
                return replace(event, hole=event.hole + first)
            case Frame():
                return self._snapshot(event, first, self._num_holes)
            case decoding.Done(result=result):
                self._holes += [self._hole_text(result, hole) for hole in range(self._num_holes)]
                self._results.append(result)
                return None

    def spend(self, seconds: float) -> None:
        """Add to the time that decoding took."""
        self._seconds += seconds

    @property
    def filled(self) -> Sequence[str]:
        """The texts of the holes whose runs have ended, in order."""
        return [hole.text for hole in self._holes]

    def complete(self, texts: Sequence[str]) -> Completion:
        """The completion of all runs; ``texts`` stand around the holes."""
        return Completion(
            text=splice(texts, self.filled),
            holes=tuple(self._holes),
            nfe=self._nfe,
            num_edits=sum(result.num_edits for result in self._results),
            seconds=self._seconds,
            finish_reason=self._finish_reason(),
            seed=self._seed,
            trace=tuple(self._trace()),
            num_stale_forwards=sum(result.num_stale_forwards for result in self._results),
            num_stale_rows=sum(result.num_stale_rows for result in self._results),
        )

    def _finish_reason(self) -> FinishReason:
        reasons = [result.finish_reason for result in self._results]
        early = (FinishReason.LENGTH, FinishReason.MAX_NFE, FinishReason.DEADLINE)
        cut = [reason for reason in reasons if reason in early]
        return cut[0] if cut else reasons[0]

    def _trace(self) -> Iterator[decoding.TraceEntry]:
        hole, step = 0, 0
        for result in self._results:
            yield from (replace(e, hole=e.hole + hole, step=e.step + step) for e in result.trace)
            hole, step = hole + len(result.holes), step + result.nfe

    def _snapshot(self, frame: Frame, first: int, num_holes: int) -> Snapshot:
        cells: list[list[Cell]] = [[] for _ in range(num_holes)]
        has_ended = False
        for token, state, confidence, hole in zip(
            frame.token_ids, frame.state, frame.confidence, frame.hole, strict=True
        ):
            # What follows a written eos is void.
            has_ended = has_ended or (hole != NO_HOLE and token == self._eos_id and state is not State.MASK)
            if hole != NO_HOLE and not has_ended:
                text = "" if state is State.MASK else self._token_text(token)
                cells[hole].append(Cell(text=text, state=state, confidence=confidence))
        self._cells[first : first + num_holes] = [tuple(hole) for hole in cells]
        return Snapshot(nfe=self._nfe + frame.nfe, holes=tuple(self._cells))

    def _hole_text(self, result: Result, hole: int) -> HoleText:
        ids = result.holes[hole]
        alternatives = result.alternatives[hole] if result.alternatives else ((),) * len(ids)
        tokens = zip(ids, result.confidence[hole], result.step_committed[hole], alternatives, strict=True)
        return HoleText(
            text=cut_at_stop(self._tokenizer.decode(ids), self._stop),
            tokens=tuple(
                Token(
                    token_id=token,
                    text=self._token_text(token),
                    confidence=confidence,
                    step=self._nfe + step,
                    alternatives=tuple(self._alternative(*each) for each in named),
                )
                for token, confidence, step, named in tokens
            ),
        )

    def _alternative(self, token_id: int, probability: float) -> Alternative:
        return Alternative(token_id=token_id, text=self._token_text(token_id), probability=probability)

    def _token_text(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The engine's jobs for one request. Its driver submits one after the other and gives the session every event."""

    session: Session
    jobs: Iterator[EngineRequest]
    """A job is asked for only once the one before has ended: it may depend on what that wrote."""
    texts: Sequence[str]

    def completion(self) -> Completion:
        """What all jobs wrote, once they have ended."""
        return self.session.complete(self.texts)


def timed(session: Session, events: Iterator[decoding.Event]) -> Iterator[StreamEvent]:
    """Pass a run's events through the session, which is told how long they took to come."""
    while True:
        start = time.perf_counter()
        event = next(events, None)
        # Measured here, so that drawing a frame between two events does not count.
        session.spend(time.perf_counter() - start)
        if event is None:
            return
        told = session.take(event)
        if told is not None:
            yield told
