"""Holes that start with a draft: what stays, what is found anew, what is told."""

import pytest
import torch
from torch import Tensor

from quicksilver.decoding import (
    Commit,
    ConfidenceThreshold,
    Draft,
    Edit,
    Event,
    FinishReason,
    Frame,
    Hole,
    JointThreshold,
    Policy,
    Remask,
    Renoise,
    Resize,
    Result,
    SamplingParams,
    State,
    Text,
    TraceEntry,
    final_result,
    infill,
)
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, InputError
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, ScriptedDenoiser, UniformDenoiser, fake_spec

VOCAB = 24
MASK, CANVAS = SPECIAL.mask, SPECIAL.canvas
ALL_AT_ONCE = ConfidenceThreshold(threshold=0.0)
REVISING = JointThreshold(threshold=0.0, edit_threshold=0.9)


def scripted(*target: int, confidence: tuple[float, ...] = (0.95,)) -> CountingDenoiser:
    """Position 0 is the canvas token."""
    return CountingDenoiser(ScriptedDenoiser((0, *target), (0.1, *confidence), VOCAB))


def fill(
    denoiser: CountingDenoiser, *template: Text | Hole, policy: Policy = ALL_AT_ONCE, **options: object
) -> tuple[Result, list[Event]]:
    params = SamplingParams(policy=policy, **options)
    events = list(infill(denoiser, fake_spec(), template, params))
    assert sum(isinstance(event, Frame) for event in events) == denoiser.num_calls
    return final_result(events), [
        event for event in events if isinstance(event, Resize | Draft | Edit | Remask | Commit)
    ]


@pytest.mark.parametrize("policy", [ALL_AT_ONCE, REVISING], ids=["final", "revising"])
def test_a_confident_draft_takes_one_forward(policy: Policy) -> None:
    denoiser = scripted(10, 11, 12, confidence=(0.9, 0.8, 0.7))
    result, events = fill(denoiser, Hole(draft=(10, 11, 12)), policy=policy)
    assert denoiser.canvases == [[CANVAS, 10, 11, 12]]
    assert (result.holes, result.nfe, result.finish_reason) == (((10, 11, 12),), 1, FinishReason.FILLED)
    assert result.confidence[0] == pytest.approx((0.9, 0.8, 0.7), rel=0.2)  # the rest of the mass is partly forbidden
    assert result.step_committed == ((0, 0, 0),)
    assert result.trace == ()
    assert events == [
        Resize(hole=0, start=0, added=3),
        Draft(hole=0, start=0, token_ids=(10, 11, 12), confidence=(1.0, 1.0, 1.0)),
        Commit(hole=0, start=0, stop=3),
    ]


def test_what_is_unlikely_is_found_anew() -> None:
    denoiser = scripted(10, 11, 12)
    result, events = fill(denoiser, Hole(draft=(10, 20, 12)), Text(token_ids=(13,)))
    assert denoiser.canvases == [[CANVAS, 10, 20, 12, 13], [CANVAS, 10, MASK, 12, 13]]
    assert result.holes == ((10, 11, 12),)
    assert result.step_committed == ((0, 2, 0),)
    assert events[2:6] == [
        Remask(hole=0, start=1, stop=2),
        Commit(hole=0, start=0, stop=1),
        Commit(hole=0, start=2, stop=3),
        Draft(hole=0, start=1, token_ids=(11,), confidence=(result.confidence[0][1],)),
    ]
    assert result.trace[0] == TraceEntry(step=1, hole=0, position=2, token_id=MASK, confidence=0.0)
    assert [(entry.step, entry.position, entry.token_id) for entry in result.trace[1:]] == [(2, 2, 11)]


def test_the_threshold_is_of_the_drafted_token_itself() -> None:
    """Not of the best one: 10 is likeliest everywhere, but 11 has 0.4."""

    class Split:
        def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
            logits = torch.full((token_ids.shape[0], VOCAB), -50.0)
            logits[:, 10], logits[:, 11] = torch.tensor([0.6, 0.4]).log()
            return logits

    def filled(threshold: float) -> tuple[int, ...]:
        return fill(CountingDenoiser(Split()), Hole(draft=(10, 11, 12)), draft_threshold=threshold)[0].token_ids

    assert filled(0.5) == (10, 10, 10)
    assert filled(0.39) == (10, 11, 10)
    assert filled(0.0) == (10, 11, 12)


def test_frozen_tokens_stay_whatever_happens() -> None:
    denoiser = scripted(10, 11, 12)
    result, events = fill(denoiser, Hole(draft=(20, 21, 22), frozen=(True, False, True)), policy=REVISING)
    assert result.holes == ((20, 11, 22),)
    assert result.confidence[0][0] == result.confidence[0][2] == 1.0
    assert events[2:4] == [Commit(hole=0, start=0, stop=1), Commit(hole=0, start=2, stop=3)]
    assert not any(isinstance(event, Edit) for event in events)
    assert {entry.position for entry in result.trace} == {2}


def test_everything_frozen_needs_no_forward() -> None:
    denoiser = scripted(10)
    result, _ = fill(denoiser, Hole(draft=(20, 21), frozen=(True, True)))
    assert (result.holes, denoiser.num_calls, result.nfe) == (((20, 21),), 0, 0)
    assert result.finish_reason is FinishReason.FILLED


