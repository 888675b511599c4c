"""Which rows of which requests go into the next forward. Plain Python, no tensors.

A request has tokens that are final (its prompt and what it has committed) and behind them a window that it is
denoising. The keys and values of final tokens are computed once, by *context rows*; the window is computed anew at each
step. Prefill and the commit of a finished block are the same thing to the scheduler: context rows that are not cached
yet. They share the forward of the next window where both fit, so a commit costs no forward of its own.

Requests that have waited longest go first, counted in forwards and not in tokens, because how many forwards a request
takes is not known beforehand. A window is never split, since its rows see each other.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.errors import ConfigError, EngineError, OverloadedError


@dataclass(frozen=True, slots=True)
class Grid:
    """How context rows see each other: all of a block, which the tokens of no later block change."""

    length: int = 1
    """1: causal, every token is a block of its own."""
    restart: int | None = 0
    """Position from which the grid starts anew: the prompt's length. The prompt's last block may be short. None: the
    grid goes on, and what is final ends with a block."""

    def boundary(self, position: int) -> int:
        """The last start of a block at or before ``position``."""
        if self.restart is None or position < self.restart:
            return position // self.length * self.length
        return self.restart + (position - self.restart) // self.length * self.length

    def num_shareable(self, page_size: int) -> int | None:
        """Positions whose pages hold whole blocks of the prompt's grid, so that equal tokens mean equal contents.

        None: all. Pages that end inside a block depend on tokens behind them, and a response's grid on its prompt.
        """
        if self.length == 1:
            return None
        if page_size % self.length:
            return 0
        return None if self.restart is None else self.restart // self.length * self.length


CAUSAL = Grid()


@runtime_checkable
class Job(Protocol):
    """What the scheduler reads of a request. All numbers are positions."""

    @property
    def job_id(self) -> int:
        """Unique; smaller ids came earlier."""
        ...

    @property
    def priority(self) -> int:
        """Smaller goes first among requests that have waited equally long, and is preempted later."""
        ...

    @property
    def context_ids(self) -> Sequence[int]:
        """All final tokens, prompt included."""
        ...

    @property
    def num_window(self) -> int:
        """Rows of the window in the coming forward."""
        ...

    @property
    def num_twin(self) -> int:
        """Further rows of that forward, of which nothing is kept: those of guidance."""
        ...

    @property
    def num_slots(self) -> int:
        """Positions of the window that need a place in pages: all of them, or none where nothing is ever kept."""
        ...

    @property
    def is_pinned(self) -> bool:
        """Whether its pages hold what could not be computed again as it was; then it is not preempted now."""
        ...

    @property
    def num_masks(self) -> int:
        """Masks of the window: nearly finished windows go first."""
        ...

    @property
    def most_positions(self) -> int:
        """Positions the request can ever need."""
        ...

    @property
    def grid(self) -> Grid:
        """Context rows come in whole blocks of it."""
        ...

    @property
    def salt(self) -> bytes | None:
        """Requests of equal salt share keys and values of equal beginnings; None: this one has none to share."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """Limits of one engine."""

    row_budget: int
    """Rows of one forward, from the measured cost curve. A single window may exceed it, with its twin."""
    max_running: int = 64
    max_waiting: int = 1024

    def __post_init__(self) -> None:
        for name in ("row_budget", "max_running", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one request gets of a forward."""

    job_id: int
    num_cached: int
    """Context positions whose keys and values are there already."""
    num_context: int
    """Context rows of this forward, behind them."""
    has_window: bool
    """Whether the window's rows follow. If so, all context is cached or among the rows."""


def rows_taken(job: Job, share: Share) -> int:
    """Rows of a forward that a share takes, those of guidance included."""
    return share.num_context + (job.num_window + job.num_twin if share.has_window else 0)


