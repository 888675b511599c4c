"""A prompt continued block by block; ``decoding.blockwise`` is the same without a cache."""

from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import accumulate

import torch

from quicksilver.decoding.adjustments import Adjustments, token_adjustments
from quicksilver.decoding.canvas import NO_HOLE, Canvas, State
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.grid import open_end, shared_with_prompt
from quicksilver.decoding.guidance import Guidance, Twin, twin_of
from quicksilver.decoding.ledger import Places
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS, kept_tokens, require_no_stale_rows
from quicksilver.decoding.regions import Region
from quicksilver.decoding.sampler import BlockProgress
from quicksilver.diffusion.spec import DiffusionSpec, Layout
from quicksilver.engine.load import Load, block_length_under_load
from quicksilver.engine.request import Continuation, Request
from quicksilver.engine.scheduler import CAUSAL, Grid
from quicksilver.engine.sequence import Look, Outcome, TokenRule, WindowSequence, WindowStep
from quicksilver.errors import ConfigError, EngineError


class BlockSequence(WindowSequence):
    """The final tokens are context, the open block is the window, the prompt's tokens in it too."""

    def __init__(
        self, job_id: int, request: Request, task: Continuation, spec: DiffusionSpec, load: Load | None = None
    ) -> None:
        """Open the first block; raises ConfigError where the request contradicts the checkpoint.

        Args:
            job_id: unique.
            request: with ``task``.
            task: what to continue.
            spec: of the checkpoint.
            load: what blocks follow if the request may follow it and the checkpoint's context is causal: otherwise
                the keys and values of a block depend on where it ends. None: nothing.
        """
        if Layout.BLOCK_CAUSAL not in spec.layouts:
            raise ConfigError("this checkpoint was not trained block by block and cannot continue a prompt")
        require_no_stale_rows(request.params)
        super().__init__(job_id, request, spec)
        self.num_prompt = len(task.prompt_ids)
        self.block_length = self.params.block_length or spec.block_length
        """Of the longest block; see ``_next_length``."""
        shared = shared_with_prompt(spec, self.num_prompt, self.block_length)
        self.context_ids = list(task.prompt_ids[: self.num_prompt - shared])
        self._load = load if request.may_follow_load and spec.has_causal_context else None
        if request.block_lengths:
            self._require_on_grid(request.block_lengths)
            self._load = Load(row_budget=self.block_length, num_running=1)
        self._limit = self.num_prompt + (self.params.max_tokens or DEFAULT_MAX_TOKENS)
        self._prompt = Canvas.of_prompt(self.context_ids)
        self._written: list[Canvas] = []
        self._rules = (TokenRule(*self.run.unwritten_ids(self.run.written_special)),)
        self._response = self.run.constrained_response(self._limit - self.num_prompt)
        self._open_block(task.prompt_ids[self.num_prompt - shared :])

    def _require_on_grid(self, lengths: tuple[int, ...]) -> None:
        """What load could have made of the blocks: only so does the response stay within its positions."""
        if not self.spec.has_causal_context:
            raise ConfigError("block_lengths needs a checkpoint with causal context; elsewhere all blocks are equal")
        for length, offset in zip(lengths, accumulate(lengths, initial=0), strict=False):
            if length < 1 or self.block_length % length or offset % length:
                raise ConfigError(
                    f"block_lengths {lengths}: a block of {length} after {offset} tokens does not lie on the grid of "
                    f"blocks of {self.block_length}"
                )

    @property
    def grid(self) -> Grid:
        if self.spec.has_causal_context:
            return CAUSAL
        return Grid(self.block_length, None if self.spec.has_absolute_grid else self.num_prompt)

    @property
    def most_positions(self) -> int:
        start = 0 if self.spec.has_absolute_grid else self.num_prompt
        blocks = -(-(self._limit - start) // self.block_length)
        return start + blocks * self.block_length

    def _next_length(self) -> int:
        """Length of the block that opens now."""
        if self._load is None:
            return self.block_length
        given = self.request.block_lengths
        if len(self._written) < len(given):
            return given[len(self._written)]
        return block_length_under_load(
            self.spec.trained_block_lengths,
            self.block_length,
            self._load.num_running,
            self._load.row_budget,
            offset=len(self.context_ids) - self.num_prompt,
        )

    @property
    def shortened_blocks(self) -> tuple[int, ...]:
        lengths = tuple(len(canvas) for canvas in (*self._written, self.canvas))
        return lengths if set(lengths) != {self.block_length} else ()

    def _open_block(self, given: Seq[int] = ()) -> None:
        """Open the next block, of which the prompt has ``given`` the first tokens."""
        start, length = len(self.context_ids), self._next_length()
        self._start, count = len(given), length - len(given)
        masks = Canvas.of_masks(count, mask_id=self.spec.special.mask, hole=0)
        self.canvas = Canvas.join([Canvas.of_prompt(given), masks]) if given else masks
        self.state = [int(State.PROMPT)] * self._start + [int(State.MASK)] * count
        self.positions = torch.arange(start, start + length)
        offset = start + self._start - self.num_prompt
        self.places = Places(
            [NO_HOLE] * self._start + [0] * count, [0] * self._start + [*range(offset, offset + count)], first=start
        )
        self._stop = min(length, self._limit - start)
        self.block = BlockProgress(max_steps=self.run.policy.max_steps(self._stop - self._start))
        self._token_ids: list[int] = [*given, *[self.spec.special.mask] * count]

    def given_ids(self) -> list[int]:
        return self._token_ids[: self._start]

    def opening(self) -> list[Event]:
        start = len(self.context_ids) + self._start - self.num_prompt
        return [Resize(hole=0, start=start, added=len(self.canvas) - self._start)]

    def _first_end(self) -> int | None:
        """Column of the first written token that ends the response."""
        for column in range(self._start, self._stop):
            if self._token_ids[column] in self.run.end_ids and self.state[column] != State.MASK:
                return column
        return None

    def open_columns(self) -> list[int]:
        found = self._first_end() if self.run.holds_ends else None
        # Noise is denoised in whole blocks, also where they are cut afterwards.
        stop = len(self.state) if self.run.policy.starts_from_noise else self._stop
        end = stop if found is None else found + 1
        columns = [column for column in range(self._start, end) if self.state[column] in (State.MASK, State.DRAFT)]
        first = next((column for column in columns if self.state[column] == State.MASK), None)
        last = None if first is None or self.is_forced else open_end(self.spec.decoding, first)
        return columns if last is None else [column for column in columns if column < last]

    def look(self) -> Look:
        return self._look(self.open_columns(), self._rules)

    @property
    def whole_canvas(self) -> Canvas:
        return Canvas.join([self._prompt, *self._written, self.canvas])

    def _make_twin(self, guidance: Guidance) -> Twin | None:
        count = len(self.context_ids)
        context = self.context_blocks(count)
        context = torch.arange(count) if context is None else context
        window = torch.full((len(self.canvas),), int(context[-1]) + 1 if count else 0)
        found = twin_of(guidance, self.spec, self.whole_canvas, torch.cat([context, window]))
        if found is None:
            return None
        # Of its rows in the window.
        return replace(found, moved=found.moved + count)

    def _regions(self, columns: list[int]) -> tuple[Region, ...]:
        if self._response is None:
            return ()
        start, end = self._start, self._first_end() if self.run.holds_ends else None
        stop = len(self.state) if self.run.policy.starts_from_noise else self._stop
        return self._response.regions(
            self._token_ids[start:stop],
            self.state[start:stop],
            [column - start for column in columns],
            end=None if end is None else end - start,
            is_last=self.is_last,
        )

    def _adjustments(self, num_rows: int) -> Adjustments | None:
        if not self.params.adjusts_logits:
            return None
        context = torch.tensor(self.context_ids, dtype=torch.int64)
        seen = torch.cat([context, self.canvas.token_ids[~self.canvas.is_masked]])
        # The prompt stands in front and has no masks.
        return token_adjustments(self.params, seen_ids=seen, written_ids=seen[self.num_prompt :], num_rows=num_rows)

    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        if not isinstance(outcome, WindowStep):
            raise EngineError(f"a block cannot take {type(outcome).__name__}")
        self._token_ids = list(outcome.marks.token_ids)
        events, is_finished = self._take(outcome, is_forced)
        if self.request.has_frames:
            events.append(self.ledger.frame(Canvas.join([self._prompt, *self._written, self.canvas])))
        if not is_finished:
            return events
        reason, end = self._ending()
        if reason is not None:
            return events + self._finish(reason, end)
        if self._response is not None:
            self._response.take(self._token_ids[self._start :])
        self.context_ids += self._token_ids
        self._written.append(self.canvas)
        self._open_block()
        return events + self.opening()

    def _ending(self) -> tuple[FinishReason | None, int]:
        """Why the response ends with this block and how many tokens it has; None: it goes on."""
        found = self._first_end()
        length = self._stop if found is None else found
        end, reason = len(self.context_ids) + length - self.num_prompt, None
        kept = None
        if self.params.stop is not None:
            kept = kept_tokens(self.params.stop, (self.context_ids + self._token_ids[:length])[self.num_prompt :])
        if kept is not None:
            reason, end = FinishReason.STOP, kept
        elif found is not None:
            is_eos = self._token_ids[found] == self.spec.special.eos
            reason = FinishReason.EOS if is_eos else FinishReason.STOP
        elif len(self.context_ids) + len(self.canvas) >= self._limit:
            reason = FinishReason.LENGTH
        if self.run.is_cut or (reason is None and (self.run.is_spent or self.is_late)):
            reason = self._cut_reason()
        return reason, end

    def _finish(self, reason: FinishReason, end: int) -> list[Event]:
        written = Canvas.join([*self._written, self.canvas])
        written = written.take((written.hole != NO_HOLE).nonzero()[:, 0])
        events: list[Event] = []
        if end < len(written):
            events.append(Resize(hole=0, start=end, added=end - len(written)))
        written = written.take(torch.arange(end))
        self.done = self.ledger.done(written, 1, reason)
        return [*events, self.done]
