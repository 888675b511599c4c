"""A step over many rows equals the reference sampler's step over each row alone."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.params import SamplingParams
from quicksilver.decoding.policies import ConfidenceThreshold, Policy
from quicksilver.decoding.policy_names import POLICY_NAMES, make_policy
from quicksilver.decoding.sampler import BlockProgress, ReferenceRun
from quicksilver.decoding.selection import Candidates, select
from quicksilver.diffusion.spec import Objective
from quicksilver.engine.windows import RowStep, WindowState, take_step
from quicksilver.errors import ConfigError
from tests.fakes import SPECIAL, UniformDenoiser, fake_spec, random_window

WIDTH, VOCAB = 8, 14


def random_logits(seed: int, num_rows: int) -> torch.Tensor:
    return 5 * torch.randn(num_rows * WIDTH, VOCAB, generator=torch.Generator().manual_seed(seed))


def state_of(window) -> WindowState:
    """Any canvas; states PROMPT to FINAL occur."""
    return WindowState(
        token_ids=window.token_ids,
        state=window.state,
        confidence=window.commit_confidence.clone(),
        step_committed=window.num_edits + 1,
        num_edits=window.num_edits,
        positions=window.positions,
        previous_argmax=window.previous_argmax_ids,
    )


def reference(window, row: int, logits, policy: Policy, is_forced: bool):
    """The same row through the reference sampler."""
    objective = Objective.UNIFORM if policy.starts_from_noise else Objective.MASK
    params = SamplingParams(policy=policy, seed=int(window.seed[row]), vocab_size=VOCAB, temperature=0.0)
    run = ReferenceRun(UniformDenoiser(VOCAB), fake_spec(objective), params)
    run.ledger.nfe = 7
    canvas = Canvas(
        token_ids=window.token_ids[row],
        state=window.state[row],
        confidence=window.commit_confidence[row],
        step_committed=window.num_edits[row] + 1,
        num_edits=window.num_edits[row],
        hole=torch.zeros(WIDTH, dtype=torch.int64),
    )
    block = BlockProgress(
        max_steps=99,
        step=int(window.step[row]),
        num_masks=int(window.num_masks[row]),
        num_post_steps=int(window.num_post_steps[row]),
        previous_argmax=window.previous_argmax_ids[row][None],
    )
    is_open = canvas.is_masked | canvas.is_draft
    step = run.step(
        canvas,
        logits[row * WIDTH : (row + 1) * WIDTH][is_open],
        block,
        window=slice(0, WIDTH),
        is_open=is_open,
        positions=window.positions[row],
        is_forbidden=run.is_unwritten(VOCAB)[0][None],
        is_forced=is_forced,
    )
    after, _ = run.apply(canvas, step)
    return step, after, block


@pytest.mark.parametrize("name", POLICY_NAMES)
@given(st.integers(0, 2**20), st.integers(1, 4), st.booleans())
@settings(max_examples=25, deadline=None)
def test_each_row_is_decided_as_the_reference_decides_it(name, seed, num_rows, is_forced):
    window = random_window(seed, num_rows, WIDTH)
    policy = make_policy(name)
    logits, forbidden = random_logits(seed, num_rows), torch.arange(VOCAB)[None] < 10
    is_open = (window.state == State.MASK) | (window.state == State.DRAFT)
    rows = [
        RowStep(
            policy=policy,
            seed=int(window.seed[row]),
            step=int(window.step[row]),
            num_masks=int(window.num_masks[row]),
            num_post_steps=int(window.num_post_steps[row]),
            holds_ends=True,
            nfe=7,
            is_forced=is_forced,
            end_ids=frozenset({SPECIAL.eos}),
        )
        for row in range(num_rows)
    ]
    flat = is_open.flatten()
    count = int(flat.sum())
    per_row = is_open.sum(dim=1)
    candidates = select(
        logits[flat],
        is_forbidden=forbidden,
        temperature=torch.zeros(count),
        seed=window.seed.repeat_interleave(per_row),
        positions=window.positions[is_open],
        step=window.step.repeat_interleave(per_row),
    )
    outcome = take_step(state_of(window), is_open, [candidates], rows, SPECIAL)
    for row in range(num_rows):
        step, after, block = reference(window, row, logits, policy, is_forced)
        for mask in ("commit", "edit", "remask"):
            assert torch.equal(getattr(outcome, mask)[row], getattr(step, mask)), mask
        assert bool(outcome.is_settled[row]) == step.is_settled
        for field in ("token_ids", "state", "confidence", "step_committed", "num_edits"):
            assert torch.equal(getattr(outcome.after, field)[row], getattr(after, field)), field
        assert torch.equal(outcome.after.previous_argmax[row], block.previous_argmax[0])
        assert bool(outcome.had_masks[row]) == (block.num_post_steps == int(window.num_post_steps[row]))


class Idle(ConfidenceThreshold):
    """A policy that never commits."""

    @classmethod
    def decide_rows(cls, window, policies):
        decision = super().decide_rows(window, policies)
        return replace(decision, commit=torch.zeros_like(decision.commit))


@dataclass
class OneWindow:
    canvas: Canvas
    positions: torch.Tensor
    previous_argmax: torch.Tensor


def window_of(token_ids: list[int]) -> OneWindow:
    given = torch.tensor(token_ids)
    canvas = replace(Canvas.of_masks(len(token_ids), mask_id=SPECIAL.mask, hole=0), token_ids=given)
    return OneWindow(canvas, given + 100, given + 200)


def test_a_policy_without_progress_is_an_error():
    state = WindowState.stack([window_of([SPECIAL.mask] * WIDTH)])
    nothing = torch.zeros(WIDTH)
    candidates = Candidates(
        token_ids=nothing.long() + 11,
        argmax_ids=nothing.long() + 11,
        confidence=nothing,
        argmax_confidence=nothing,
        margin=nothing,
        entropy=nothing,
    )
    row = RowStep(
        policy=Idle(),
        seed=0,
        step=3,
        num_masks=WIDTH,
        num_post_steps=0,
        holds_ends=True,
        nfe=1,
        is_forced=False,
        end_ids=frozenset(),
    )
    with pytest.raises(ConfigError, match="Idle committed nothing at step 3"):
        take_step(state, state.state == State.MASK, [candidates], [row], SPECIAL)


def test_windows_of_one_width_are_stacked():
    state = WindowState.stack([window_of([1, 2, 3]), window_of([4, 5, 6])])
    assert state.token_ids.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert state.positions.tolist() == [[101, 102, 103], [104, 105, 106]]
    assert state.previous_argmax.tolist() == [[201, 202, 203], [204, 205, 206]]
    assert (state.state == State.MASK).all()
