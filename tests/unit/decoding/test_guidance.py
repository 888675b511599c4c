"""Guidance: what the second row sees, the order of operations, and the engine against the reference."""

import random
from dataclasses import replace

import pytest
import torch

from quicksilver.decoding import (
    Cache,
    Canvas,
    Guidance,
    Hole,
    JointThreshold,
    SamplingParams,
    Text,
    final_result,
    infill,
    make_policy,
)
from quicksilver.decoding.guidance import guided, twin_of
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.errors import ConfigError
from tests.automata import automaton_of_texts
from tests.engine_requests import VOCAB_SIZE, random_request, reference_events, without_rounding
from tests.fakes import SPECIAL, ScriptedDenoiser, fake_spec
from tests.tiny import random_denoiser

FULL = replace(fake_spec(), layouts=(Layout.IN_PLACE,))
SPECS = {
    "blocks": fake_spec(),
    "causal context": replace(fake_spec(), has_causal_context=True),
    "absolute grid": replace(fake_spec(), has_absolute_grid=True),
    "shifted": replace(fake_spec(), prediction_shift=1),
    "shifted, causal context": replace(fake_spec(), prediction_shift=1, has_causal_context=True),
    "in place": FULL,
    "in place, shifted": replace(FULL, prediction_shift=1),
}


class Likes:
    """A classifier whose gradient depends on what stands there, and on nothing else."""

    def __init__(self, token: int) -> None:
        self.token = token

    def gradient(self, token_ids: torch.Tensor, is_masked: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(token_ids), VOCAB_SIZE)
        found[:, self.token] = 1.0 + (~is_masked).float().mean()
        found[:, 11] += torch.arange(len(token_ids)) % 2
        return found


GUIDANCE = [
    Guidance(scale=1.5),
    Guidance(scale=0.5, until=0.5),
    Guidance(scale=2.0, negative_ids=(12, 13, 14)),
    Guidance(classifier=Likes(40), classifier_scale=2.0),
    Guidance(scale=1.0, negative_ids=(15,), classifier=Likes(41)),
    None,
]


@pytest.mark.parametrize("name", SPECS)
def test_guided_requests_in_a_mixed_batch_have_the_events_of_the_reference(name) -> None:
    spec, rng, denoiser = SPECS[name], random.Random(4), random_denoiser(seed=1)
    requests = []
    for number in range(14):
        request = random_request(rng, spec)
        request = replace(request, params=replace(request.params, cache=Cache.EXACT, refresh_every=None))
        requests.append(replace(request, params=replace(request.params, guidance=GUIDANCE[number % len(GUIDANCE)])))
    engine = Engine(denoiser, spec, EngineConfig(num_pages=20, page_size=8, row_budget=50, max_running=6))
    tickets = [engine.submit(request) for request in requests]
    while engine.num_requests:
        engine.step()
        engine.check_integrity()
    for request, ticket in zip(requests, tickets, strict=True):
        assert ticket.error is None
        expected = reference_events(denoiser, spec, request)
        assert without_rounding(ticket.events) == without_rounding(expected)


@pytest.mark.parametrize("name", ["causal context", "in place"])
def test_second_rows_count_against_the_row_budget_while_there_are_any(name) -> None:
    spec, denoiser = SPECS[name], random_denoiser(seed=1)
    task = Continuation(prompt_ids=(20, 21, 22, 23))
    policy = make_policy("fixed_steps", steps=4)
    params = SamplingParams(max_tokens=8, block_length=8, policy=policy)
    until_half = replace(params, guidance=Guidance(scale=2.0, until=0.5))

    def rows(params: SamplingParams, num_requests: int) -> list[int]:
        engine = Engine(denoiser, spec, EngineConfig(row_budget=30))
        for _ in range(num_requests):
            engine.submit(Request(task=task, params=params))
        found = []
        while engine.num_requests:
            engine.step()
            found.append(engine.num_rows)
        return found

    # Behind a causal context the second row has no prompt, in place it has one of masks.
    context, window = (4, 8) if name == "causal context" else (0, 12)
    assert rows(params, 1) == [context + window, window, window, window]
    assert rows(until_half, 1) == [context + 2 * window, 2 * window, window, window]
    assert max(rows(until_half, 3)) <= 30
    assert sum(rows(until_half, 3)) == 3 * sum(rows(until_half, 1))


def test_guidance_changes_what_is_written_and_ends_with_its_share() -> None:
    spec, denoiser = SPECS["causal context"], random_denoiser(seed=1)
    task = Continuation(prompt_ids=(20, 21, 22, 23))
    tokens = {}
    for name, guidance in {
        "none": None,
        "strong": Guidance(scale=8.0),
        "short": Guidance(scale=8.0, until=0.01),
        "negative": Guidance(scale=8.0, negative_ids=(30, 31)),
    }.items():
        params = SamplingParams(max_tokens=12, guidance=guidance, policy=make_policy("fixed_steps", steps=4))
        (result,) = Engine(denoiser, spec).run([Request(task=task, params=params)])
        tokens[name] = result.token_ids
    assert len(set(tokens.values())) == len(tokens)


