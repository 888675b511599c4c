"""The asyncio side of the engine: order, cancellation, errors and the end of the thread."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from quicksilver.decoding import ConfidenceThreshold, Done, SamplingParams
from quicksilver.engine.aio import AsyncEngine
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.errors import ConfigError, EngineError, InputError, OverloadedError
from tests.engine_requests import VOCAB_SIZE, random_request, reference_events, without_rounding
from tests.fakes import fake_spec
from tests.tiny import random_denoiser

SPEC = fake_spec()
SLOW = ConfidenceThreshold(threshold=2.0)
"""One token per forward."""


def engine_of(**limits) -> Engine:
    return Engine(random_denoiser(), SPEC, EngineConfig(**({"num_pages": 40, "page_size": 8} | limits)))


def request_of(seed: int = 0, max_tokens: int = 12, **params) -> Request:
    params = {"policy": SLOW, "seed": seed, "temperature": 1.0, "vocab_size": VOCAB_SIZE} | params
    # Never eos: the number of forwards is max_tokens.
    params = SamplingParams(max_tokens=max_tokens, forbidden_ids=(1,), **params)
    return Request(task=Continuation(prompt_ids=(11, 12, 13)), params=params, has_frames=True)


def within_seconds(test, seconds: float = 60):
    """A failure that would hang fails instead."""

    async def limited():
        async with asyncio.timeout(seconds):
            await test()

    asyncio.run(limited())


class Steps:
    """Lets the engine's thread take one step at a time."""

    def __init__(self, engine: Engine) -> None:
        self.num_begun = 0
        self._engine_step = engine.step
        self._may_step = threading.Semaphore(0)
        self._began = threading.Semaphore(0)
        self.is_free = False
        engine.step = self._step

    def _step(self):
        self.num_begun += 1
        self._began.release()
        if not self.is_free:
            self._may_step.acquire()
        return self._engine_step()

    async def begun(self) -> None:
        """The thread stands before a forward."""
        await asyncio.to_thread(self._began.acquire)

    def allow(self) -> None:
        self._may_step.release()

    def free(self) -> None:
        self.is_free = True
        self.allow()


@asynccontextmanager
async def stepwise(engine: Engine) -> AsyncIterator[tuple[AsyncEngine, Steps]]:
    steps = Steps(engine)
    serving = AsyncEngine(engine)
    try:
        yield serving, steps
    finally:
        steps.free()
        await serving.aclose()


async def events_of(serving: AsyncEngine, request: Request) -> list:
    return [event async for event in serving.stream(request)]


def test_every_consumer_gets_its_own_events_in_order():
    rng = random.Random(3)
    engine = engine_of(max_running=4)
    requests = [random_request(rng, SPEC) for _ in range(10)]

    async def test():
        async with AsyncEngine(engine) as serving:
            found = await asyncio.gather(*(events_of(serving, request) for request in requests))
            assert serving.num_requests == 0
        for request, events in zip(requests, found, strict=True):
            expected = reference_events(engine.denoiser, SPEC, request)
            assert without_rounding(events) == without_rounding(expected)

    within_seconds(test)


def test_whoever_leaves_when_it_likes_disturbs_nobody():
    rng = random.Random(4)
    engine = engine_of(max_running=5, num_pages=9)
    requests = [random_request(rng, SPEC) for _ in range(16)]

    async def leave_after(serving: AsyncEngine, request: Request, count: int) -> list:
        found = []
        async with aclosing(serving.stream(request)) as events:
            async for event in events:
                found.append(event)
                if len(found) == count:
                    break
        return found

    async def test():
        async with AsyncEngine(engine) as serving:
            counts = [rng.choice((0, 1, 4, 10**6)) for _ in requests]
            tasks = [
                asyncio.create_task(leave_after(serving, request, count))
                for request, count in zip(requests, counts, strict=True)
            ]
            for task, count in zip(tasks, counts, strict=True):
                if count == 0:  # cancelled at whatever moment the thread is in
                    await asyncio.sleep(0.003)
                    task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            last = await serving.submit(request_of(max_tokens=1))
            await last.result()
            assert serving.num_requests == engine.num_requests == 0
            engine.check_integrity()
        for request, count, events in zip(requests, counts, found, strict=True):
            if count == 0 and isinstance(events, asyncio.CancelledError):
                continue
            expected = without_rounding(reference_events(engine.denoiser, SPEC, request))
            assert without_rounding(events) == expected[: count or None]

    within_seconds(test)


