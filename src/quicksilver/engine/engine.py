"""The loop: takes requests, asks the scheduler for a plan, lets the runner execute it, hands out events.

One forward per ``step``. All of it runs in the caller's thread; ``aio`` gives it a thread of its own.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from quicksilver.decoding.events import Event, Result
from quicksilver.decoding.policies import SelfSpeculative
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.engine.attention import PageMemory
from quicksilver.engine.blocks import BlockSequence
from quicksilver.engine.causal import CausalSequence
from quicksilver.engine.filling import FillingSequence
from quicksilver.engine.full_attention import InPlaceBlockSequence
from quicksilver.engine.load import Load
from quicksilver.engine.pages import PagePool
from quicksilver.engine.request import Continuation, Request, Usage
from quicksilver.engine.runner import Runner, Turn
from quicksilver.engine.scheduler import Scheduler, SchedulerConfig, rows_taken
from quicksilver.engine.sequence import Failure, Outcome
from quicksilver.engine.sequence import Sequence as RunningRequest
from quicksilver.engine.speculation import SpeculativeSequence
from quicksilver.errors import ConfigError, ContextLengthError, EngineError, InputError, RankError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Limits of one engine."""

    num_pages: int | None = None
    """Pages of key/value memory; None: enough for ``max_running`` requests of the model's longest canvas, at most
    ``MAX_DEFAULT_BYTES``."""
    page_size: int = 32
    """Positions per page; a multiple of the block length where blocks see each other, or nothing is shared."""
    row_budget: int = 256
    """Rows of one forward."""
    max_running: int = 64
    max_waiting: int = 1024
    is_strict: bool = False
    """Whether a request's probabilities are the same to the last bit whatever else is in the batch, at some cost in
    speed (docs/results.md). Otherwise they may differ in the last bit, which in practice changes no token."""


MAX_DEFAULT_BYTES = 2**30
"""Key/value memory that is taken unasked."""


class Ticket:
    """A request in the engine: its events as they come, and what it took."""

    def __init__(self, sequence: RunningRequest, now: float) -> None:
        self.sequence = sequence
        self.events: deque[Event] = deque()
        self.error: Exception | None = None
        self.usage: Usage | None = None
        """Known once the request has ended."""
        self.submitted = now
        self.started: float | None = None

    @property
    def job_id(self) -> int:
        return self.sequence.job_id

    @property
    def is_ended(self) -> bool:
        return self.usage is not None

    @property
    def result(self) -> Result:
        """What was written.

        Raises:
            EngineError: the request has not ended, or was aborted.
            Exception: whatever ended the request.
        """
        if self.error is not None:
            raise self.error
        if self.sequence.done is None:
            raise EngineError(f"request {self.job_id} has no result")
        return self.sequence.done.result


