"""Experts under the engine: the reference's events, and under strict arithmetic the same bits in any company."""

import random
from dataclasses import replace

import torch

from quicksilver.decoding import SamplingParams
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.models.config import Experts
from tests.engine_requests import random_request, reference_events, without_rounding
from tests.fakes import fake_spec
from tests.tiny import random_denoiser, tiny_config

EXPERTS = Experts(
    num_experts=8,
    num_chosen=2,
    width=12,
    shared_width=12,
    num_dense_layers=1,
    has_sigmoid_scores=True,
    has_bias=True,
    num_groups=4,
    num_chosen_groups=2,
)
SPEC = replace(fake_spec(), has_absolute_grid=True)


def test_every_request_gets_the_events_of_the_reference():
    rng, denoiser = random.Random(3), random_denoiser(tiny_config(experts=EXPERTS))
    requests = [random_request(rng, SPEC) for _ in range(8)]
    engine = Engine(denoiser, SPEC, EngineConfig(num_pages=12, page_size=8, row_budget=40))
    tickets = [engine.submit(request) for request in requests]
    while engine.num_requests:
        engine.step()
    for request, ticket in zip(requests, tickets, strict=True):
        assert without_rounding(ticket.events) == without_rounding(reference_events(denoiser, SPEC, request))


def test_the_same_bits_alone_and_with_strangers():
    # Widths that 8 divides, as strict arithmetic asks for (``runner.STRICT_ROWS``).
    shape = tiny_config(
        experts=replace(EXPERTS, width=48, shared_width=48), model_width=64, head_width=16, ffn_width=48
    )
    denoiser, rng = random_denoiser(shape, dtype=torch.float32), random.Random(5)
    requests = [
        Request(
            task=Continuation(prompt_ids=tuple(rng.randint(10, 60) for _ in range(rng.randint(1, 30)))),
            params=SamplingParams(max_tokens=rng.randint(4, 20), seed=number, temperature=0.5),
        )
        for number in range(8)
    ]
    config = EngineConfig(is_strict=True, page_size=8, num_pages=60)
    alone = [Engine(denoiser, SPEC, config).run([request])[0] for request in requests]
    assert Engine(denoiser, SPEC, config).run(requests) == alone
