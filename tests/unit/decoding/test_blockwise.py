"""Generation block by block: forwards, eos, limits, topology, prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from quicksilver.decoding import (
    Cache,
    Commit,
    ConfidenceThreshold,
    Decision,
    Edit,
    FinishReason,
    FixedSteps,
    Frame,
    JointThreshold,
    Policy,
    Renoise,
    Resize,
    Result,
    SamplingParams,
    State,
    Window,
    final_result,
    generate,
    infill_psm,
    psm_prompt,
)
from quicksilver.decoding.window import Decision as WindowDecision
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, InputError
from tests.fakes import SPECIAL, CountingDenoiser, HashDenoiser, ScriptedDenoiser, UniformDenoiser, fake_spec

VOCAB = 24
EOS = SPECIAL.eos


def run(
    denoiser: CountingDenoiser | HashDenoiser | ScriptedDenoiser | UniformDenoiser,
    prompt: tuple[int, ...],
    policy: Policy | None = None,
    max_tokens: int | None = 8,
    max_nfe: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> Result:
    params = SamplingParams(policy=policy, max_tokens=max_tokens, max_nfe=max_nfe, temperature=temperature, seed=seed)
    return final_result(generate(denoiser, fake_spec(), prompt, params))


def scripted(*target: int, confidence: tuple[float, ...] = (0.95,)) -> CountingDenoiser:
    return CountingDenoiser(ScriptedDenoiser(target, confidence, VOCAB))


def test_threshold_zero_takes_one_forward_per_block() -> None:
    denoiser = scripted(10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
    result = run(denoiser, (10, 11), ConfidenceThreshold(threshold=0.0))
    assert result.token_ids == (12, 13, 14, 15, 16, 17, 18, 19)
    assert (result.nfe, denoiser.num_calls, result.tpf) == (2, 2, 4.0)
    assert result.finish_reason is FinishReason.LENGTH
    assert result.step_committed == ((1, 1, 1, 1, 2, 2, 2, 2),)


def test_threshold_above_one_takes_one_forward_per_token() -> None:
    denoiser = scripted(*range(10, 20))
    result = run(denoiser, (10, 11), ConfidenceThreshold(threshold=1.1))
    assert (result.nfe, denoiser.num_calls, result.tpf) == (8, 8, 1.0)
    assert [entry.position for entry in result.trace] == list(range(2, 10))


def test_policy_defaults_to_the_checkpoint() -> None:
    result = run(scripted(*range(10, 20), confidence=(0.95, 0.95, 0.5)), (10, 11), policy=None)
    assert result.nfe == 8  # below the default threshold of 0.9: one at a time


def test_block_grid_starts_anew_at_the_response() -> None:
    denoiser = scripted(10)
    run(denoiser, (10, 10, 10, 10, 10), ConfidenceThreshold(threshold=0.0), max_tokens=8)
    assert denoiser.block_ids == [[0, 0, 0, 0, 1, 2, 2, 2, 2], [0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3]]


def test_committed_tokens_see_only_their_past_where_so_trained() -> None:
    denoiser = scripted(10)
    spec = replace(fake_spec(), has_causal_context=True)
    params = SamplingParams(policy=ConfidenceThreshold(threshold=0.0), max_tokens=8)
    final_result(generate(denoiser, spec, (10, 10, 10), params))
    assert denoiser.block_ids == [[0, 1, 2, 3, 3, 3, 3], [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]]


def test_empty_prompt() -> None:
    denoiser = scripted(10, 11, 12, 13)
    result = run(denoiser, (), ConfidenceThreshold(threshold=0.0), max_tokens=4)
    assert result.token_ids == (10, 11, 12, 13)
    assert denoiser.block_ids == [[0, 0, 0, 0]]


def test_stops_at_the_first_eos_though_later_positions_came_first() -> None:
    # Position 3 is the most confident and comes first, then 2; eos at 1 waits for 0.
    denoiser = scripted(10, EOS, 12, 13, confidence=(0.5, 0.7, 0.6, 0.8))
    result = run(denoiser, (), ConfidenceThreshold(threshold=1.1))
    assert result.holes == ((10,),)
    assert result.finish_reason is FinishReason.EOS
    assert result.nfe == 4
    assert [entry.position for entry in result.trace] == [3, 2, 0, 1]
    assert result.tpf == pytest.approx(1 / 4)


def test_an_earlier_eos_takes_over() -> None:
    denoiser = scripted(10, EOS, 12, EOS, confidence=(0.5, 0.7, 0.8, 0.9))
    assert run(denoiser, (), ConfidenceThreshold(threshold=1.1)).holes == ((10,),)


def test_max_tokens_cuts_inside_the_last_block() -> None:
    denoiser = scripted(*range(10, 20))
    result = run(denoiser, (), ConfidenceThreshold(threshold=0.0), max_tokens=6)
    assert result.token_ids == (10, 11, 12, 13, 14, 15)
    assert result.finish_reason is FinishReason.LENGTH
    assert len(denoiser.canvases[-1]) == 8  # the whole block is shown, its tail as masks
    assert denoiser.canvases[-1][4:] == [SPECIAL.mask] * 4
    assert {entry.position for entry in result.trace} == set(range(6))


def test_an_eos_beyond_max_tokens_does_not_count() -> None:
    result = run(scripted(10, 11, EOS), (), ConfidenceThreshold(threshold=0.0), max_tokens=2)
    assert (result.token_ids, result.finish_reason) == ((10, 11), FinishReason.LENGTH)


def test_max_nfe_commits_what_is_open_and_says_so() -> None:
    result = run(scripted(*range(10, 20)), (), ConfidenceThreshold(threshold=1.1), max_nfe=2)
    assert result.finish_reason is FinishReason.MAX_NFE
    assert (result.token_ids, result.nfe) == ((10, 11, 12, 13), 2)
    assert result.step_committed == ((1, 2, 2, 2),)


def test_max_nfe_that_suffices_changes_nothing() -> None:
    result = run(scripted(*range(10, 20)), (), ConfidenceThreshold(threshold=0.0), max_nfe=2)
    assert (result.finish_reason, result.nfe) == (FinishReason.LENGTH, 2)


def test_max_nfe_between_blocks_stops_there() -> None:
    result = run(scripted(*range(10, 20)), (), ConfidenceThreshold(threshold=0.0), max_nfe=1)
    assert (result.finish_reason, result.token_ids) == (FinishReason.MAX_NFE, (10, 11, 12, 13))


@pytest.mark.parametrize(("steps", "nfe"), [(1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_fixed_steps_shares_the_masks_out(steps: int, nfe: int) -> None:
    # Three steps for four masks: ceil(4 / 3) = 2, then 1, then 1.
    assert run(scripted(*range(10, 20)), (), FixedSteps(steps=steps), max_tokens=4).nfe == nfe


def test_uniform_logits_give_the_lowest_text_token() -> None:
    # Ids 2 to 9 and pad are forbidden; eos, 1, is the lowest allowed.
    assert run(UniformDenoiser(VOCAB), (), max_tokens=4).holes == ((),)


def test_the_prompt_may_hold_the_literal_mask_token() -> None:
    prompt = (10, SPECIAL.mask, 11)
    denoiser = CountingDenoiser(HashDenoiser(VOCAB))
    result = run(denoiser, prompt, temperature=1.0)
    assert all(canvas[:3] == list(prompt) for canvas in denoiser.canvases)
    assert not {entry.position for entry in result.trace} & {0, 1, 2}


def test_edits_mend_a_draft_and_stop() -> None:
    class Mender:
        """Writes 10 at masks; sees 12 where a 10 stands, and keeps a 12."""

        def __call__(self, token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(token_ids.shape[0], VOCAB)
            for position, token in enumerate(token_ids.tolist()):
                logits[position, 10 if token == SPECIAL.mask else 12] = 10.0
            return logits

    params = SamplingParams(policy=JointThreshold(), max_tokens=4)
    events = list(generate(Mender(), fake_spec(), (), params))
    result = final_result(events)
    assert result.holes == ((12, 12, 12, 12),)
    assert result.num_edits == 4
    assert result.nfe == 3  # fill, edit, a step that changes nothing
    assert [type(event) for event in events if isinstance(event, Edit | Commit)] == [Edit, Commit]


class Flipper:
    """Wants 11 where 10 stands and the other way round, for ever."""

    def __call__(self, token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(token_ids.shape[0], VOCAB)
        for position, token in enumerate(token_ids.tolist()):
            logits[position, 11 if token == 10 else 10] = 10.0
        return logits


def test_a_circle_of_edits_is_noticed() -> None:
    policy = JointThreshold(max_edits=1000, max_post_steps=1000)
    result = final_result(generate(Flipper(), fake_spec(), (), SamplingParams(policy=policy, max_tokens=4)))
    assert result.nfe == 3  # 10s, 11s, 10s again: seen before
    assert result.holes == ((10, 10, 10, 10),)


def test_edits_per_position_are_limited() -> None:
    # One position: with max_edits 1 it flips once, then a step changes nothing.
    policy = JointThreshold(max_edits=1, max_post_steps=1000)
    result = final_result(generate(Flipper(), fake_spec(), (), SamplingParams(policy=policy, max_tokens=1)))
    assert (result.nfe, result.num_edits, result.holes) == (3, 1, ((11,),))


def test_renoise_starts_from_noise_and_keeps_the_prompt() -> None:
    denoiser = CountingDenoiser(ScriptedDenoiser(range(10, 18), (0.9999,), VOCAB))
    params = SamplingParams(policy=Renoise(), max_tokens=4, vocab_size=VOCAB, temperature=0.5)
    result = final_result(generate(denoiser, fake_spec(Objective.UNIFORM), (20, 2), params))
    assert result.token_ids == (12, 13, 14, 15)
    assert result.nfe < 5
    first = denoiser.canvases[0]
    assert first[:2] == [20, 2]
    assert min(first[2:]) >= 10  # noise is drawn from text tokens only
    assert len(set(first[2:])) > 1


@dataclass(frozen=True)
class Idle(ConfidenceThreshold):
    """Breaks the contract: never commits."""

    @classmethod
    def decide_rows(cls, window: Window, policies: object) -> Decision:
        nothing = torch.zeros_like(window.is_masked)
        return WindowDecision(commit=nothing, edit=nothing, remask=nothing, is_settled=~nothing.any(dim=-1))


def test_a_policy_that_commits_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Idle committed nothing"):
        run(UniformDenoiser(VOCAB), (10,), Idle())


def test_frames_show_the_whole_canvas() -> None:
    params = SamplingParams(policy=ConfidenceThreshold(threshold=1.1), max_tokens=4)
    frames = [e for e in generate(scripted(*range(10, 20)), fake_spec(), (10, 11), params) if isinstance(e, Frame)]
    assert [frame.nfe for frame in frames] == [1, 2, 3, 4]
    assert frames[0].state == (State.PROMPT, State.PROMPT, State.FINAL, State.MASK, State.MASK, State.MASK)
    assert frames[0].token_ids[:3] == (10, 11, 12)
    assert frames[0].hole == (-1, -1, 0, 0, 0, 0)
    assert frames[0].is_prompt == (True, True, False, False, False, False)


def test_psm_puts_the_suffix_before_the_hole() -> None:
    spec = fake_spec()
    assert psm_prompt(spec, (10, 11), (12,)) == (5, 10, 11, 6, 12, 7)
    denoiser = scripted(0, 0, 0, 0, 0, 0, 13, 14, EOS)
    params = SamplingParams(policy=ConfidenceThreshold(threshold=0.0))
    result = final_result(infill_psm(denoiser, spec, (10, 11), (12,), params))
    assert result.holes == ((13, 14),)
    assert denoiser.canvases[0] == [5, 10, 11, 6, 12, 7, 2, 2, 2, 2]


def test_what_the_checkpoint_cannot_do_is_an_error() -> None:
    params = SamplingParams()
    with pytest.raises(ConfigError, match="use generate_autoregressive"):
        generate(UniformDenoiser(VOCAB), fake_spec(Objective.AUTOREGRESSIVE), (10,), params)
    with pytest.raises(ConfigError, match="cache dual is for holes in place"):
        generate(UniformDenoiser(VOCAB), fake_spec(), (10,), SamplingParams(cache=Cache.DUAL))
    with pytest.raises(ConfigError, match="needs Renoise, not ConfidenceThreshold"):
        generate(UniformDenoiser(VOCAB), fake_spec(Objective.UNIFORM), (10,), params)
    with pytest.raises(ConfigError, match="a policy that starts from masks, not Renoise"):
        generate(UniformDenoiser(VOCAB), fake_spec(), (10,), SamplingParams(policy=Renoise()))
    with pytest.raises(ConfigError, match="needs vocab_size"):
        generate(UniformDenoiser(VOCAB), fake_spec(Objective.UNIFORM), (10,), SamplingParams(policy=Renoise()))
    with pytest.raises(ConfigError, match="never saw wrong ones"):
        generate(UniformDenoiser(VOCAB), fake_spec(edit_rate=0.0), (10,), SamplingParams(policy=JointThreshold()))


def test_bad_logits_are_an_error() -> None:
    def short(token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(token_ids.shape[0] - 1, VOCAB)

    def broken(token_ids: torch.Tensor, block_ids: torch.Tensor) -> torch.Tensor:
        return torch.full((token_ids.shape[0], VOCAB), torch.nan)

    for denoiser, message in ((short, "as many rows"), (broken, "NaN")):
        with pytest.raises(InputError, match=message):
            final_result(generate(denoiser, fake_spec(), (10,), SamplingParams()))


def test_params_reject_bad_values() -> None:
    for bad in ({"temperature": -1.0}, {"seed": -1}, {"max_tokens": 0}, {"block_length": 0}, {"top_p": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            SamplingParams(**bad)
    with pytest.raises(ConfigError, match="token id 99 is outside the vocabulary of 24"):
        final_result(generate(UniformDenoiser(VOCAB), fake_spec(), (10,), SamplingParams(forbidden_ids=(99,))))


def stopped(denoiser: CountingDenoiser, threshold: float, max_tokens: int = 8, **options: object) -> Result:
    params = SamplingParams(policy=ConfidenceThreshold(threshold=threshold), max_tokens=max_tokens, **options)
    events = list(generate(denoiser, fake_spec(), (20,), params))
    result = final_result(events)
    length = sum(event.added for event in events if isinstance(event, Resize))
    assert length == len(result.token_ids)
    return result


def test_a_stop_id_ends_the_response_as_eos_does() -> None:
    # As in the test of eos above: 13 comes first, then the stop at offset 1, then 10; offset 2 stays void.
    denoiser = scripted(0, 10, 15, 12, 13, confidence=(0.1, 0.5, 0.7, 0.6, 0.8))
    result = stopped(denoiser, 1.1, stop_ids=(15,))
    assert (result.holes, result.finish_reason, result.nfe) == (((10,),), FinishReason.STOP, 3)


def test_the_first_of_several_ends_counts() -> None:
    denoiser = scripted(0, 10, 16, 15, EOS)
    assert stopped(denoiser, 0.0, stop_ids=(15, 16)).token_ids == (10,)
    result = stopped(scripted(0, 10, EOS, 15), 0.0, stop_ids=(15,))
    assert (result.token_ids, result.finish_reason) == ((10,), FinishReason.EOS)
    assert stopped(scripted(0, 10, EOS), 0.0, stop_ids=(EOS,)).finish_reason is FinishReason.EOS


def test_a_stop_id_of_the_prompt_or_beyond_max_tokens_does_not_count() -> None:
    result = stopped(scripted(0, 10, 11, 15), 0.0, max_tokens=2, stop_ids=(15, 20))
    assert (result.token_ids, result.finish_reason) == ((10, 11), FinishReason.LENGTH)


class Recorder:
    """A stop rule: ends before the first 15, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, token_ids: Sequence[int]) -> int | None:
        self.asked.append(list(token_ids))
        return token_ids.index(15) if 15 in token_ids else None


