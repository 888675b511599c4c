"""Holes between given text, filled in place; ``decoding.inplace`` is the same outside a batch."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from quicksilver.decoding.alternatives import Alternatives
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.constrained_holes import constrained_changes, unfit_drafts
from quicksilver.decoding.draws import hole_position
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.inplace import (
    check_infill,
    hole_lattices,
    initial_canvas,
    initial_length,
    most_steps,
    note_lengths,
    open_holes,
    resizes,
)
from quicksilver.decoding.ledger import commit_events
from quicksilver.decoding.lengths import chosen_changes
from quicksilver.decoding.regions import Region, hole_regions
from quicksilver.decoding.sampler import BlockProgress
from quicksilver.decoding.stops import drop_behind_stops, drop_stops
from quicksilver.decoding.warm_start import draft_events, judge_draft, keep_draft, weak_marks
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.full_attention import CanvasSequence
from quicksilver.engine.request import Filling, Request
from quicksilver.engine.sequence import LengthChange, Look, Outcome, Review, TokenRule, WindowStep, without_commits
from quicksilver.errors import EngineError


class FillingSequence(CanvasSequence):
    """All holes are written together."""

    def __init__(self, job_id: int, request: Request, task: Filling, spec: DiffusionSpec) -> None:
        """Lay out the canvas; raises InputError or ConfigError where task, options and checkpoint do not fit."""
        check_infill(spec, task.template, request.params)
        super().__init__(job_id, request, spec)
        self._lattices = hole_lattices(self.run, task.holes)
        holes = zip(range(len(task.holes)), task.holes, self._lattices, strict=True)
        self._lengths = tuple(initial_length(self.run, *each) for each in holes)
        self._settled = self._lengths
        """As they are after the coming step, if it is one that writes."""
        self._set_canvas(initial_canvas(spec, task.template, self._lengths))
        self.num_prompt = self.state.count(State.PROMPT)
        self.block = BlockProgress(max_steps=most_steps(self.run, self._lengths))
        self.is_reviewing = State.DRAFT in self.state
        """Whether the coming look judges a draft instead of taking a step."""
        self._is_weak = False
        self._forbidden, self._withheld = self.run.unwritten_ids()

    def is_written(self) -> Bool[Tensor, " L"]:
        return open_holes(self.canvas)

    @property
    def most_positions(self) -> int:
        return self.num_prompt + sum(entry.cap for entry in self._lengths)

    @property
    def _length_ids(self) -> tuple[int, int]:
        """Expand and delete; any ids in a checkpoint without them, where no hole changes its length."""
        return self.spec.special.expand or 0, self.spec.special.delete or 0

    @property
    def may_change_length(self) -> bool:
        """Whether some hole still can."""
        return any(entry.changes_left for entry in self._lengths)

    def opening(self) -> list[Event]:
        events: list[Event] = [Resize(hole=hole, start=0, added=h.length) for hole, h in enumerate(self._lengths)]
        events += draft_events(self.canvas)
        return events + self._end_if_filled()

    def _set_canvas(self, canvas: Canvas) -> None:
        self._lay_out(canvas, hole_position(canvas.hole.clamp(min=0), canvas.offset))

    def open_columns(self) -> list[int]:
        return [column for column, state in enumerate(self.state) if state in (State.MASK, State.DRAFT)]

    def look(self) -> Look:
        columns = self.open_columns()
        look = self._look(columns, tuple(self._rule(column) for column in columns))
        if not (self.is_reviewing or (self.may_change_length and not self.run.lengths_compete)):
            return look
        token_ids = self.canvas.token_ids.tolist()
        return replace(look, watched=tuple((*self._length_ids, token_ids[column]) for column in columns))

    def _regions(self, columns: list[int]) -> tuple[Region, ...]:
        if self.is_reviewing and not self.is_last:
            return ()  # no step follows
        return hole_regions(self._lattices, self.places.hole, self.canvas.token_ids.tolist(), self.state, columns)

    def _rule(self, column: int) -> TokenRule:
        """A length token that may yet come true is only withheld; if it competes it is as ``decoding.inplace`` says."""
        withheld = set()
        if self.state[column] == State.MASK:
            entry = self._lengths[self.places.hole[column]]
            if entry.may_expand and self.spec.special.expand is not None:
                withheld.add(self.spec.special.expand)
            if entry.may_delete and self.spec.special.delete is not None:
                withheld.add(self.spec.special.delete)
        if not self.run.lengths_compete:
            return TokenRule(self._forbidden - withheld, self._withheld | withheld)
        special = self.spec.special
        of_length = {token for token in (special.expand, special.delete) if token is not None}
        chosen = set() if self.is_forced else withheld
        return TokenRule((self._forbidden | of_length) - chosen, self._withheld - of_length)

    def settle(
        self, look: Look, watched: Float[Tensor, "N 3"], alternatives: Alternatives | None
    ) -> LengthChange | Review | None:
        """What the watched probabilities decide before any step; None: a step follows."""
        return self._review(watched, alternatives) if self.is_reviewing else self._length_change(look, watched)

    def _length_change(self, look: Look, watched: Float[Tensor, "N 3"]) -> LengthChange | None:
        """Whether holes change their length by this look instead of taking a step."""
        special = self.spec.special
        if look.is_forced or self.run.lengths_compete or not self.may_change_length:
            return None
        if special.expand is None or special.delete is None:
            return None
        index = torch.tensor(look.open_columns)
        expand, delete = (torch.zeros(len(self.canvas)).scatter(0, index, watched[:, at]) for at in (0, 1))
        lengths = tuple(replace(entry) for entry in self._lengths)
        change = constrained_changes(self.canvas, expand, delete, lengths, self._lattices)
        if not bool(change.any()):
            self._settled = lengths
            return None
        return LengthChange(change=change, probability=torch.where(change > 0, expand, delete), lengths=lengths)

    def _review(self, watched: Float[Tensor, "N 3"], alternatives: Alternatives | None) -> Review | None:
        """What the first look says of a draft; None if a step must follow at once, since no other forward will."""
        # The same look gives the same figures, so a repeated forward finds the same canvas.
        threshold = self.params.draft_threshold
        self.canvas, is_weak = judge_draft(self.canvas, watched[:, 2], threshold, alternatives)
        is_weak = unfit_drafts(self.canvas, is_weak, self._lattices)
        self._is_weak = bool(is_weak.any())
        max_nfe = self.params.max_nfe
        is_last = self.is_late or (max_nfe is not None and self.ledger.nfe + 1 >= max_nfe)
        if is_last and bool((is_weak | self.canvas.is_masked).any()):
            return None
        return Review(is_weak=is_weak)

    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        self._note_rows()
        match outcome:
            case LengthChange():
                events = self._resize(outcome)
            case Review():
                events = self._keep_draft(outcome)
            case WindowStep():
                self._lengths = self._settled
                events = self._write(outcome, is_forced or self.is_reviewing)
                self.run.is_cut = self.run.is_cut or (self.is_reviewing and self._is_weak)
            case _:
                raise EngineError(f"a canvas cannot take {type(outcome).__name__}")
        self.is_reviewing = False
        events += self._drop_rest()
        if self.request.has_frames:
            events.append(self.ledger.frame(self.canvas))
        return events + self._end_if_filled()

    def _write(self, step: WindowStep, is_forced: bool) -> list[Event]:
        """A step of the policy; where length tokens compete, some of what it chose is no token."""
        if is_forced or not self.run.lengths_compete:
            return self._take(step, is_forced)[0]
        marks, lengths = step.marks, tuple(replace(entry) for entry in self._lengths)
        token_ids, commit = torch.tensor(marks.token_ids), torch.tensor(marks.commit)
        change, is_length = chosen_changes(self.canvas, token_ids, commit, lengths, self.spec.special)
        self._lengths = self._settled = lengths
        events, _ = self._take(without_commits(step, self.canvas, is_length), is_forced)
        if bool(change.any()):
            self.ledger.record_resize(self.places, (change != 0).tolist(), marks.token_ids, marks.confidence)
            events += self._move(change)
        return events

    def _move(self, change: Tensor) -> list[Event]:
        """Positions double or go."""
        events = resizes(self.canvas, change)
        self._drop_rows()
        self._set_canvas(self.canvas.take(torch.arange(len(self.canvas)).repeat_interleave(1 + change)))
        return events

    def _resize(self, outcome: LengthChange) -> list[Event]:
        change = outcome.change
        self.ledger.nfe += 1
        expand, delete = self._length_ids
        token_ids = [expand if by > 0 else delete for by in change.tolist()]
        self.ledger.record_resize(self.places, (change != 0).tolist(), token_ids, outcome.probability.tolist())
        self._lengths = self._settled = outcome.lengths
        return self._move(change)

    def _keep_draft(self, outcome: Review) -> list[Event]:
        self.ledger.nfe += 1
        mask_id = self.spec.special.mask
        events = self.ledger.record(self.places, weak_marks(self.canvas, outcome.is_weak), mask_id)
        canvas, is_final = keep_draft(self.canvas, outcome.is_weak, mask_id=mask_id, revises=self.run.policy.revises)
        self._set_canvas(canvas)
        return events + commit_events(self.places, is_final.tolist())

    def _drop_rest(self) -> list[Event]:
        """What stands behind a stop goes."""
        shorter, events = drop_behind_stops(self.canvas, self.params.stop, len(self._lengths))
        if events:
            self._drop_rows()
            self._set_canvas(shorter)
            self._lengths = self._settled = tuple(replace(entry) for entry in self._lengths)
            note_lengths(shorter, self._lengths)
        return events

    def _end_if_filled(self) -> list[Event]:
        if self.open_columns():
            return []
        canvas, events = drop_stops(self.canvas, self.params.stop, len(self._lengths))
        reason = FinishReason.STOP if events else FinishReason.FILLED
        self.done = self.ledger.done(canvas, len(self._lengths), self._cut_reason() if self.run.is_cut else reason)
        return [*events, self.done]