def test_the_classifier_comes_before_bias_and_what_is_forbidden() -> None:
    """A bias that outweighs the classifier wins, and a token that is never written stays so."""
    denoiser = ScriptedDenoiser((20, 20, 20), (0.5, 0.5, 0.5), VOCAB_SIZE)
    template = (Text(token_ids=(17,)), Hole(length=2), Text(token_ids=(18,)))
    steered = Guidance(classifier=Likes(40), classifier_scale=20.0)

    def written(**params) -> tuple[int, ...]:
        return final_result(infill(denoiser, fake_spec(), template, SamplingParams(**params))).holes[0]

    assert written() == (20, 20)
    assert written(guidance=steered) == (40, 40)
    assert written(guidance=steered, logit_bias=((40, -100.0),)) != (40, 40)
    assert 40 not in written(guidance=steered, forbidden_ids=(40,))


def test_what_the_second_row_sees() -> None:
    spec = fake_spec()
    head, prompt = SPECIAL.file, (20, 21, 22, 23, 24)
    canvas = Canvas.join([Canvas.of_prompt((head, *prompt)), Canvas.of_masks(4, mask_id=SPECIAL.mask, hole=0)])
    block_ids = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    plain = twin_of(Guidance(scale=1.0), spec, canvas, block_ids)
    assert plain.token_ids.tolist() == [head] + [SPECIAL.mask] * 4
    assert (plain.block_ids.tolist(), plain.moved) == ([0, 1, 1, 1, 1], -5)
    negative = twin_of(Guidance(scale=1.0, negative_ids=(30, 31)), spec, canvas, block_ids)
    assert negative.token_ids.tolist() == [head, 30, 31] + [SPECIAL.mask] * 4
    assert negative.block_ids.tolist() == [0, 0, 0, 1, 1, 1, 1]
    masked = twin_of(Guidance(scale=1.0), spec, canvas, None)
    assert masked.token_ids.tolist() == [head] + [SPECIAL.mask] * 9
    assert set(masked.block_ids.tolist()) == {0}


def test_sentinels_of_a_hole_behind_prefix_and_suffix_stay() -> None:
    pre, suf, mid = SPECIAL.fim_prefix, SPECIAL.fim_suffix, SPECIAL.fim_middle
    given = Canvas.of_prompt((pre, 20, 21, suf, 22, mid))
    canvas = Canvas.join([given, Canvas.of_masks(1, mask_id=SPECIAL.mask, hole=0)])
    twin = twin_of(Guidance(scale=1.0, negative_ids=(30,)), SPECS["causal context"], canvas, torch.arange(7))
    assert twin.token_ids.tolist() == [pre, 30, suf, mid, SPECIAL.mask]


def test_scale_zero_is_the_prompt_and_more_goes_beyond_it() -> None:
    with_prompt, without = torch.randn(3, 5), torch.randn(3, 5)
    scale = torch.tensor([0.0, 1.0, 3.0])
    found = guided(with_prompt, without, scale)
    assert torch.allclose(found[0], with_prompt[0], atol=1e-6)
    assert torch.allclose(found[2], 4 * with_prompt[2] - 3 * without[2], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a scale above 0 or a classifier"),
        ({"scale": -1.0}, "scale must lie"),
        ({"scale": float("nan")}, "scale must lie"),
        ({"scale": 1.0, "until": 0.0}, "until must lie"),
        ({"classifier": Likes(1), "negative_ids": (1,)}, "negative prompt needs"),
    ],
)
def test_what_cannot_be(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Guidance(**options)


def test_what_does_not_go_together() -> None:
    params = SamplingParams(guidance=Guidance(scale=1.0), max_tokens=4)
    task, denoiser = Continuation(prompt_ids=(20,)), random_denoiser(seed=1)
    causal = replace(fake_spec(Objective.AUTOREGRESSIVE), block_length=1, prediction_shift=1)
    with pytest.raises(ConfigError, match="checkpoints that denoise masks"):
        Engine(denoiser, causal).submit(Request(task=task, params=params))
    stale = replace(params, cache=Cache.VICINITY, max_tokens=None)
    with pytest.raises(ConfigError, match="cache exact"):
        Engine(denoiser, FULL).submit(Request(task=Filling(template=(Hole(length=2),)), params=stale))


def test_guidance_goes_with_constraints_and_revisions() -> None:
    texts = [(10, 11, 12), (13, 14, 15)]
    automaton = automaton_of_texts(texts, VOCAB_SIZE, eos_id=SPECIAL.eos)
    template = (Text(token_ids=(17,)), Hole(length=3, constraint=automaton), Text(token_ids=(18,)))
    params = SamplingParams(
        guidance=Guidance(scale=2.0, classifier=Likes(14), classifier_scale=20.0),
        policy=JointThreshold(threshold=0.3, edit_threshold=0.2),
    )
    denoiser, request = (
        random_denoiser(seed=1),
        Request(task=Filling(template=template), params=params, has_frames=True),
    )
    assert final_result(infill(ScriptedDenoiser((10,), (0.9,), VOCAB_SIZE), fake_spec(), template, params)).holes == (
        texts[1],
    )
    engine = Engine(denoiser, fake_spec())
    ticket = engine.submit(request)
    while engine.num_requests:
        engine.step()
    assert without_rounding(ticket.events) == without_rounding(reference_events(denoiser, fake_spec(), request))
