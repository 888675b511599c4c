"""The engine against the reference samplers: the same events for every request, whatever else happens.

The network runs in float64, so that another order of sums does not reach the float32 numbers that decisions read.
``tests/integration/test_engine_float32.py`` has the same in float32.
"""

import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.engine.engine import Engine, EngineConfig, Ticket
from quicksilver.models.denoiser import Denoiser
from tests.engine_requests import random_request, reference_events, without_rounding
from tests.fakes import fake_spec
from tests.tiny import random_denoiser


def in_place(spec: DiffusionSpec) -> DiffusionSpec:
    """Trained under full attention alone."""
    return replace(spec, layouts=(Layout.IN_PLACE,))


SPECS = {
    "blocks": fake_spec(),
    "causal context": replace(
        fake_spec(), has_causal_context=True, decoding=replace(fake_spec().decoding, length_margin=0.4)
    ),
    "absolute grid": replace(fake_spec(), has_absolute_grid=True),
    "shifted": replace(fake_spec(), prediction_shift=1),
    "shifted, absolute grid, sub-blocks": replace(
        fake_spec(),
        has_absolute_grid=True,
        prediction_shift=1,
        decoding=replace(fake_spec().decoding, sub_block_length=3, has_first_alone=True),
    ),
    "shifted, causal context": replace(fake_spec(), prediction_shift=1, has_causal_context=True),
    "in place": in_place(fake_spec()),
    "in place, shifted, free ends": in_place(
        replace(
            fake_spec(),
            prediction_shift=1,
            is_mask_predicted=True,
            decoding=replace(fake_spec().decoding, ends="free"),
        )
    ),
    "in place, uniform": in_place(fake_spec(Objective.UNIFORM)),
    "competing lengths": replace(
        fake_spec(), is_mask_predicted=True, decoding=replace(fake_spec().decoding, lengths="competing")
    ),
    "uniform": fake_spec(Objective.UNIFORM),
    "autoregressive": replace(fake_spec(Objective.AUTOREGRESSIVE), block_length=1, prediction_shift=1),
}


@cache
def denoiser_of(seed: int) -> Denoiser:
    return random_denoiser(seed=seed)


def run_all(engine: Engine, requests, rng: random.Random, abort_rate: float = 0.0) -> list[Ticket]:
    """Submit at random moments, abort some, check the accounts after every forward."""
    waiting, tickets = list(enumerate(requests)), {}
    while waiting or engine.num_requests:
        while waiting and (rng.random() < 0.6 or not engine.num_requests):
            number, request = waiting.pop(0)
            tickets[number] = engine.submit(request)
        engine.step()
        engine.check_integrity()
        if rng.random() < abort_rate:
            engine.abort(rng.choice(list(tickets.values())))
            engine.check_integrity()
    return [tickets[number] for number in range(len(requests))]


@pytest.mark.parametrize("name", SPECS)
@given(
    seed=st.integers(0, 2**30),
    num_requests=st.integers(1, 7),
    row_budget=st.integers(1, 60),
    max_running=st.integers(1, 7),
    # 5 pages hold one request of the longest kind: the others are preempted or wait.
    num_pages=st.sampled_from((5, 7, 40)),
)
# Without shrinking: an example takes seconds.
@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_every_request_gets_the_events_of_the_reference(name, seed, num_requests, row_budget, max_running, num_pages):
    spec, rng = SPECS[name], random.Random(seed)
    denoiser = denoiser_of(seed % 3)
    requests = [random_request(rng, spec) for _ in range(num_requests)]
    config = EngineConfig(
        num_pages=num_pages,
        page_size=8,
        row_budget=row_budget,
        max_running=max_running,
        is_strict=rng.random() < 0.3,
    )
    engine = Engine(denoiser, spec, config)
    for request, ticket in zip(requests, run_all(engine, requests, rng, abort_rate=0.03), strict=True):
        expected = without_rounding(reference_events(denoiser, spec, request))
        found = without_rounding(ticket.events)
        is_aborted = ticket.sequence.done is None
        assert ticket.error is None
        assert found == (expected[: len(found)] if is_aborted else expected)


@pytest.mark.parametrize("name", ["causal context", "absolute grid", "shifted, absolute grid, sub-blocks"])
def test_a_second_request_reads_the_first_ones_pages_and_gets_the_same(name):
    spec, rng = SPECS[name], random.Random(5)
    engine = Engine(denoiser_of(0), spec, EngineConfig(page_size=8, num_pages=40))
    request = random_request(rng, spec)
    while not hasattr(request.task, "prompt_ids") or len(request.task.prompt_ids) < 17:
        request = random_request(rng, spec)
    (first,) = run_all(engine, [request], rng)
    (second,) = run_all(engine, [request], rng)
    assert first.usage.num_cached == 0
    assert second.usage.num_cached >= 8
    assert list(first.events) == list(second.events)


@pytest.mark.parametrize("name", ["blocks", "causal context"])
def test_preemption_happens_and_changes_nothing(name):
    spec, rng = SPECS[name], random.Random(1)
    requests = []
    while len(requests) < 6:
        request = random_request(rng, spec)
        if hasattr(request.task, "prompt_ids") and request.params.max_nfe is None:
            requests.append(replace(request, priority=6 - len(requests)))
    engine = Engine(denoiser_of(0), spec, EngineConfig(page_size=8, num_pages=6))
    tickets = run_all(engine, requests, rng)
    assert sum(ticket.usage.num_preemptions for ticket in tickets) > 0
    for request, ticket in zip(requests, tickets, strict=True):
        expected = reference_events(denoiser_of(0), spec, request)
        assert without_rounding(ticket.events) == without_rounding(expected)