def test_the_result_waits_for_the_end_and_leaves_the_events():
    engine = engine_of()

    async def test():
        async with AsyncEngine(engine) as serving:
            ticket = await serving.submit(request_of())
            result = await ticket.result()
            assert len(result.token_ids) == 12
            assert ticket.usage.nfe == 12
            events = [event async for event in ticket]
            assert events[-1] == Done(result=result)
            assert [event async for event in ticket] == []

    within_seconds(test)


def test_a_cancelled_consumer_frees_its_pages_within_one_step():
    engine = engine_of()

    async def test():
        async with stepwise(engine) as (serving, steps):
            consumer = asyncio.create_task(events_of(serving, request_of(seed=1)))
            await steps.begun()
            other = asyncio.create_task(events_of(serving, request_of(seed=2)))
            await asyncio.sleep(0)  # the other has asked, and is taken after this forward
            steps.allow()
            await steps.begun()
            assert engine.num_requests == 2
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            steps.allow()  # the forward that was under way when the consumer went
            await steps.begun()
            assert engine.num_requests == 1
            engine.check_integrity()
            steps.free()
            assert without_rounding(await other) == without_rounding(
                reference_events(engine.denoiser, SPEC, request_of(seed=2))
            )

    within_seconds(test)


def test_leaving_a_ticket_or_a_closed_stream_aborts():
    engine = engine_of()

    async def test():
        async with stepwise(engine) as (serving, steps):
            async with await serving.submit(request_of()) as ticket:
                steps.allow()
                assert (await anext(ticket)) is not None
            async with aclosing(serving.stream(request_of())) as events:
                submitting = asyncio.ensure_future(anext(events))
                await steps.begun()
                steps.allow()
                await submitting
            steps.free()
            with pytest.raises(EngineError, match="aborted"):
                await ticket.result()
            assert ticket.usage.num_written == 0
            last = await serving.submit(request_of(max_tokens=1))
            await last.result()
            assert serving.num_requests == engine.num_requests == 0

    within_seconds(test)


def test_a_caller_cancelled_while_it_submits_leaves_no_request():
    engine = engine_of()

    async def test():
        async with stepwise(engine) as (serving, steps):
            first = await serving.submit(request_of(max_tokens=4))
            await steps.begun()
            submitting = asyncio.create_task(serving.submit(request_of(seed=1)))
            await asyncio.sleep(0)
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
            steps.allow()
            await steps.begun()
            assert engine.num_requests == 1
            steps.free()
            await first.result()

    within_seconds(test)


class BrokenPolicy(ConfidenceThreshold):
    @classmethod
    def decide_rows(cls, window, policies):
        raise ZeroDivisionError("this policy is broken")


def test_an_error_reaches_its_own_consumer_only():
    engine = engine_of()

    async def test():
        async with AsyncEngine(engine) as serving:
            good, bad = request_of(seed=1), request_of(policy=BrokenPolicy())
            results = await asyncio.gather(
                *(events_of(serving, request) for request in (good, bad, good)), return_exceptions=True
            )
        assert isinstance(results[1], ZeroDivisionError)
        expected = without_rounding(reference_events(engine.denoiser, SPEC, good))
        assert without_rounding(results[0]) == without_rounding(results[2]) == expected

    within_seconds(test)


def test_refusals_reach_the_submitter_before_any_event():
    engine = engine_of(max_waiting=1, max_running=1)

    async def test():
        async with stepwise(engine) as (serving, steps):
            first = await serving.submit(request_of(max_tokens=2))
            await steps.begun()
            steps.allow()
            await steps.begun()  # the first is running now, not waiting
            answers = [asyncio.create_task(serving.submit(request_of(seed=seed))) for seed in (1, 2)]
            await asyncio.sleep(0)
            steps.free()
            second = await answers[0]
            with pytest.raises(OverloadedError, match="max_waiting"):
                await answers[1]
            with pytest.raises(InputError, match="max_length"):
                await serving.submit(request_of(max_tokens=1000))
            with pytest.raises(ConfigError, match="block_length"):
                await serving.submit(replace(request_of(), params=SamplingParams(block_length=0)))
            await asyncio.gather(first.result(), second.result())

    within_seconds(test)