class Engine:
    """Many requests, one batch. Not safe for threads: one at a time may call it."""

    def __init__(
        self,
        denoiser: Denoiser,
        spec: DiffusionSpec,
        config: EngineConfig | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take page memory for a denoiser on its own device and in its own dtype.

        Args:
            denoiser: in evaluation mode; its weights must not change.
            spec: how it was trained.
            config: limits; None: defaults.
            clock: seconds; deadlines and waiting times are told by it.
        """
        config = EngineConfig() if config is None else config
        self.denoiser, self.spec, self.config = denoiser, spec, config
        self._max_length, self._vocab_size = denoiser.config.max_length, denoiser.config.vocab_size
        weight = denoiser.model.embed_tokens.weight
        self._pool = PagePool(num_pages(denoiser.config, config, weight.dtype), config.page_size)
        self.memory = PageMemory(denoiser.config, self._pool, weight.dtype, weight.device)
        self._scheduler = Scheduler(
            SchedulerConfig(
                row_budget=config.row_budget, max_running=config.max_running, max_waiting=config.max_waiting
            ),
            self._pool,
        )
        self.runner = Runner(denoiser, spec, self.memory, is_strict=config.is_strict)
        self._load = Load(row_budget=config.row_budget)
        self._tickets: dict[int, Ticket] = {}
        self.on_end: list[Callable[[Ticket], None]] = []
        """Called with every request that has ended, in the thread that steps; what they raise breaks the loop."""
        self.clock = clock
        self._next_id = 0
        self._num_rows = 0
        self._forward_seconds = 0.0
        """Of the last forward: what a deadline must leave room for."""

    @property
    def num_requests(self) -> int:
        """Waiting and running ones."""
        return len(self._tickets)

    @property
    def num_pages(self) -> int:
        """Pages of key/value memory."""
        return self._pool.num_pages

    @property
    def num_pages_in_use(self) -> int:
        """Pages that running requests hold; what is only kept for reuse does not count."""
        return self._pool.num_pages - self._pool.num_available

    @property
    def num_rows(self) -> int:
        """Rows of the last forward."""
        return self._num_rows

    def submit(self, request: Request, *, submitted: float | None = None) -> Ticket:
        """Queue a request.

        Args:
            request: what is asked.
            submitted: when by ``clock`` its caller asked, from where its deadline counts; None: now.

        Raises:
            ConfigError, InputError: the request contradicts itself or the checkpoint, or is too long.
            OverloadedError: the queue is full.
        """
        sequence = self._sequence(request)
        if sequence.most_positions > self._max_length:
            raise ContextLengthError(
                f"the request takes up to {sequence.most_positions} positions, the model's context is "
                f"{self._max_length} (max_length)"
            )
        self._check_ids(sequence)
        ticket = Ticket(sequence, self.clock() if submitted is None else submitted)
        self._scheduler.add(sequence)
        self._next_id += 1
        self._tickets[sequence.job_id] = ticket
        ticket.events += sequence.opening()
        if sequence.done is not None:
            self._end(ticket)
        return ticket

    def _sequence(self, request: Request) -> RunningRequest:
        if not isinstance(request.task, Continuation):
            return FillingSequence(self._next_id, request, request.task, self.spec)
        if isinstance(request.params.policy, SelfSpeculative):
            return SpeculativeSequence(self._next_id, request, request.task, self.spec)
        if self.spec.objective is Objective.AUTOREGRESSIVE:
            return CausalSequence(self._next_id, request, request.task, self.spec)
        if self.spec.continues_in_place:
            return InPlaceBlockSequence(self._next_id, request, request.task, self.spec)
        self._load.num_running = min(len(self._tickets) + 1, self.config.max_running)
        return BlockSequence(self._next_id, request, request.task, self.spec, self._load)

    def _check_ids(self, sequence: RunningRequest) -> None:
        sequence.params.check_vocabulary(self._vocab_size)
        ids = [*sequence.context_ids, *sequence.given_ids()]
        if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
            raise InputError(f"token ids must lie in [0, {self._vocab_size}), got {min(ids)} to {max(ids)}")
        forbidden = sequence.params.forbidden_ids
        if forbidden and not 0 <= min(forbidden) <= max(forbidden) < self._vocab_size:
            raise ConfigError(f"forbidden_ids must lie in [0, {self._vocab_size}), got {forbidden}")

    def abort(self, ticket: Ticket) -> None:
        """End a request now, without a result; its pages are free. One that has ended stays as it is."""
        if not ticket.is_ended:
            self._end(ticket)

    def step(self) -> list[Ticket]:
        """One forward. Returns the tickets that have new events or have ended; none if there is no request."""
        return [self._advance(turn, outcome) for turn, outcome in self._execute(self._turns())]

    def _turns(self) -> list[Turn]:
        """The turns of the next forward."""
        now = self.clock()
        shares = self._scheduler.plan()
        self._load.num_running = self._scheduler.num_running
        self._num_rows = sum(rows_taken(self._tickets[share.job_id].sequence, share) for share in shares)
        turns = []
        for share in shares:
            ticket = self._tickets[share.job_id]
            ticket.started = now if ticket.started is None else ticket.started
            sequence = ticket.sequence
            sequence.is_late = self._is_late(ticket, now)
            table = self._scheduler.table(share.job_id)
            turns.append(
                Turn(
                    sequence=sequence,
                    share=share,
                    table=table if table.pages else None,
                    look=sequence.look() if share.has_window else None,
                )
            )
        return turns

    def _is_late(self, ticket: Ticket, now: float) -> bool:
        """Whether another forward after the coming one would end behind the deadline."""
        deadline = ticket.sequence.request.deadline_ms
        if deadline is None:
            return False
        return now + 2 * self._forward_seconds >= ticket.submitted + deadline / 1000

    def _execute(self, turns: Sequence[Turn]) -> Iterator[tuple[Turn, Outcome | None]]:
        """What one forward means for its turns; where it fails, each turn is tried alone and fails alone."""
        if not turns:
            return
        outcomes = self._forward(turns)
        if not isinstance(outcomes, Failure):
            for turn in turns:
                yield turn, outcomes.get(turn.sequence.job_id)
        elif len(turns) == 1:
            yield turns[0], outcomes
        else:
            for turn in turns:
                yield from self._execute([turn])

    def _forward(self, turns: Sequence[Turn]) -> dict[int, Outcome] | Failure:
        start = self.clock()
        try:
            outcomes = dict((turn.sequence.job_id, outcome) for turn, outcome in self.runner.run(turns))
        except RankError:  # with the other processes out of step no request can go on
            raise
        except Exception as error:  # noqa: BLE001  # a request that the network cannot take must not end the others
            # Its traceback would keep the activations alive while memory is short, and as long as a caller has it.
            traceback.clear_frames(error.__traceback__)
            return Failure(error)
        self._forward_seconds = self.clock() - start
        return outcomes

    def _advance(self, turn: Turn, outcome: Outcome | None) -> Ticket:
        """Write what was decided into the request; whatever its own rules raise ends it alone."""
        ticket = self._tickets[turn.sequence.job_id]
        try:
            if isinstance(outcome, Failure):
                raise outcome.error
            self._scheduler.done(turn.share)
            if outcome is not None and turn.look is not None:
                ticket.events += turn.sequence.advance(outcome, turn.look.is_forced)
        except Exception as error:  # noqa: BLE001  # kept for the request's own caller
            ticket.error = error
        if ticket.error is not None or turn.sequence.done is not None:
            self._end(ticket)
        return ticket

    def _end(self, ticket: Ticket) -> None:
        now, sequence = self.clock(), ticket.sequence
        counters = self._scheduler.remove(ticket.job_id)
        self.runner.forget(ticket.job_id)
        del self._tickets[ticket.job_id]
        ticket.usage = Usage(
            nfe=sequence.ledger.nfe,
            num_forwards=counters.num_forwards,
            num_written=0 if sequence.done is None else len(sequence.done.result.token_ids),
            num_edits=sequence.ledger.num_edits,
            num_prompt=sequence.num_prompt,
            num_cached=counters.num_adopted,
            num_preemptions=counters.num_preemptions,
            num_stale_forwards=counters.num_stale_forwards,
            num_stale_rows=counters.num_stale_rows,
            queue_seconds=(now if ticket.started is None else ticket.started) - ticket.submitted,
            seconds=now - ticket.submitted,
        )
        for listener in self.on_end:
            listener(ticket)

    def stream(self, request: Request, *, submitted: float | None = None) -> Generator[Event, None, None]:
        """The events of a request while it and all others run; the last is Done. Bad requests raise here at once.

        Args:
            request: what is asked.
            submitted: as in ``submit``.
        """
        return self._follow(self.submit(request, submitted=submitted))

    def _follow(self, ticket: Ticket) -> Generator[Event, None, None]:
        try:
            while True:
                while ticket.events:
                    yield ticket.events.popleft()
                if ticket.is_ended:
                    break
                self.step()
            if ticket.error is not None:
                raise ticket.error
        finally:
            self.abort(ticket)

    def run(self, requests: Iterable[Request]) -> list[Result]:
        """The results of several requests, batched together, in their order.

        Raises:
            ConfigError, InputError, OverloadedError: one of them cannot be taken; none is run.
        """
        tickets: list[Ticket] = []
        try:
            tickets += [self.submit(request) for request in requests]
            while not all(ticket.is_ended for ticket in tickets):
                self.step()
        finally:
            for ticket in tickets:
                self.abort(ticket)
        return [ticket.result for ticket in tickets]

    def check_integrity(self) -> None:
        """Raises EngineError if pages, queues and requests disagree."""
        self._scheduler.check_integrity()
        known = self._scheduler.num_running + self._scheduler.num_waiting
        if known != len(self._tickets):
            raise EngineError(f"{known} requests are scheduled and {len(self._tickets)} known")


def num_pages(shape: DenoiserConfig, config: EngineConfig, dtype: torch.dtype) -> int:
    """Pages that an engine takes for an architecture whose keys and values are of ``dtype``."""
    if config.num_pages is not None:
        return config.num_pages
    per_page = shape.num_kept_per_position * dtype.itemsize * config.page_size
    wanted = config.max_running * -(-shape.max_length // config.page_size)
    return max(min(wanted, MAX_DEFAULT_BYTES // per_page), -(-shape.max_length // config.page_size))