def test_the_stop_rule_is_asked_when_a_block_is_final() -> None:
    rule = Recorder()
    result = stopped(scripted(0, 10, 11, 12, 13, 14, 15, 16, 17), 1.1, max_tokens=12, stop=rule)
    assert rule.asked == [[10, 11, 12, 13], [10, 11, 12, 13, 14, 15, 16, 17]]
    assert (result.token_ids, result.finish_reason, result.nfe) == ((10, 11, 12, 13, 14), FinishReason.STOP, 8)


def test_the_stop_rule_sees_neither_eos_nor_what_is_void() -> None:
    rule = Recorder()
    result = stopped(scripted(0, 10, EOS, 15), 0.0, stop=rule)
    assert (rule.asked, result.finish_reason) == ([[10]], FinishReason.EOS)
    rule = Recorder()
    result = stopped(scripted(0, 10, 11, 15), 0.0, max_tokens=2, stop=rule)
    assert (rule.asked, result.finish_reason) == ([[10, 11]], FinishReason.LENGTH)


def test_the_stop_rule_goes_before_a_later_eos_and_may_cut_earlier_blocks() -> None:
    result = stopped(scripted(0, 10, 15, 12, EOS), 0.0, stop=Recorder())
    assert (result.token_ids, result.finish_reason) == ((10,), FinishReason.STOP)
    result = stopped(scripted(*range(9, 18)), 0.0, stop=lambda ids: 2 if len(ids) == 8 else None)
    assert result.token_ids == (10, 11)


def test_a_cut_by_max_nfe_is_told_first() -> None:
    result = stopped(scripted(0, 10, 15, 12, 13), 1.1, max_nfe=2, stop=Recorder(), stop_ids=(12,))
    assert (result.token_ids, result.finish_reason) == ((10,), FinishReason.MAX_NFE)


def test_stops_that_cannot_be_are_errors() -> None:
    denoiser = UniformDenoiser(VOCAB)
    with pytest.raises(ConfigError, match=r"stop_ids and forbidden_ids share \[15\]"):
        SamplingParams(stop_ids=(14, 15), forbidden_ids=(15,))
    with pytest.raises(ConfigError, match=r"stop_ids holds special tokens, which are never written: \[2\]"):
        generate(denoiser, fake_spec(), (10,), SamplingParams(stop_ids=(EOS, SPECIAL.mask)))
    with pytest.raises(ConfigError, match="stop_ids: token id 99 is outside the vocabulary of 24"):
        final_result(generate(denoiser, fake_spec(), (10,), SamplingParams(stop_ids=(99,))))
    with pytest.raises(ConfigError, match="stop must keep 0 to 4 tokens of as many, got 5"):
        stopped(scripted(*range(10, 20)), 0.0, stop=lambda ids: len(ids) + 1)
