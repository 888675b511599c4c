"""Requests under full attention: the whole canvas is the window, and there is no context.

Every row changes with every step, so either nothing is kept, or what ``decoding.kept_rows`` says, in pages of the
request's own: never final, they are shared with nobody.
"""

from abc import abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments, canvas_adjustments
from quicksilver.decoding.blockwise import within
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.kept_rows import Cache, KeptRows
from quicksilver.decoding.ledger import Places
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS, kept_tokens
from quicksilver.decoding.regions import Region
from quicksilver.decoding.sampler import BlockProgress
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.request import Continuation, Request
from quicksilver.engine.sequence import Look, Outcome, TokenRule, WindowSequence, WindowStep
from quicksilver.errors import EngineError


class CanvasSequence(WindowSequence):
    """What such requests share: the canvas, and the rows of it that are kept."""

    def __init__(self, job_id: int, request: Request, spec: DiffusionSpec) -> None:
        super().__init__(job_id, request, spec)
        self._kept = KeptRows(self.params.cache, self.params.refresh_every, spec.prediction_shift)
        self._columns: Tensor | None = None
        """See ``window_columns``; None: not yet known."""

    def _lay_out(self, canvas: Canvas, positions: Int[Tensor, " L"]) -> None:
        self.canvas, self.state = canvas, canvas.state.tolist()
        self.places, self.positions = Places.of(canvas), positions

    @abstractmethod
    def is_written(self) -> Bool[Tensor, " L"]:
        """Where tokens are being written."""
        ...

    @property
    def salt(self) -> bytes | None:
        return None

    @property
    def keeps_rows(self) -> bool:
        return self.params.cache is not Cache.EXACT

    @property
    def num_window(self) -> int:
        columns = self.window_columns
        return len(self.state) if columns is None else len(columns)

    @property
    def num_slots(self) -> int:
        return len(self.state) if self.keeps_rows else 0

    @property
    def is_pinned(self) -> bool:
        return self._kept.is_needed

    @property
    def window_columns(self) -> Tensor | None:
        if not self.keeps_rows:
            return None
        if self._columns is None:
            # The coming forward sees fresh noise, where the policy denoises that: rows of new tokens are computed.
            self.canvas = self.run.fill_noise(self.canvas, self.positions, self.block.step)
            self._columns = self._kept.columns(self.canvas.token_ids, self.is_written())
        return self._columns

    def given_ids(self) -> list[int]:
        return self.canvas.token_ids.tolist()

    def _look(self, columns: list[int], rules: tuple[TokenRule, ...]) -> Look:
        look = super()._look(columns, rules)
        computed = self.window_columns
        return look if computed is None else replace(look, offsets=self._offsets(columns, computed))

    def _offsets(self, open_columns: list[int], computed: Int[Tensor, " C"]) -> tuple[int, ...]:
        """Which of the computed rows predicts each open column."""
        row_of = {column: row for row, column in enumerate(computed.tolist())}
        return tuple(row_of.get(column - self.spec.prediction_shift, -1) for column in open_columns)

    def _adjustments(self, num_rows: int) -> Adjustments | None:
        return canvas_adjustments(self.params, self.canvas, num_rows)

    def _note_rows(self) -> None:
        """A forward has seen the canvas as it stands."""
        if self.window_columns is not None:
            self.ledger.count_stale(self._kept.ran(self.canvas.token_ids, self.window_columns))
            self._columns = None

    def _drop_rows(self) -> None:
        """The next forward computes all rows."""
        self._kept.drop()
        self._columns = None