def test_closing_aborts_what_runs_and_ends_the_thread():
    engine = engine_of()

    async def test():
        steps = Steps(engine)
        serving = AsyncEngine(engine)
        running = asyncio.create_task(events_of(serving, request_of()))
        await steps.begun()
        unheard = asyncio.create_task(serving.submit(request_of()))
        await asyncio.sleep(0)
        closing = asyncio.create_task(serving.aclose())
        await asyncio.sleep(0)
        steps.allow()
        await closing
        assert steps.num_begun == 1
        with pytest.raises(EngineError, match="closed"):
            await running
        with pytest.raises(EngineError, match="closed"):
            await (await unheard).result()
        assert not serving._thread.is_alive()
        assert engine.num_requests == serving.num_requests == 0
        engine.check_integrity()
        with pytest.raises(EngineError, match="closed"):
            await serving.submit(request_of())
        await serving.aclose()

    within_seconds(test)


def test_closing_what_never_started_is_enough():
    async def test():
        serving = AsyncEngine(engine_of())
        await serving.aclose()
        with pytest.raises(EngineError, match="closed"):
            await serving.submit(request_of())

    within_seconds(test)


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), SystemExit(3), MemoryError()])
def test_a_crash_of_the_loop_reaches_everyone(error):
    engine = engine_of(max_running=1)
    num_steps = 0
    step = engine.step

    def crash():
        nonlocal num_steps
        num_steps += 1
        if num_steps > 2:
            raise error
        return step()

    engine.step = crash

    async def test():
        async with AsyncEngine(engine) as serving:
            running = [asyncio.create_task(events_of(serving, request_of(seed=seed))) for seed in range(3)]
            found = await asyncio.gather(*running, return_exceptions=True)
            for each in found:
                assert isinstance(each, EngineError)
                assert type(error).__name__ in str(each)
                assert each.__cause__ is error
            assert len({id(each) for each in found}) == 3
            with pytest.raises(EngineError, match="broke"):
                await serving.submit(request_of())

    within_seconds(test)


def test_a_plan_without_rows_is_a_crash_and_no_endless_loop():
    engine = engine_of()
    engine.step = list

    async def test():
        async with AsyncEngine(engine) as serving:
            with pytest.raises(EngineError, match="got a row"):
                await events_of(serving, request_of())

    within_seconds(test)


def test_an_idle_engine_sleeps():
    engine = engine_of()

    async def test():
        async with AsyncEngine(engine) as serving:
            looks = 0
            wait_for = serving._wake.wait_for

            def counted(predicate):
                def look():
                    nonlocal looks
                    looks += 1
                    return predicate()

                return wait_for(look)

            serving._wake.wait_for = counted
            await (await serving.submit(request_of(max_tokens=2))).result()
            await asyncio.sleep(0.05)
            seen = looks
            await asyncio.sleep(0.2)
            assert looks == seen

    within_seconds(test)


def test_another_event_loop_is_refused():
    engine = engine_of()
    serving = AsyncEngine(engine)

    async def first():
        await (await serving.submit(request_of(max_tokens=1))).result()

    async def second():
        with pytest.raises(EngineError, match="another event loop"):
            await serving.submit(request_of(max_tokens=1))

    within_seconds(first)
    within_seconds(second)
    within_seconds(partial(serving.aclose))
    assert not serving._thread.is_alive()


def test_a_deadline_counts_from_the_call_and_not_from_the_next_forward():
    now = 0.0
    engine = Engine(random_denoiser(), SPEC, EngineConfig(num_pages=40, page_size=8), clock=lambda: now)

    async def test():
        nonlocal now
        async with stepwise(engine) as (serving, steps):
            first = await serving.submit(request_of())
            await steps.begun()
            submitting = asyncio.create_task(serving.submit(replace(request_of(), deadline_ms=500.0)))
            await asyncio.sleep(0)
            now = 1.0  # the forward under way takes a second
            steps.free()
            late = await submitting
            result = await late.result()
            assert (result.nfe, result.finish_reason) == (1, "deadline")
            assert late.usage.queue_seconds == 1.0
            await first.result()

    within_seconds(test)
