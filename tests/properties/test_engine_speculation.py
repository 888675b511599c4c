"""Self-speculation against the plain next-token reading of the same weights: the same tokens, in fewer forwards."""

import random
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from quicksilver import decoding
from quicksilver.api.network import FullRecompute
from quicksilver.decoding import final_result, make_policy
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.errors import ConfigError
from tests.engine_requests import random_request
from tests.fakes import fake_spec
from tests.tiny import random_denoiser

SPEC = replace(fake_spec(), has_causal_context=True)
AR_SPEC = replace(SPEC, objective=Objective.AUTOREGRESSIVE, layouts=(Layout.BLOCK_CAUSAL,), block_length=1)
DENOISER = random_denoiser(seed=1)


def plain(request: Request) -> decoding.Result:
    """Token by token with full recompute: clean rows predict the next token, whatever the spec's shift is of masks."""
    params = replace(request.params, policy=None, block_length=None, max_nfe=None)
    logits_fn = FullRecompute(DENOISER, 1)
    return final_result(decoding.generate_autoregressive(logits_fn, AR_SPEC, request.task.prompt_ids, params))


@pytest.mark.parametrize("shift", [0, 1])
@given(seed=st.integers(0, 2**30), row_budget=st.integers(1, 40), num_pages=st.sampled_from((5, 30)))
@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_the_tokens_are_those_of_the_next_token_reading(shift, seed, row_budget, num_pages):
    rng, requests = random.Random(seed), []
    while len(requests) < 4:
        request = random_request(rng, AR_SPEC)
        policy, block_length = make_policy("self_speculative"), rng.choice((None, 1, 2, 8))
        params = replace(request.params, policy=policy, block_length=block_length, max_nfe=None, constraint=None)
        requests.append(replace(request, params=params))
    config = EngineConfig(num_pages=num_pages, page_size=8, row_budget=row_budget)
    engine = Engine(DENOISER, replace(SPEC, prediction_shift=shift), config)
    for request, result in zip(requests, engine.run(requests), strict=True):
        expected = plain(request)
        assert result.holes == expected.holes
        assert result.finish_reason == expected.finish_reason
        assert result.confidence[0] == pytest.approx(expected.confidence[0], abs=1e-5)
        assert result.nfe <= expected.nfe + 1
        assert len(result.alternatives) == len(expected.alternatives)
        for found, named in zip(chain(*result.alternatives), chain(*expected.alternatives), strict=True):
            assert [token for token, _ in found] == [token for token, _ in named]
            assert [p for _, p in found] == pytest.approx([p for _, p in named], abs=1e-5)


def agreeing_request(**changes) -> Request:
    """Logits so biased to one token that drafts and checks agree."""
    params = decoding.SamplingParams(
        policy=make_policy("self_speculative"), max_tokens=20, block_length=8, logit_bias=((20, 100.0),), **changes
    )
    return Request(task=Continuation(prompt_ids=(11, 12)), params=params)


def test_a_round_of_two_forwards_writes_a_whole_draft_and_one_more():
    (result,) = Engine(DENOISER, SPEC).run([agreeing_request()])
    # 8 drafted and 1 more in each of two rounds; then 2 are left, one of them sure: a draft of 2 and its check.
    assert (result.holes, result.nfe) == (((20,) * 20,), 6)
    assert result.step_committed == ((2,) * 9 + (4,) * 9 + (6,) * 2,)


def test_a_limit_of_forwards_ends_it_with_what_is_sure():
    (result,) = Engine(DENOISER, SPEC).run([agreeing_request(max_nfe=3)])
    assert result.finish_reason is decoding.FinishReason.MAX_NFE
    assert (result.holes, result.nfe) == (((20,) * 10,), 3)


def test_checkpoints_without_a_next_token_reading_are_refused():
    with pytest.raises(ConfigError, match="self_speculative needs .*has_causal_context"):
        Engine(DENOISER, fake_spec()).submit(agreeing_request())
