"""In-place infill: holes of known and unknown length, caps, budgets, topology."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from quicksilver.decoding import (
    ConfidenceThreshold,
    FinishReason,
    FixedSteps,
    Frame,
    Hole,
    JointThreshold,
    Renoise,
    Resize,
    Result,
    SamplingParams,
    Text,
    final_result,
    infill,
)
from quicksilver.decoding.inplace import CHANGES_PER_TOKEN
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.errors import ConfigError, InputError
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, UniformDenoiser, fake_spec

VOCAB = 24
MASK, EXPAND, DELETE, CANVAS = SPECIAL.mask, SPECIAL.expand, SPECIAL.delete, SPECIAL.canvas
ONE_AT_A_TIME = ConfidenceThreshold(threshold=1.1)
ALL_AT_ONCE = ConfidenceThreshold(threshold=0.0)


class Always:
    """Likes the tokens of ``ranking`` best, in that order, everywhere; earlier positions a little more."""

    def __init__(self, *ranking: int) -> None:
        self.ranking = ranking

    def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
        logits = torch.zeros(token_ids.shape[0], VOCAB)
        for rank, token in enumerate(self.ranking):
            logits[:, token] = 10.0 - 2.0 * rank - 0.01 * torch.arange(token_ids.shape[0])
        return logits


class GrowTo:
    """Knows that ``length`` tokens 10, 11, ... belong between 20 and 21: what is too much is deleted from the end, what
    is missing is expanded there, as in training."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
        ids = token_ids.tolist()
        left, right = ids.index(20), ids.index(21)
        logits = torch.zeros(len(ids), VOCAB)
        for position in range(left + 1, right):
            offset = position - left - 1
            missing = self.length - (right - left - 1)
            want = 10 + offset
            if offset >= self.length - 2 * missing:
                want = EXPAND
            elif offset >= self.length:
                want = DELETE
            logits[position, want] = 20.0
        return logits


def fill(
    denoiser: object, *template: Text | Hole, policy: object = ALL_AT_ONCE, max_nfe: int | None = None
) -> tuple[Result, CountingDenoiser]:
    counting = CountingDenoiser(denoiser)
    params = SamplingParams(policy=policy, max_nfe=max_nfe)
    return final_result(infill(counting, fake_spec(), template, params)), counting


def text(*ids: int) -> Text:
    return Text(token_ids=ids)


def test_canvas_order_and_full_attention() -> None:
    result, denoiser = fill(Always(10), text(11, 12), Hole(length=2), text(13), Hole(length=1))
    assert denoiser.canvases == [[CANVAS, 11, 12, MASK, MASK, 13, MASK]]
    assert denoiser.block_ids == [[0] * 7]
    assert result.holes == ((10, 10), (10,))
    assert (result.nfe, result.tpf, result.finish_reason) == (1, 3.0, FinishReason.FILLED)


def test_a_known_length_never_changes() -> None:
    result, _ = fill(Always(EXPAND, DELETE, 10), text(11), Hole(length=5))
    assert result.holes == ((10,) * 5,)


@pytest.mark.parametrize("policy", [ONE_AT_A_TIME, ALL_AT_ONCE], ids=["one", "all"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 6])
def test_unknown_length_is_found(length: int, policy: ConfidenceThreshold) -> None:
    result, denoiser = fill(GrowTo(length), text(20), Hole(), text(21), policy=policy)
    assert result.holes == (tuple(range(10, 10 + length)),)
    # One forward for the length, none if it was right from the start.
    assert denoiser.num_calls == (length != 3) + (length if policy is ONE_AT_A_TIME else 1)


def test_a_hole_may_become_empty() -> None:
    result, denoiser = fill(GrowTo(0), text(20), Hole(), text(21))
    assert result.holes == ((),)
    assert (result.nfe, denoiser.num_calls, result.tpf) == (1, 1, 0.0)


def test_expand_stops_at_the_cap() -> None:
    for policy in (ONE_AT_A_TIME, ALL_AT_ONCE, FixedSteps(steps=4)):
        result, denoiser = fill(Always(EXPAND, 10), text(20), Hole(max_length=5), text(21), policy=policy)
        assert result.holes == ((10,) * 5,)
        assert max(len(canvas) for canvas in denoiser.canvases) == 5 + 3


def test_a_small_cap_limits_the_first_masks_too() -> None:
    _, denoiser = fill(Always(10), Hole(max_length=2))
    assert denoiser.canvases[0] == [CANVAS, MASK, MASK]


