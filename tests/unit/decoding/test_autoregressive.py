"""The autoregressive sampler."""

import pytest

from quicksilver.decoding import (
    ConfidenceThreshold,
    FinishReason,
    SamplingParams,
    final_result,
    generate_autoregressive,
    infill_psm,
)
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, ScriptedDenoiser, UniformDenoiser, fake_spec

VOCAB = 24
SPEC = fake_spec(Objective.AUTOREGRESSIVE)


def test_one_token_per_forward_with_a_dummy_mask_at_the_end() -> None:
    denoiser = CountingDenoiser(ScriptedDenoiser((0, 0, 12, 13, SPECIAL.eos), (0.9,), VOCAB))
    result = final_result(generate_autoregressive(denoiser, SPEC, (10, 11), SamplingParams()))
    assert denoiser.canvases == [[10, 11, 2], [10, 11, 12, 2], [10, 11, 12, 13, 2]]
    assert denoiser.block_ids == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert result.holes == ((12, 13),)
    assert (result.nfe, result.finish_reason) == (3, FinishReason.EOS)
    assert result.tpf == pytest.approx(2 / 3)
    assert [entry.token_id for entry in result.trace] == [12, 13, SPECIAL.eos]


def test_limits() -> None:
    denoiser = ScriptedDenoiser((10,), (0.9,), VOCAB)
    by_tokens = final_result(generate_autoregressive(denoiser, SPEC, (10,), SamplingParams(max_tokens=3)))
    assert (by_tokens.token_ids, by_tokens.finish_reason) == ((10, 10, 10), FinishReason.LENGTH)
    by_nfe = final_result(generate_autoregressive(denoiser, SPEC, (10,), SamplingParams(max_tokens=3, max_nfe=2)))
    assert (by_nfe.token_ids, by_nfe.finish_reason) == ((10, 10), FinishReason.MAX_NFE)


def test_same_seed_same_tokens() -> None:
    def run(seed: int) -> tuple[int, ...]:
        params = SamplingParams(temperature=1.0, seed=seed, max_tokens=6, forbidden_ids=(SPECIAL.eos,))
        return final_result(generate_autoregressive(HashDenoiser(VOCAB), SPEC, (10, 11), params)).token_ids

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert min(run(1)) >= 10


def test_psm_infill() -> None:
    denoiser = CountingDenoiser(ScriptedDenoiser((0, 0, 0, 0, 0, 13, SPECIAL.eos), (0.9,), VOCAB))
    result = final_result(infill_psm(denoiser, SPEC, (10,), (12,), SamplingParams()))
    assert denoiser.canvases[0] == [5, 10, 6, 12, 7, 2]
    assert result.holes == ((13,),)


def test_what_it_cannot_do_is_an_error() -> None:
    denoiser = UniformDenoiser(VOCAB)
    with pytest.raises(ConfigError, match="not autoregressive"):
        generate_autoregressive(denoiser, fake_spec(), (10,), SamplingParams())
    with pytest.raises(ConfigError, match="has no policy"):
        generate_autoregressive(denoiser, SPEC, (10,), SamplingParams(policy=ConfidenceThreshold()))
    with pytest.raises(ConfigError, match="has no block_length"):
        generate_autoregressive(denoiser, SPEC, (10,), SamplingParams(block_length=4))