class InPlaceBlockSequence(CanvasSequence):
    """A prompt continued block by block, all masks there from the beginning: ``decoding.blockwise``."""

    def __init__(self, job_id: int, request: Request, task: Continuation, spec: DiffusionSpec) -> None:
        """Lay out the canvas and open the first block; raises ConfigError where options and checkpoint do not fit."""
        super().__init__(job_id, request, spec)
        self.num_prompt = self._stop = len(task.prompt_ids)
        self._block_length = self.params.block_length or spec.block_length
        self._rules = (TokenRule(*self.run.unwritten_ids(self.run.written_special)),)
        masks = Canvas.of_masks(self.params.max_tokens or DEFAULT_MAX_TOKENS, mask_id=spec.special.mask, hole=0)
        canvas = Canvas.join([Canvas.of_prompt(task.prompt_ids), masks])
        self._lay_out(canvas, torch.arange(len(canvas)))
        self._token_ids: list[int] = canvas.token_ids.tolist()
        self._response = self.run.constrained_response(len(masks))
        self._open_block()

    @property
    def most_positions(self) -> int:
        return len(self.state)

    def _open_block(self) -> None:
        """The block [start, stop) begins: all rows are computed at its first forward."""
        self._start, self._stop = self._stop, min(self._stop + self._block_length, len(self.state))
        self.block = BlockProgress(max_steps=self.run.policy.max_steps(self._stop - self._start))
        self._drop_rows()

    def is_written(self) -> Bool[Tensor, " L"]:
        return within(len(self.state), self._start, self._stop)

    def opening(self) -> list[Event]:
        return [Resize(hole=0, start=0, added=len(self.state) - self.num_prompt)]

    def _first_end(self) -> int | None:
        """Column of the block's first written token that ends the response."""
        for column in range(self._start, self._stop):
            if self._token_ids[column] in self.run.end_ids and self.state[column] != State.MASK:
                return column
        return None

    def open_columns(self) -> list[int]:
        found = self._first_end() if self.run.holds_ends else None
        stop = self._stop if found is None else found + 1
        return [column for column in range(self._start, stop) if self.state[column] in (State.MASK, State.DRAFT)]

    def look(self) -> Look:
        return self._look(self.open_columns(), self._rules)

    def _regions(self, columns: list[int]) -> tuple[Region, ...]:
        if self._response is None:
            return ()
        start, end = self._start, self._first_end() if self.run.holds_ends else None
        return self._response.regions(
            self._token_ids[start : self._stop],
            self.state[start : self._stop],
            [column - start for column in columns],
            end=None if end is None else end - start,
            is_last=self.is_last,
        )

    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        if not isinstance(outcome, WindowStep):
            raise EngineError(f"a block cannot take {type(outcome).__name__}")
        self._note_rows()
        self._token_ids = list(outcome.marks.token_ids)
        events, is_finished = self._take(outcome, is_forced)
        if self.request.has_frames:
            events.append(self.ledger.frame(self.canvas))
        if not is_finished:
            return events
        reason, end = self._ending()
        if reason is not None:
            return events + self._finish(reason, end)
        if self._response is not None:
            self._response.take(self._token_ids[self._start : self._stop])
        self._open_block()
        return events

    def _ending(self) -> tuple[FinishReason | None, int]:
        """Why the response ends with this block, and its length with the prompt; None: it goes on."""
        found, reason = self._first_end(), None
        end = self._stop if found is None else found
        kept = kept_tokens(self.params.stop, self._token_ids[self.num_prompt : end])
        if kept is not None:
            reason, end = FinishReason.STOP, self.num_prompt + kept
        elif found is not None:
            is_eos = self._token_ids[found] == self.spec.special.eos
            reason = FinishReason.EOS if is_eos else FinishReason.STOP
        elif self._stop == len(self.state):
            reason = FinishReason.LENGTH
        if self.run.is_cut or (reason is None and (self.run.is_spent or self.is_late)):
            reason = self._cut_reason()
        return reason, end

    def _finish(self, reason: FinishReason, end: int) -> list[Event]:
        events: list[Event] = []
        if end < len(self.state):
            events.append(Resize(hole=0, start=end - self.num_prompt, added=end - len(self.state)))
        self.done = self.ledger.done(self.canvas.take(torch.arange(end)), 1, reason)
        return [*events, self.done]