def test_oscillation_ends() -> None:
    class Swing:
        """Expands a hole of up to three positions, and wants all but two of a longer one deleted."""

        def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
            if token_ids.shape[0] <= 6:
                return Always(EXPAND, 10)(token_ids, block_ids)
            logits = Always(10)(token_ids, block_ids)
            logits[4:, DELETE] = 20.0
            return logits

    result, denoiser = fill(Swing(), text(20), Hole(max_length=6), text(21), policy=ONE_AT_A_TIME)
    changes = [entry for entry in result.trace if entry.token_id in (EXPAND, DELETE)]
    assert len(changes) == CHANGES_PER_TOKEN * 6
    assert denoiser.num_calls == len({entry.step for entry in changes}) + len(result.holes[0])
    assert set(result.holes[0]) == {10}
    assert result.finish_reason is FinishReason.FILLED


def test_two_holes_change_length_independently() -> None:
    result, _ = fill(Always(EXPAND, 10), Hole(max_length=4), text(20), Hole(length=2), text(21), Hole(max_length=3))
    assert [len(hole) for hole in result.holes] == [4, 2, 3]


def test_specials_and_eos_are_never_written() -> None:
    result, _ = fill(Always(SPECIAL.eos, MASK, SPECIAL.pad, 9, 10), text(11), Hole(length=3))
    assert result.holes == ((10, 10, 10),)


def test_max_nfe_fills_everything_and_says_so() -> None:
    result, denoiser = fill(Always(EXPAND, 10), text(11), Hole(), policy=ONE_AT_A_TIME, max_nfe=2)
    assert (denoiser.num_calls, result.finish_reason) == (2, FinishReason.MAX_NFE)
    assert result.holes == ((10,) * 6,)  # three masks, each expanded, then all at once


def test_the_text_may_hold_the_literal_mask_token() -> None:
    result, denoiser = fill(Always(10), text(MASK, 11, MASK), Hole(length=1))
    assert denoiser.canvases == [[CANVAS, MASK, 11, MASK, MASK]]
    assert [entry.position for entry in result.trace] == [4]


def test_trace_and_resizes_of_an_expand() -> None:
    params = SamplingParams(policy=ONE_AT_A_TIME)
    events = list(infill(GrowTo(4), fake_spec(), (text(20), Hole(), text(21)), params))
    assert [e for e in events if isinstance(e, Resize)] == [
        Resize(hole=0, start=0, added=3),
        Resize(hole=0, start=2, added=1),
    ]
    result = final_result(events)
    assert (result.trace[0].step, result.trace[0].position, result.trace[0].token_id) == (1, 4, EXPAND)
    frames = [event for event in events if isinstance(event, Frame)]
    assert [len(frame.token_ids) for frame in frames] == [7] * 5
    assert frames[0].hole == (-1, -1, 0, 0, 0, 0, -1)


def test_changes_of_one_step_are_reported_from_the_last_to_the_first() -> None:
    class MiddleFirst:
        """Writes 10 in the middle of three masks, then expands both its neighbours, then writes 11."""

        def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
            logits = torch.zeros(token_ids.shape[0], VOCAB)
            if 10 not in token_ids:
                logits[2, 10] = 20.0
            else:
                logits[:, EXPAND if token_ids.shape[0] == 4 else 11] = 20.0
            return logits

    events = list(infill(MiddleFirst(), fake_spec(), (Hole(),), SamplingParams()))
    assert [(event.start, event.added) for event in events if isinstance(event, Resize)] == [(0, 3), (2, 1), (0, 1)]
    assert final_result(events).holes == ((11, 11, 10, 11, 11),)


class LengthTail:
    """The first mask of a hole of four after 20 is a token for certain, the others are deleted at 0.9, 0.6, 0.3."""

    def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
        logits = torch.full((token_ids.shape[0], VOCAB), -50.0)
        logits[:, 10] = 0.0
        masks = (token_ids == MASK).nonzero()[:, 0].tolist()
        for position, chance in zip(masks[1:], (0.3, 0.6, 0.9), strict=False):
            logits[position, 10] = math.log(1 - chance)
            logits[position, DELETE] = math.log(chance)
        return logits


def test_the_median_length_is_taken() -> None:
    spec = replace(fake_spec(), decoding=replace(fake_spec().decoding, hole_length=4))
    result = final_result(infill(LengthTail(), spec, (text(20), Hole()), SamplingParams(policy=ALL_AT_ONCE)))
    assert len(result.holes[0]) == 2


def test_sampled_lengths_follow_their_distribution() -> None:
    spec = replace(fake_spec(), decoding=replace(fake_spec().decoding, hole_length=4))
    counts = [0] * 5
    for seed in range(400):
        params = SamplingParams(policy=ALL_AT_ONCE, temperature=1.0, seed=seed)
        counts[len(final_result(infill(LengthTail(), spec, (text(20), Hole()), params)).holes[0])] += 1
    # P(at most 1, 2, 3 tokens) = 0.3, 0.6, 0.9; four standard deviations of 400 draws are 0.1.
    for seen, chance in zip(counts, (0.0, 0.3, 0.3, 0.3, 0.1), strict=True):
        assert abs(seen / 400 - chance) < 0.1


