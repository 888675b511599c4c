"""Blocks on the prompt's grid and sub-blocks, seen from the canvases that the denoiser is shown."""

from dataclasses import replace

import pytest

from quicksilver.decoding import ConfidenceThreshold, JointThreshold, SamplingParams, final_result, generate
from quicksilver.decoding.grid import open_end, shared_with_prompt
from quicksilver.diffusion.spec import DecodingDefaults
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, ScriptedDenoiser, fake_spec

ABSOLUTE = replace(fake_spec(), has_absolute_grid=True)
ALL_AT_ONCE = ConfidenceThreshold(threshold=0.0)
MASK = SPECIAL.mask


@pytest.mark.parametrize(("num_prompt", "shared"), [(0, 0), (3, 3), (4, 0), (9, 1)])
def test_the_prompts_tail_is_in_the_first_block(num_prompt, shared):
    assert shared_with_prompt(ABSOLUTE, num_prompt, 4) == shared
    assert shared_with_prompt(fake_spec(), num_prompt, 4) == 0


def test_blocks_lie_on_the_prompts_grid():
    denoiser = CountingDenoiser(ScriptedDenoiser([20], [0.9], 61))
    result = final_result(generate(denoiser, ABSOLUTE, [11] * 6, SamplingParams(policy=ALL_AT_ONCE, max_tokens=6)))
    assert result.token_ids == (20,) * 6
    assert denoiser.block_ids == [[0] * 4 + [1] * 4, [0] * 4 + [1] * 4 + [2] * 4]
    assert denoiser.canvases[0] == [11] * 6 + [MASK] * 2


def test_a_token_of_the_prompt_in_the_first_block_neither_ends_it_nor_changes():
    prompt = [11, 12, 13, 14, SPECIAL.eos, MASK]
    policy = JointThreshold(edit_threshold=0.0, max_edits=None)
    result = final_result(
        generate(HashDenoiser(61), ABSOLUTE, prompt, SamplingParams(policy=policy, max_tokens=2, seed=3))
    )
    assert len(result.token_ids) == 2


@pytest.mark.parametrize(
    ("decoding", "first_mask", "end"),
    [
        (DecodingDefaults(), 0, None),
        (DecodingDefaults(sub_block_length=8), 0, 8),
        (DecodingDefaults(sub_block_length=8), 8, 16),
        (DecodingDefaults(sub_block_length=8, has_first_alone=True), 0, 1),
        (DecodingDefaults(sub_block_length=8, has_first_alone=True), 1, 8),
        (DecodingDefaults(has_first_alone=True), 0, 1),
        (DecodingDefaults(has_first_alone=True), 1, None),
    ],
)
def test_what_is_decided_together_with_the_first_mask(decoding, first_mask, end):
    assert open_end(decoding, first_mask) == end


def test_sub_blocks_are_filled_one_after_the_other():
    spec = replace(
        ABSOLUTE,
        prediction_shift=1,
        decoding=DecodingDefaults(sub_block_length=2, has_first_alone=True),
        block_length=6,
    )
    denoiser = CountingDenoiser(ScriptedDenoiser([20], [0.9], 61))
    result = final_result(generate(denoiser, spec, [11] * 6, SamplingParams(policy=ALL_AT_ONCE, max_tokens=6)))
    assert [canvas[6:] for canvas in denoiser.canvases] == [
        [MASK] * 6,
        [20] + [MASK] * 5,
        [20] * 2 + [MASK] * 4,
        [20] * 4 + [MASK] * 2,
    ]
    assert result.nfe == 4


def test_the_last_forward_allowed_fills_all_sub_blocks():
    spec = replace(fake_spec(), decoding=DecodingDefaults(sub_block_length=2))
    denoiser = ScriptedDenoiser([20], [0.9], 61)
    params = SamplingParams(policy=ALL_AT_ONCE, max_tokens=4, max_nfe=1)
    assert final_result(generate(denoiser, spec, [11], params)).token_ids == (20,) * 4
