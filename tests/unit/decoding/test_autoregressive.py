"""The autoregressive sampler."""

from collections.abc import Sequence

import pytest

from quicksilver.decoding import (
    ConfidenceThreshold,
    FinishReason,
    Resize,
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


def test_stop_ids_and_the_stop_rule() -> None:
    def written(**stop: object) -> tuple[tuple[int, ...], FinishReason, int]:
        denoiser = ScriptedDenoiser((0, 10, 11, 12, 13, SPECIAL.eos), (0.9,), VOCAB)
        events = list(generate_autoregressive(denoiser, SPEC, (20,), SamplingParams(**stop)))
        result = final_result(events)
        assert sum(event.added for event in events if isinstance(event, Resize)) == len(result.token_ids)
        return result.token_ids, result.finish_reason, result.nfe

    assert written() == ((10, 11, 12, 13), FinishReason.EOS, 5)
    assert written(stop_ids=(12, 20)) == ((10, 11), FinishReason.STOP, 3)
    asked: list[list[int]] = []

    def rule(token_ids: Sequence[int]) -> int | None:
        asked.append(list(token_ids))
        return 1 if token_ids[-1] == 12 else None

    assert written(stop=rule) == ((10,), FinishReason.STOP, 3)
    assert asked == [[10], [10, 11], [10, 11, 12]]
    assert written(stop=lambda ids: len(ids) if ids[-1] == 12 else None) == ((10, 11, 12), FinishReason.STOP, 3)
    with pytest.raises(ConfigError, match="stop_ids holds special tokens"):
        generate_autoregressive(UniformDenoiser(VOCAB), SPEC, (10,), SamplingParams(stop_ids=(SPECIAL.pad,)))
    with pytest.raises(ConfigError, match="stop_ids: token id 99"):
        written(stop_ids=(99,))