class LengthHead:
    """Four masks after 20 expand at 0, 0.1, 0.4, 0.7, so there are at least 5, 6, 7 tokens at 0.7, 0.4, 0.1; more
    masks are tokens."""

    def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
        logits = torch.full((token_ids.shape[0], VOCAB), -50.0)
        logits[:, 10] = 0.0
        masks = (token_ids == MASK).nonzero()[:, 0].tolist()
        for position, chance in zip(masks if len(masks) == 4 else [], (0.0, 0.1, 0.4, 0.7), strict=False):
            logits[position, 10] = math.log(1 - chance)
            logits[position, EXPAND] = math.log(max(chance, 1e-20))
        return logits


def test_lengths_beyond_the_first_masks_follow_their_distribution_too() -> None:
    spec = replace(fake_spec(), decoding=replace(fake_spec().decoding, hole_length=4))
    template = (text(20), Hole(max_length=8))
    median = final_result(infill(LengthHead(), spec, template, SamplingParams(policy=ALL_AT_ONCE)))
    assert len(median.holes[0]) == 5
    counts = [0] * 4
    for seed in range(400):
        params = SamplingParams(policy=ALL_AT_ONCE, temperature=1.0, seed=seed)
        counts[len(final_result(infill(LengthHead(), spec, template, params)).holes[0]) - 4] += 1
    for seen, chance in zip(counts, (0.3, 0.3, 0.3, 0.1), strict=True):
        assert abs(seen / 400 - chance) < 0.1


def test_an_uncertain_length_lowers_confidence() -> None:
    spec = replace(fake_spec(), decoding=replace(fake_spec().decoding, hole_length=4))
    result = final_result(infill(LengthTail(), spec, (text(20), Hole()), SamplingParams(policy=ALL_AT_ONCE)))
    assert result.confidence[0] == pytest.approx((1.0, 0.7))


def test_revising_policies_work_in_holes() -> None:
    result, _ = fill(HashDenoiser(VOCAB, sharpness=12.0), text(11), Hole(), text(12), policy=JointThreshold())
    assert min(result.token_ids, default=10) >= 10
    params = SamplingParams(policy=Renoise(steps=4), vocab_size=VOCAB, temperature=1.0)
    holes = (text(11), Hole(length=3))
    assert len(final_result(infill(HashDenoiser(VOCAB), fake_spec(Objective.UNIFORM), holes, params)).token_ids) == 3


def test_one_hole_does_not_disturb_the_draws_of_another() -> None:
    params = SamplingParams(policy=ALL_AT_ONCE, temperature=1.0, seed=5)

    def second_hole(first_length: int) -> tuple[int, ...]:
        template = (Hole(length=first_length), text(11), Hole(length=4))
        return final_result(infill(UniformDenoiser(VOCAB), fake_spec(), template, params)).holes[1]

    assert second_hole(1) == second_hole(7)
    assert len(set(second_hole(1))) > 1


def test_what_cannot_be_done_is_an_error() -> None:
    params, denoiser = SamplingParams(), UniformDenoiser(VOCAB)
    with pytest.raises(InputError, match="no hole"):
        infill(denoiser, fake_spec(), (text(10),), params)
    with pytest.raises(InputError, match="not both"):
        Hole(length=3, max_length=4)
    with pytest.raises(InputError, match="length must be at least 1"):
        Hole(length=0)
    with pytest.raises(ConfigError, match="use infill_psm"):
        infill(denoiser, fake_spec(layouts=(Layout.BLOCK_CAUSAL,)), (Hole(),), params)
    with pytest.raises(ConfigError, match="give every hole its length"):
        infill(denoiser, fake_spec(has_length_noise=False), (Hole(length=2), Hole()), params)
    with pytest.raises(ConfigError, match="no max_tokens"):
        infill(denoiser, fake_spec(), (Hole(),), SamplingParams(max_tokens=4))
    with pytest.raises(ConfigError, match="no block_length"):
        infill(denoiser, fake_spec(), (Hole(),), SamplingParams(block_length=4))
    with pytest.raises(ConfigError, match="no stop_ids"):
        infill(denoiser, fake_spec(), (Hole(),), SamplingParams(stop_ids=(10,)))


def test_holes_of_known_length_need_no_length_training() -> None:
    spec = fake_spec(has_length_noise=False)
    params = SamplingParams(policy=ALL_AT_ONCE)
    assert final_result(infill(Always(10), spec, (Hole(length=2),), params)).holes == ((10, 10),)
