"""The engine against the reference where a denoiser tells rows of a canvas from others: windows, two passes, experts.

In float64, as ``test_engine_equality``.
"""

import random
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from quicksilver.api.network import recompute
from quicksilver.decoding import SamplingParams, SelfSpeculative, generate, make_policy
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.errors import ConfigError
from quicksilver.models.config import Activation, Experts, SlidingLayers
from tests.engine_requests import VOCAB_SIZE, random_request, without_rounding
from tests.fakes import fake_spec
from tests.properties.test_engine_equality import run_all
from tests.tiny import random_denoiser, tiny_config

CONFIG = tiny_config(
    sliding=SlidingLayers(layers=(0, 2), window=5, num_kv_heads=4, head_width=6, rope_theta=100.0),
    rotary_moving_share=0.5,
    has_keys_as_values=True,
    has_value_norm=True,
    has_unit_attention_scale=True,
    has_output_norms=True,
    activation=Activation.GELU_TANH,
    embedding_scale=3.0,
    logit_cap=10.0,
    has_canvas_pass=True,
    experts=Experts(num_experts=4, num_chosen=2, width=10, are_beside=True, has_normed_router=True),
)
SPEC = replace(fake_spec(Objective.UNIFORM, layouts=(Layout.BLOCK_CAUSAL,)), has_causal_context=True)
DENOISER = random_denoiser(CONFIG)


def continuations(rng, count):
    found = []
    while len(found) < count:
        request = random_request(rng, SPEC)
        if isinstance(request.task, Continuation):
            found.append(request)
    return found


def reference(request):
    return list(generate(recompute(DENOISER, 0), SPEC, request.task.prompt_ids, request.params))


@given(
    seed=st.integers(0, 2**30),
    num_requests=st.integers(1, 6),
    row_budget=st.integers(1, 60),
    num_pages=st.sampled_from((5, 7, 40)),
    is_strict=st.booleans(),
)
# Without shrinking: an example takes seconds.
@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_every_request_gets_the_events_of_the_reference(seed, num_requests, row_budget, num_pages, is_strict):
    rng = random.Random(seed)
    requests = continuations(rng, num_requests)
    engine = Engine(
        DENOISER, SPEC, EngineConfig(num_pages=num_pages, page_size=8, row_budget=row_budget, is_strict=is_strict)
    )
    for request, ticket in zip(requests, run_all(engine, requests, rng), strict=True):
        assert ticket.error is None
        assert without_rounding(ticket.events) == without_rounding(reference(request))


def test_preemption_happens_and_changes_nothing():
    rng = random.Random(2)
    # Three blocks each, so that some wait with a prediction in hand.
    requests = [
        replace(request, params=replace(request.params, max_nfe=None, max_tokens=12, stop=None), priority=6 - number)
        for number, request in enumerate(continuations(rng, 6))
    ]
    engine = Engine(DENOISER, SPEC, EngineConfig(page_size=8, num_pages=6))
    tickets = run_all(engine, requests, rng)
    assert sum(ticket.usage.num_preemptions for ticket in tickets) > 0
    for request, ticket in zip(requests, tickets, strict=True):
        assert without_rounding(ticket.events) == without_rounding(reference(request))


def test_pages_are_as_wide_as_each_layer_needs():
    engine = Engine(DENOISER, SPEC, EngineConfig(page_size=8, num_pages=6))
    assert [tuple(keys.shape) for keys in engine.memory.keys] == [(48, 4, 6), (48, 2, 8), (48, 4, 6)]
    assert engine.memory.num_bytes == 48 * CONFIG.num_kept_per_position * 8


@pytest.mark.parametrize(
    "spec",
    [
        fake_spec(),
        replace(SPEC, has_causal_context=False),
        replace(SPEC, layouts=(Layout.BLOCK_CAUSAL, Layout.IN_PLACE)),
    ],
    ids=["masks", "blocks see each other", "in place"],
)
def test_other_specs_are_refused(spec):
    with pytest.raises(ConfigError, match="has_canvas_pass needs a spec of objective uniform"):
        Engine(DENOISER, spec)


def test_other_tasks_and_policies_are_refused():
    engine = Engine(DENOISER, SPEC, EngineConfig(page_size=8, num_pages=6))
    holes = next(
        request.task
        for request in (random_request(random.Random(seed), fake_spec(Objective.UNIFORM)) for seed in range(20))
        if isinstance(request.task, Filling)
    )
    with pytest.raises(ConfigError, match="in place"):
        engine.submit(Request(task=holes, params=SamplingParams(vocab_size=VOCAB_SIZE)))
    for policy in (SelfSpeculative(), make_policy("confidence_threshold")):
        with pytest.raises(ConfigError):
            engine.submit(Request(task=Continuation(prompt_ids=(11,)), params=SamplingParams(policy=policy)))
