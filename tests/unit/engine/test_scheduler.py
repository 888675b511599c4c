"""The scheduler without tensors: budgets, fairness, preemption, and that every request ends."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.engine.pages import PagePool
from quicksilver.engine.scheduler import CAUSAL, Grid, Job, Scheduler, SchedulerConfig, Share, rows_taken
from quicksilver.errors import ConfigError, EngineError, OverloadedError


@dataclass(kw_only=True)
class FakeJob:
    """A request that commits ``num_blocks`` blocks, each of which takes ``block_steps`` windows.

    With ``refresh_every`` it keeps rows of its window: all are computed every so many windows, and one in between.
    """

    job_id: int
    context_ids: list[int]
    block: int = 4
    num_blocks: int = 2
    block_steps: int = 2
    priority: int = 0
    grid: Grid = CAUSAL
    salt: bytes | None = b""
    refresh_every: int = 0
    num_twin: int = 0
    shares: list[Share] = field(default_factory=list)
    num_masks: int = 0

    def __post_init__(self):
        self.num_masks = self.block_steps
        self.most_positions = len(self.context_ids) + self.block * self.num_blocks

    @property
    def is_pinned(self) -> bool:
        return self.refresh_every > 0 and len(self.shares) % self.refresh_every > 0

    @property
    def num_window(self) -> int:
        return 1 if self.is_pinned else self.block

    @property
    def num_slots(self) -> int:
        return 0 if self.salt is None and not self.refresh_every else self.block

    @property
    def is_finished(self) -> bool:
        return self.num_blocks == 0

    def take(self, share: Share) -> None:
        self.shares.append(share)
        if not share.has_window:
            return
        self.num_masks -= 1
        if self.num_masks == 0:
            self.context_ids += [100 * self.job_id + self.num_blocks] * self.block
            self.num_blocks -= 1
            self.num_masks = self.block_steps


def scheduler_of(num_pages: int = 64, page_size: int = 4, **limits: int) -> Scheduler:
    return Scheduler(SchedulerConfig(**({"row_budget": 16} | limits)), PagePool(num_pages, page_size))


def tick(scheduler: Scheduler, jobs: dict[int, FakeJob]) -> list[Share]:
    """One forward, checked against what a plan must be."""
    shares = scheduler.plan()
    for share in shares:
        job = jobs[share.job_id]
        cached = share.num_cached + share.num_context
        if job.salt is not None:
            assert share.num_cached == scheduler.table(share.job_id).num_final
            if share.has_window:
                assert cached == len(job.context_ids)
                assert scheduler.table(share.job_id).capacity >= cached + job.num_window
            else:
                assert share.num_context > 0
                assert cached <= len(job.context_ids)
                assert cached == job.grid.boundary(cached) or cached == len(job.context_ids)
                assert scheduler.table(share.job_id).capacity >= cached
        elif job.refresh_every:
            assert (cached, share.has_window) == (0, True)
            assert scheduler.table(share.job_id).capacity >= job.block
    for share in shares:
        scheduler.done(share)
    for share in shares:
        jobs[share.job_id].take(share)
        if jobs[share.job_id].is_finished:
            scheduler.remove(share.job_id)
    scheduler.check_integrity()
    return shares


def test_a_fake_job_is_a_job():
    assert isinstance(FakeJob(job_id=0, context_ids=[1]), Job)


def test_prefill_and_first_window_share_a_forward_and_so_do_commit_and_next_window():
    scheduler, job = scheduler_of(), FakeJob(job_id=0, context_ids=list(range(6)), block_steps=2)
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(4)]
    assert [(share.num_cached, share.num_context, share.has_window) for share in plans] == [
        (0, 6, True), (6, 0, True), (6, 4, True), (10, 0, True),
    ]  # fmt: skip
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


def test_a_long_prompt_comes_in_chunks_of_whole_blocks():
    scheduler, job = scheduler_of(row_budget=10), FakeJob(job_id=0, context_ids=list(range(23)), grid=Grid(4))
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(3)]
    assert [(share.num_cached, share.num_context, share.has_window) for share in plans] == [
        (0, 8, False), (8, 8, False), (16, 7, False),
    ]  # fmt: skip


def test_a_single_window_may_exceed_the_budget():
    scheduler, job = scheduler_of(row_budget=2), FakeJob(job_id=0, context_ids=[1, 2, 3])
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(3)]
    assert [(share.num_context, share.has_window) for share in plans] == [(2, False), (1, False), (0, True)]


@pytest.mark.parametrize(("num_twin", "together"), [(0, 4), (4, 2), (8, 1)])
def test_a_guided_request_takes_its_second_rows_of_the_budget_too(num_twin, together):
    scheduler = scheduler_of(row_budget=16)
    jobs = {number: FakeJob(job_id=number, context_ids=[], num_twin=num_twin, num_blocks=1) for number in range(4)}
    for job in jobs.values():
        scheduler.add(job)
    shares = tick(scheduler, jobs)
    assert len(shares) == together
    assert [rows_taken(jobs[share.job_id], share) for share in shares] == [4 + num_twin] * together


def test_second_rows_come_with_a_window_and_not_with_a_prefill():
    scheduler = scheduler_of(row_budget=10)
    job = FakeJob(job_id=0, context_ids=[1, 2, 3, 4], num_twin=4)
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(2)]
    assert [(share.num_context, share.has_window) for share in plans] == [(4, False), (0, True)]
    assert [rows_taken(job, share) for share in plans] == [4, 8]


def test_canvases_without_cache_hold_no_pages():
    scheduler, job = scheduler_of(num_pages=1), FakeJob(job_id=0, context_ids=[], block=40, num_blocks=1, salt=None)
    scheduler.add(job)
    assert [(share.num_context, share.has_window) for share in tick(scheduler, {0: job})] == [(0, True)]
    assert scheduler.table(0).pages == []


def test_who_waited_goes_first_then_priority_then_the_nearly_finished():
    scheduler = scheduler_of(row_budget=4)
    jobs = {i: FakeJob(job_id=i, context_ids=[], num_blocks=9) for i in range(4)}
    jobs[2].priority, jobs[3].num_masks = -1, 1
    for job in jobs.values():
        scheduler.add(job)
    assert [tick(scheduler, jobs)[0].job_id for _ in range(8)] == [2, 3, 0, 1] * 2


def test_a_shared_beginning_is_computed_once():
    scheduler = scheduler_of()
    prompt = list(range(9))
    jobs = {i: FakeJob(job_id=i, context_ids=[*prompt, 50 + i]) for i in range(2)}
    scheduler.add(jobs[0])
    tick(scheduler, jobs)
    scheduler.add(jobs[1])
    share = tick(scheduler, jobs)[1]
    assert (share.job_id, share.num_cached, share.num_context) == (1, 8, 2)
    assert scheduler.counters.num_adopted == 8


def test_pages_go_to_the_request_that_came_first():
    scheduler = scheduler_of(num_pages=4)
    jobs = {
        0: FakeJob(job_id=0, context_ids=[0] * 4, num_blocks=3, block_steps=1),
        1: FakeJob(job_id=1, context_ids=[1] * 4, num_blocks=2, block_steps=1),
    }
    for job in jobs.values():
        scheduler.add(job)
    for _ in range(12):
        tick(scheduler, jobs)
    assert all(job.is_finished for job in jobs.values())
    assert scheduler.counters.num_preemptions == 1
    # It came back with what it had committed, and computed that again.
    assert [share.num_cached for share in jobs[1].shares].count(0) == 2
    assert not any(share.num_cached == 0 for share in jobs[0].shares[1:])


def test_an_edited_token_is_computed_again():
    scheduler, job = scheduler_of(), FakeJob(job_id=0, context_ids=list(range(10)), num_blocks=5)
    scheduler.add(job)
    tick(scheduler, {0: job})
    scheduler.reopen(0, 9)
    share = tick(scheduler, {0: job})[0]
    assert (share.num_cached, share.num_context) == (9, 1)


def test_refusals():
    scheduler = scheduler_of(num_pages=2, max_waiting=1)
    with pytest.raises(ConfigError, match=r"20 positions needs 5 pages of 4, the pool has 2 \(num_pages\)"):
        scheduler.add(FakeJob(job_id=0, context_ids=[1] * 12))
    scheduler.add(FakeJob(job_id=1, context_ids=[]))
    with pytest.raises(OverloadedError, match="1 requests are waiting"):
        scheduler.add(FakeJob(job_id=2, context_ids=[]))
    with pytest.raises(EngineError, match="no request 7"):
        scheduler.remove(7)
    with pytest.raises(ConfigError, match="row_budget"):
        SchedulerConfig(row_budget=0)


def test_an_abort_frees_its_pages_at_once():
    scheduler, job = scheduler_of(num_pages=4), FakeJob(job_id=0, context_ids=[3] * 5)
    scheduler.add(job)
    tick(scheduler, {0: job})
    scheduler.remove(0)
    scheduler.check_integrity()
    assert scheduler.plan() == []


def kept_job(job_id: int, **changes) -> FakeJob:
    """A canvas of 8 positions, two pages; every third forward computes all of it."""
    changes = {"block": 8, "num_blocks": 1, "block_steps": 6, "refresh_every": 3} | changes
    return FakeJob(job_id=job_id, context_ids=[], salt=None, **changes)


def test_a_canvas_that_keeps_rows_holds_pages_that_nobody_else_finds():
    scheduler = scheduler_of(num_pages=4)
    jobs = {number: kept_job(number) for number in range(2)}
    for job in jobs.values():
        scheduler.add(job)
    for _ in range(3):
        tick(scheduler, jobs)
    pages = [scheduler.table(number).pages for number in jobs]
    assert [len(each) for each in pages] == [2, 2]
    assert not any(scheduler._pool.is_published(page) for each in pages for page in each)
    assert scheduler.counters.num_stale_forwards == 4
    assert scheduler.counters.num_stale_rows == 4 * 7
    for _ in range(3):
        tick(scheduler, jobs)
    assert scheduler._pool.num_available == 4
    with pytest.raises(ConfigError, match="needs 5 pages"):
        scheduler.add(kept_job(2, block=20))


def test_kept_rows_are_given_up_only_when_all_are_due():
    scheduler, late = scheduler_of(num_pages=4), FakeJob(job_id=0, context_ids=[1] * 3, priority=-1, num_blocks=3)
    jobs = {0: late, 1: kept_job(1, block_steps=9)}
    scheduler.add(jobs[1])
    scheduler.add(late)
    # Both run; the other one grows into its third page, which only the canvas could give.
    plans = [[share.job_id for share in tick(scheduler, jobs)] for _ in range(13)]
    assert plans == [[0, 1]] * 2 + [[1]] + [[0]] * 4 + [[1]] * 6
    assert scheduler.counters.num_preemptions == 1
    assert scheduler.counters.num_stale_forwards == 6
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


jobs_drawn = st.lists(
    st.tuples(
        st.integers(0, 14),  # prompt
        st.sampled_from([1, 4, 7]),  # block
        st.integers(1, 3),  # blocks
        st.integers(1, 3),  # shares
        st.integers(-1, 1),  # priority
        st.sampled_from([b"", b"x", None, 2, 3]),  # a number: keeps rows
        st.integers(0, 12),  # tick of arrival
        st.one_of(st.none(), st.integers(0, 12)),  # tick of abort
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize(
    ("grid", "boundary", "num_shareable"),
    [
        (CAUSAL, 23, None),
        (Grid(4, restart=10), 22, 8),
        (Grid(4, restart=None), 20, None),
        (Grid(3, restart=None), 21, 0),
    ],
)
def test_where_blocks_end_and_which_pages_hold_whole_ones(grid, boundary, num_shareable):
    assert grid.boundary(23) == boundary
    assert grid.num_shareable(page_size=8) == num_shareable


@given(jobs_drawn, st.integers(9, 14), st.integers(1, 20), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_every_request_ends_whatever_comes(drawn, num_pages, row_budget, max_running, random):
    scheduler = scheduler_of(num_pages=num_pages, row_budget=row_budget, max_running=max_running)
    jobs, arrivals, aborts = {}, {}, {}
    for number, (prompt, block, blocks, shares, priority, salt, arrival, abort) in enumerate(drawn):
        jobs[number] = FakeJob(
            job_id=number,
            context_ids=[random.randint(0, 1) for _ in range(prompt)],
            block=block,
            num_blocks=blocks,
            block_steps=shares,
            priority=priority,
            grid=Grid(block, restart=prompt) if random.random() < 0.3 else CAUSAL,
            salt=None if isinstance(salt, int) else salt,
            refresh_every=salt if isinstance(salt, int) else 0,
            num_twin=random.choice([0, 0, block, 3 * block]),
        )
        arrivals[number], aborts[number] = arrival, None if abort is None else arrival + abort
    aborted = set()
    for now in range(2000):
        for number in jobs:
            if arrivals[number] == now:
                scheduler.add(jobs[number])
            if aborts[number] == now and not jobs[number].is_finished:
                scheduler.remove(number)
                aborted.add(number)
        widths = {number: job.num_window + job.num_twin for number, job in jobs.items()}
        shares = tick(scheduler, jobs)
        used = [share.num_context + widths[share.job_id] * share.has_window for share in shares]
        for number, job in jobs.items():
            if job.is_pinned and not job.is_finished and number not in aborted:
                assert scheduler.table(number).pages
        assert sum(used) <= max([row_budget, *used])
        assert len({share.job_id for share in shares}) == len(shares) <= max_running
        if all(jobs[n].is_finished or n in aborted for n in jobs):
            break
    assert all(job.is_finished or number in aborted for number, job in jobs.items())
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