def test_only_policies_that_revise_may_edit_what_stayed() -> None:
    """Position 1 is doubtful and 20 there likely, until the mask at position 2 is gone."""

    class Turns:
        def __call__(self, token_ids: Tensor, block_ids: Tensor) -> Tensor:
            logits = torch.zeros(token_ids.shape[0], VOCAB)
            logits[1, 11 if int(token_ids[2]) == 12 else 20] = 10.0
            logits[2, 12] = 10.0
            return logits

    hole = Hole(draft=(20, 21))
    assert fill(CountingDenoiser(Turns()), hole, policy=ALL_AT_ONCE)[0].token_ids == (20, 12)
    revised, events = fill(CountingDenoiser(Turns()), hole, policy=REVISING)
    assert (revised.token_ids, revised.num_edits) == ((11, 12), 1)
    assert [type(event) for event in events] == [Resize, Draft, Remask, Draft, Edit, Commit]


def test_masks_of_other_holes_wait_for_the_first_look() -> None:
    denoiser = scripted(10, 11, 12, 13)
    result, _ = fill(denoiser, Hole(draft=(20,)), Hole(length=1), Text(token_ids=(12,)), Hole(draft=(13,)))
    assert denoiser.canvases == [[CANVAS, 20, MASK, 12, 13], [CANVAS, MASK, MASK, 12, 13]]
    assert result.holes == ((10,), (11,), (13,))


def test_a_hole_of_unknown_length_beside_a_draft() -> None:
    denoiser = scripted(10, 11, 12, 13)
    result, _ = fill(denoiser, Hole(draft=(10,)), Hole())
    assert result.holes == ((10,), (11, 12, 13))


@pytest.mark.parametrize(("draft", "reason"), [((20, 12), FinishReason.MAX_NFE), ((11, 12), FinishReason.FILLED)])
@pytest.mark.parametrize("policy", [ALL_AT_ONCE, Renoise()], ids=["final", "noise"])
def test_a_single_forward_keeps_the_draft(draft: tuple[int, ...], reason: FinishReason, policy: Policy) -> None:
    denoiser = scripted(11, 12)
    spec = fake_spec(Objective.UNIFORM if policy.starts_from_noise else Objective.MASK)
    params = SamplingParams(policy=policy, max_nfe=1, vocab_size=VOCAB)
    events = list(infill(denoiser, spec, (Hole(draft=draft),), params))
    result = final_result(events)
    assert (result.nfe, result.finish_reason) == (1, reason)
    if not policy.revises:
        assert result.token_ids == draft
        assert result.trace == ()
    assert result.token_ids[1] == 12
    assert events[-3] == Commit(hole=0, start=0, stop=2)


def test_a_single_forward_fills_the_masks_of_other_holes() -> None:
    denoiser = scripted(10, 11, 12)
    result, _ = fill(denoiser, Hole(draft=(20, 11)), Hole(length=1), max_nfe=1)
    assert (result.holes, result.finish_reason) == (((20, 11), (12,)), FinishReason.MAX_NFE)
    assert result.confidence[0][0] < 0.01


def test_max_nfe_of_two_suffices_to_mend() -> None:
    result, _ = fill(scripted(10, 11), Hole(draft=(20, 11)), max_nfe=2)
    assert (result.holes, result.finish_reason) == (((10, 11),), FinishReason.FILLED)


def test_adjustments_count_for_the_draft() -> None:
    """A token's own place counts like any other: three 10s take 3 from every 10."""
    hole = Hole(draft=(10, 10, 10))
    assert fill(scripted(10), hole)[0].nfe == 1
    assert fill(scripted(10, confidence=(0.4,)), hole, draft_threshold=0.3)[0].nfe == 1
    assert fill(scripted(10, confidence=(0.4,)), hole, draft_threshold=0.3, frequency_penalty=1.0)[0].nfe > 1


def test_forbidden_tokens_have_no_probability() -> None:
    assert fill(scripted(10), Hole(draft=(10,)), forbidden_ids=(10,))[0].token_ids != (10,)


def test_states_of_the_first_frame() -> None:
    params = SamplingParams(policy=REVISING)
    hole = Hole(draft=(10, 20, 21), frozen=(False, False, True))
    events = infill(HashDenoiser(VOCAB), fake_spec(), (hole,), params)
    first = next(event for event in events if isinstance(event, Frame))
    assert first.state[0] is State.PROMPT
    assert set(first.state[1:3]) <= {State.DRAFT, State.MASK}
    assert first.state[3] is State.FINAL


def test_what_cannot_be_is_an_error() -> None:
    with pytest.raises(InputError, match="leave out length and max_length"):
        Hole(draft=(10,), length=1)
    with pytest.raises(InputError, match="leave out length and max_length"):
        Hole(draft=(10,), max_length=4)
    with pytest.raises(InputError, match="draft must hold at least 1 token"):
        Hole(draft=())
    with pytest.raises(InputError, match="one mark per token: 2, got 1"):
        Hole(draft=(10, 11), frozen=(True,))
    with pytest.raises(InputError, match="there is no draft"):
        Hole(length=1, frozen=(True,))
    with pytest.raises(ConfigError, match=r"draft must not hold special tokens, got \[1, 2\]"):
        infill(UniformDenoiser(VOCAB), fake_spec(), (Hole(draft=(MASK, 10, SPECIAL.eos)),), SamplingParams())
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"draft_threshold must lie in \[0, 1\]"):
            SamplingParams(draft_threshold=bad)
