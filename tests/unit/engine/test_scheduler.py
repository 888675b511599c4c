"""The scheduler without tensors: budgets, fairness, preemption, and that every request ends."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.engine.pages import PagePool
from quicksilver.engine.scheduler import Job, Scheduler, SchedulerConfig, Step
from quicksilver.errors import ConfigError, EngineError, OverloadedError


@dataclass(kw_only=True)
class FakeJob:
    """A request that commits ``num_blocks`` blocks, each of which takes ``block_steps`` windows."""

    job_id: int
    context_ids: list[int]
    block: int = 4
    num_blocks: int = 2
    block_steps: int = 2
    priority: int = 0
    alignment: int = 1
    salt: bytes | None = b""
    steps: list[Step] = field(default_factory=list)
    num_masks: int = 0

    def __post_init__(self):
        self.num_masks = self.block_steps
        self.most_positions = len(self.context_ids) + self.block * self.num_blocks

    @property
    def num_window(self) -> int:
        return self.block

    @property
    def is_finished(self) -> bool:
        return self.num_blocks == 0

    def take(self, step: Step) -> None:
        self.steps.append(step)
        if not step.has_window:
            return
        self.num_masks -= 1
        if self.num_masks == 0:
            self.context_ids += [100 * self.job_id + self.num_blocks] * self.block
            self.num_blocks -= 1
            self.num_masks = self.block_steps


def scheduler_of(num_pages: int = 64, page_size: int = 4, **limits: int) -> Scheduler:
    return Scheduler(SchedulerConfig(**({"row_budget": 16} | limits)), PagePool(num_pages, page_size))


def tick(scheduler: Scheduler, jobs: dict[int, FakeJob]) -> list[Step]:
    """One forward, checked against what a plan must be."""
    steps = scheduler.plan()
    for step in steps:
        job = jobs[step.job_id]
        cached = step.num_cached + step.num_context
        if job.salt is not None:
            assert step.num_cached == scheduler.table(step.job_id).num_final
            if step.has_window:
                assert cached == len(job.context_ids)
                assert scheduler.table(step.job_id).capacity >= cached + job.num_window
            else:
                assert step.num_context > 0
                assert cached <= len(job.context_ids)
                assert cached % job.alignment == 0 or cached == len(job.context_ids)
                assert scheduler.table(step.job_id).capacity >= cached
    for step in steps:
        scheduler.done(step)
    for step in steps:
        jobs[step.job_id].take(step)
        if jobs[step.job_id].is_finished:
            scheduler.remove(step.job_id)
    scheduler.check_integrity()
    return steps


def rows(step: Step, job: FakeJob) -> int:
    return step.num_context + (job.num_window if step.has_window else 0)


def test_a_fake_job_is_a_job():
    assert isinstance(FakeJob(job_id=0, context_ids=[1]), Job)


def test_prefill_and_first_window_share_a_forward_and_so_do_commit_and_next_window():
    scheduler, job = scheduler_of(), FakeJob(job_id=0, context_ids=list(range(6)), block_steps=2)
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(4)]
    assert [(step.num_cached, step.num_context, step.has_window) for step in plans] == [
        (0, 6, True), (6, 0, True), (6, 4, True), (10, 0, True),
    ]  # fmt: skip
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


def test_a_long_prompt_comes_in_chunks_of_whole_blocks():
    scheduler, job = scheduler_of(row_budget=10), FakeJob(job_id=0, context_ids=list(range(23)), alignment=4)
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(3)]
    assert [(step.num_cached, step.num_context, step.has_window) for step in plans] == [
        (0, 8, False), (8, 8, False), (16, 7, False),
    ]  # fmt: skip


def test_a_single_window_may_exceed_the_budget():
    scheduler, job = scheduler_of(row_budget=2), FakeJob(job_id=0, context_ids=[1, 2, 3])
    scheduler.add(job)
    plans = [tick(scheduler, {0: job})[0] for _ in range(3)]
    assert [(step.num_context, step.has_window) for step in plans] == [(2, False), (1, False), (0, True)]


def test_canvases_without_cache_hold_no_pages():
    scheduler, job = scheduler_of(num_pages=1), FakeJob(job_id=0, context_ids=[], block=40, num_blocks=1, salt=None)
    scheduler.add(job)
    assert [(step.num_context, step.has_window) for step in tick(scheduler, {0: job})] == [(0, True)]
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
    step = tick(scheduler, jobs)[1]
    assert (step.job_id, step.num_cached, step.num_context) == (1, 8, 2)
    assert scheduler.counters.num_adopted_positions == 8


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
    assert [step.num_cached for step in jobs[1].steps].count(0) == 2
    assert not any(step.num_cached == 0 for step in jobs[0].steps[1:])


def test_an_edited_token_is_computed_again():
    scheduler, job = scheduler_of(), FakeJob(job_id=0, context_ids=list(range(10)), num_blocks=5)
    scheduler.add(job)
    tick(scheduler, {0: job})
    scheduler.reopen(0, 9)
    step = tick(scheduler, {0: job})[0]
    assert (step.num_cached, step.num_context) == (9, 1)


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


jobs_drawn = st.lists(
    st.tuples(
        st.integers(0, 14),  # prompt
        st.sampled_from([1, 4, 7]),  # block
        st.integers(1, 3),  # blocks
        st.integers(1, 3),  # steps
        st.integers(-1, 1),  # priority
        st.sampled_from([b"", b"x", None]),
        st.integers(0, 12),  # tick of arrival
        st.one_of(st.none(), st.integers(0, 12)),  # tick of abort
    ),
    min_size=1,
    max_size=8,
)


@given(jobs_drawn, st.integers(9, 14), st.integers(1, 20), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_every_request_ends_whatever_comes(drawn, num_pages, row_budget, max_running, random):
    scheduler = scheduler_of(num_pages=num_pages, row_budget=row_budget, max_running=max_running)
    jobs, arrivals, aborts = {}, {}, {}
    for number, (prompt, block, blocks, steps, priority, salt, arrival, abort) in enumerate(drawn):
        jobs[number] = FakeJob(
            job_id=number,
            context_ids=[random.randint(0, 1) for _ in range(prompt)],
            block=block,
            num_blocks=blocks,
            block_steps=steps,
            priority=priority,
            alignment=block if random.random() < 0.3 else 1,
            salt=salt,
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
        steps = tick(scheduler, jobs)
        used = [(rows(step, jobs[step.job_id]), step) for step in steps]
        assert sum(count for count, _ in used) <= max(row_budget, *(count for count, _ in used), 0, 0)
        assert len({step.job_id for step in steps}) == len(steps) <= max_running
        if all(jobs[n].is_finished or n in aborted for n in jobs):
            break
    assert all(job.is_finished or number in aborted for number, job in jobs.items())
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
