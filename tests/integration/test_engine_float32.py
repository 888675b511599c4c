"""The engine in float32, with the bundled model: the reference's tokens, and the same bits in any company."""

import random
from collections.abc import Sequence

import pytest

import quicksilver
from quicksilver import decoding
from quicksilver.api import Model
from quicksilver.api.network import StaleRecompute
from quicksilver.decoding import Cache, Hole, Result, SamplingParams, Text, final_result, make_policy
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Filling, Request

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Model:
    return quicksilver.load(device="cpu")


def requests_of(model: Model, count: int, seed: int) -> list[Request]:
    """Generation and in-place infill of random tokens, greedy and sampled, some with a common beginning."""
    rng = random.Random(seed)

    def text(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randint(40, 8000) for _ in range(rng.randint(low, high)))

    common, made = text(70, 70), []
    for number in range(count):
        policy = make_policy(rng.choice(("confidence_threshold", "entropy_bound", "joint_threshold")))
        params = SamplingParams(seed=number, policy=policy, temperature=float(number % 2), vocab_size=8192)
        if number % 3 == 2:
            task = Filling(template=(Text(token_ids=text(5, 40)), Hole(max_length=12), Text(token_ids=text(5, 40))))
        else:
            prompt = text(5, 150) if number % 2 else common + text(5, 40)
            params = SamplingParams(seed=number, policy=policy, temperature=float(number % 2), max_tokens=24)
            task = Continuation(prompt_ids=prompt)
        made.append(Request(task=task, params=params))
    return made


def alone(model: Model, requests: Sequence[Request], config: EngineConfig) -> list[Result]:
    return [Engine(model._denoiser, model.spec, config).run([request])[0] for request in requests]


def test_the_engine_writes_what_the_reference_writes(model):
    requests = requests_of(model, 6, seed=1)
    for request, result in zip(requests, model.engine.run(requests), strict=True):
        if isinstance(request.task, Filling):
            events = decoding.infill(model.canvas_logits, model.spec, request.task.template, request.params)
        else:
            events = decoding.generate(model.canvas_logits, model.spec, request.task.prompt_ids, request.params)
        expected = final_result(events)
        assert result.holes == expected.holes
        assert [entry.token_id for entry in result.trace] == [entry.token_id for entry in expected.trace]


@pytest.mark.parametrize("cache", [Cache.PREFIX, Cache.DUAL, Cache.VICINITY])
def test_the_engine_sees_stale_rows_as_the_reference_does(model, cache):
    rng, requests = random.Random(4), []
    for number in range(4):
        sides = [Text(token_ids=tuple(rng.randint(40, 8000) for _ in range(60))) for _ in "ab"]
        refresh_every = (None, 3)[number % 2]
        params = SamplingParams(seed=number, temperature=float(number // 2), cache=cache, refresh_every=refresh_every)
        template = (sides[0], Hole(length=14) if number % 2 else Hole(max_length=20), sides[1])
        requests.append(Request(task=Filling(template=template), params=params))
    reference = StaleRecompute(model.engine.denoiser, model.spec.prediction_shift)
    for request, result in zip(requests, model.engine.run(requests), strict=True):
        expected = final_result(decoding.infill(reference, model.spec, request.task.template, request.params))
        assert result.holes == expected.holes
        assert [entry.token_id for entry in result.trace] == [entry.token_id for entry in expected.trace]
        assert result.num_stale_rows == expected.num_stale_rows > 0


@pytest.mark.parametrize("row_budget", [256, 70])
def test_the_same_bits_alone_and_with_strangers(model, row_budget):
    """Strict arithmetic: probabilities of every decision, to the last bit."""
    requests = requests_of(model, 8, seed=2)
    single = alone(model, requests, EngineConfig(is_strict=True))
    config = EngineConfig(is_strict=True, row_budget=row_budget, num_pages=40)
    batched = Engine(model._denoiser, model.spec, config).run(requests)
    assert batched == single


def test_the_same_tokens_without_strict_arithmetic(model):
    """In the last bit they may differ; none of these decisions hangs on it."""
    requests = requests_of(model, 8, seed=3)
    batched = model.engine.run(requests)
    assert [result.holes for result in batched] == [result.holes for result in alone(model, requests, EngineConfig())]