@dataclass(kw_only=True, slots=True)
class _Entry:
    job: Job
    table: PageTable
    forwards_waited: int = 0
    counters: "JobCounters" = field(default_factory=lambda: JobCounters())

    @property
    def standing(self) -> tuple[int, int]:
        """Who keeps its pages when they run out: smaller."""
        return self.job.priority, self.job.job_id

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Who goes first into a forward: smaller."""
        return -self.forwards_waited, self.job.priority, self.job.num_masks, self.job.job_id


@dataclass(kw_only=True, slots=True)
class JobCounters:
    """What happened to one request, or to all of them, so far."""

    num_preemptions: int = 0
    num_adopted: int = 0
    """Context positions taken over from the prefix cache."""
    num_forwards: int = 0
    """Forwards with rows of the request, prefill alone included."""
    num_stale_forwards: int = 0
    """Those of them that read keys and values that an earlier one had computed, of rows that are not final."""
    num_stale_rows: int = 0
    """The rows whose keys and values were read so, summed over those forwards."""


class Scheduler:
    """Queues, pages and the plan of each forward."""

    def __init__(self, config: SchedulerConfig, pool: PagePool) -> None:
        self._config, self._pool = config, pool
        self._waiting: list[_Entry] = []
        self._running: dict[int, _Entry] = {}
        self.counters = JobCounters()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def add(self, job: Job) -> None:
        """Queue a request.

        Raises:
            OverloadedError: the queue is full.
            ConfigError: the page pool is too small for this request alone.
        """
        if len(self._waiting) >= self._config.max_waiting:
            raise OverloadedError(f"{len(self._waiting)} requests are waiting, the most allowed (max_waiting)")
        pages = self._pool.pages_for(job.most_positions)
        if (job.salt is not None or job.num_slots) and pages > self._pool.num_pages:
            raise ConfigError(
                f"a request of up to {job.most_positions} positions needs {pages} pages of {self._pool.page_size}, "
                f"the pool has {self._pool.num_pages} (num_pages)"
            )
        self._queue(_Entry(job=job, table=PageTable(self._pool, job.salt or b"")))

    def _queue(self, entry: _Entry) -> None:
        insort(self._waiting, entry, key=lambda each: each.standing)

    def remove(self, job_id: int) -> JobCounters:
        """Forget a request that is finished or aborted; its pages are free from now on. Returns its counters.

        Raises:
            EngineError: there is no such request.
        """
        entry = self._running.pop(job_id, None)
        if entry is None:
            entry = next((each for each in self._waiting if each.job.job_id == job_id), None)
            if entry is None:
                raise EngineError(f"no request {job_id}")
            self._waiting.remove(entry)
        entry.table.release()
        return entry.counters

    def table(self, job_id: int) -> PageTable:
        """The pages of a running request."""
        return self._running[job_id].table

    def plan(self) -> list[Share]:
        """The rows of the next forward, in order of job id; empty only if there is no request."""
        self._admit()
        left = self._config.row_budget
        shares: list[Share] = []
        chosen: set[int] = set()
        for entry in sorted(self._running.values(), key=lambda each: each.rank):
            if entry.job.job_id not in self._running:
                continue  # preempted for the sake of one before it
            share = self._share(entry, left, is_first=not shares)
            if share is None or not self._make_room(entry, share, chosen):
                entry.forwards_waited += 1
                continue
            shares.append(share)
            chosen.add(entry.job.job_id)
            left -= rows_taken(entry.job, share)
            entry.forwards_waited = 0
        return sorted(shares, key=lambda each: each.job_id)

    def done(self, share: Share) -> None:
        """The forward has run: the share's context rows are cached."""
        entry = self._running.get(share.job_id)
        if entry is None:
            return
        stale = entry.job.num_slots - entry.job.num_window if share.has_window and entry.job.num_slots else 0
        self._count(entry, num_forwards=1, num_stale_forwards=int(stale > 0), num_stale_rows=stale)
        if entry.job.salt is not None:
            end = share.num_cached + share.num_context
            entry.table.finish(entry.job.context_ids[:end], entry.job.grid.num_shareable(self._pool.page_size))

    def reopen(self, job_id: int, position: int) -> None:
        """An edit changed a final token: its keys and values and all behind them must be computed again."""
        self._running[job_id].table.reopen(position)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._config.max_running:
            entry = self._waiting[0]
            size = entry.job.num_slots
            if entry.job.salt is not None:
                entry.table.adopt_prefix(entry.job.context_ids)
                size += len(entry.job.context_ids)
            needed = entry.table.num_missing(size)
            if needed > self._pool.num_available and self._running:
                entry.table.release()
                return
            self._count(entry, num_adopted=entry.table.num_final)
            self._running[entry.job.job_id] = self._waiting.pop(0)

    def _share(self, entry: _Entry, left: int, *, is_first: bool) -> Share | None:
        """The rows this request gets of those left, or none."""
        job, num_cached = entry.job, entry.table.num_final
        missing = len(job.context_ids) - num_cached if job.salt is not None else 0
        if missing + job.num_window + job.num_twin <= left or (is_first and missing == 0):
            return Share(job_id=job.job_id, num_cached=num_cached, num_context=missing, has_window=True)
        end = num_cached + missing
        if missing > left:
            end = job.grid.boundary(num_cached + left)
            if is_first:  # at least one block, whatever the budget
                end = max(end, job.grid.boundary(num_cached + job.grid.length))
            end = min(end, num_cached + missing)
        if end <= num_cached:
            return None
        return Share(job_id=job.job_id, num_cached=num_cached, num_context=end - num_cached, has_window=False)

    def _make_room(self, entry: _Entry, share: Share, chosen: set[int]) -> bool:
        """Reserve the share's pages, taking them from requests of lower rank if need be."""
        end = share.num_cached + share.num_context + (entry.job.num_slots if share.has_window else 0)
        while entry.table.num_missing(end) > self._pool.num_available:
            victim = self._victim(entry, chosen)
            if victim is None:
                return False
            self._preempt(victim)
        entry.table.reserve(end)
        return True

    def _victim(self, entry: _Entry, chosen: set[int]) -> _Entry | None:
        """The running request of least standing that holds pages, is not in this forward and stands below ``entry``.

        Only below: so no two requests take pages from each other in turn, and the first of all goes on, at once or as
        soon as those that are pinned have run. A pinned request needs no further page, so it always can.
        """
        others = [
            each
            for each in self._running.values()
            if each.standing > entry.standing
            and each.job.job_id not in chosen
            and each.table.pages
            and not each.job.is_pinned
        ]
        return max(others, key=lambda each: each.standing, default=None)

    def _preempt(self, entry: _Entry) -> None:
        """Take its pages and queue it again; tokens and states stay with the request, so it resumes exactly."""
        del self._running[entry.job.job_id]
        entry.table.release()
        self._count(entry, num_preemptions=1)
        self._queue(entry)

    def _count(self, entry: _Entry, **more: int) -> None:
        for counters in (entry.counters, self.counters):
            for name, count in more.items():
                setattr(counters, name, getattr(counters, name) + count)

    def check_integrity(self) -> None:
        """Raises EngineError if pages and requests disagree."""
        entries = [*self._running.values(), *self._waiting]
        if any(each.table.pages for each in self._waiting):
            raise EngineError("a waiting request holds pages")
        if len({each.job.job_id for each in entries}) != len(entries):
            raise EngineError("a request is queued twice")
        self._pool.check_integrity(each.table for each in entries)
