"""One denoising step of many windows.

What ``decoding.sampler`` does to one canvas, this does to many at once: the same candidates, the same policies, the
same order of operations, so that every request gets the tokens it would get alone.

Legend: B windows, W columns, N open positions among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.constrained import ConstrainedRows, decide_jointly
from quicksilver.decoding.ends import hold_ends
from quicksilver.decoding.policies import Policy, decide
from quicksilver.decoding.revision_rules import take_argmax
from quicksilver.decoding.selection import Candidates
from quicksilver.decoding.window import Decision, Window
from quicksilver.diffusion.spec import SpecialIds
from quicksilver.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class WindowState:
    """What stands in the windows. All tensors are [B, W]."""

    token_ids: Int[Tensor, "B W"]
    state: Int[Tensor, "B W"]
    confidence: Float[Tensor, "B W"]
    step_committed: Int[Tensor, "B W"]
    num_edits: Int[Tensor, "B W"]
    positions: Int[Tensor, "B W"]
    """Random-number positions, see ``decoding.draws``."""
    previous_argmax: Int[Tensor, "B W"]
    """-1 before the first step of a block."""

    @classmethod
    def stack(cls, windows: "Sequence[HasWindow]") -> "WindowState":
        """The rows of requests whose windows are equally wide."""
        return cls(
            token_ids=_stacked([each.canvas.token_ids for each in windows]),
            state=_stacked([each.canvas.state for each in windows]),
            confidence=_stacked([each.canvas.confidence for each in windows]),
            step_committed=_stacked([each.canvas.step_committed for each in windows]),
            num_edits=_stacked([each.canvas.num_edits for each in windows]),
            positions=_stacked([each.positions for each in windows]),
            previous_argmax=_stacked([each.previous_argmax for each in windows]),
        )


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """One row is not copied; nothing here writes into a window."""
    return rows[0][None] if len(rows) == 1 else torch.stack(list(rows))


@runtime_checkable
class HasWindow(Protocol):
    """What a step reads of one request."""

    canvas: Canvas
    positions: Tensor

    @property
    def previous_argmax(self) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RowStep:
    """What one row brings to a step beside its tensors."""

    policy: Policy
    seed: int
    step: int
    """Denoising step within the block, from 0."""
    num_masks: int
    """As the block's first step began."""
    num_post_steps: int
    holds_ends: bool
    """See ``decoding.ends``."""
    nfe: int
    """Forwards of the request, this one included."""
    is_forced: bool
    """All masks must be committed now."""
    end_ids: frozenset[int]
    """Tokens that end a response: a forced step does not edit them away, since nothing is written behind them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutcome:
    """What a step did, [B, W] and [B]."""

    after: WindowState
    commit: Bool[Tensor, "B W"]
    edit: Bool[Tensor, "B W"]
    remask: Bool[Tensor, "B W"]
    is_settled: Bool[Tensor, " B"]
    had_masks: Bool[Tensor, " B"]
    is_complete: Bool[Tensor, " B"]
    """The policy itself committed every mask and was settled."""
    parts: Sequence[Candidates]
    """What the rows' tokens were chosen from."""


def take_step(
    before: WindowState,
    is_open: Bool[Tensor, "B W"],
    parts: Sequence[Candidates],
    rows: Sequence[RowStep],
    special: SpecialIds,
    joint: Sequence[ConstrainedRows | None] | None = None,
) -> StepOutcome:
    """Decide and write one step of every row.

    Args:
        before: the rows that take part.
        is_open: masks and drafts that the step may touch; a block's positions behind its eos are void.
        parts: of every row, one candidate per open position.
        rows: policy, seed and counters of every row.
        special: the mask, which a remasked position holds, and eos.
        joint: of every row, what else its constraint may choose; None: no row has a constraint.

    Raises:
        ConfigError: a policy committed nothing although there are masks.
    """

    def decide_with(parts: Sequence[Candidates]) -> tuple[Window, Decision, _Rest]:
        candidates = parts[0] if len(parts) == 1 else Candidates.join(parts)
        return _decide(before, is_open, candidates, rows, special)

    columns = [row.nonzero()[:, 0].tolist() for row in is_open] if joint else ()
    seen, decision, rest, parts = decide_jointly(parts, joint or (), columns, decide_with)
    argmax_confidence, had_masks, is_complete = rest
    return StepOutcome(
        after=_apply(before, seen, decision, rows, special.mask, argmax_confidence),
        commit=decision.commit,
        edit=decision.edit,
        remask=decision.remask,
        is_settled=decision.is_settled,
        had_masks=had_masks,
        is_complete=is_complete,
        parts=parts,
    )


_Rest = tuple[Float[Tensor, "B W"], Bool[Tensor, " B"], Bool[Tensor, " B"]]
"""Probabilities of the argmax tokens; which rows had masks; which the policy itself has completed."""


def _decide(
    before: WindowState, is_open: Tensor, candidates: Candidates, rows: Sequence[RowStep], special: SpecialIds
) -> tuple[Window, Decision, _Rest]:
    seen, argmax_confidence = _window(before, is_open, candidates, rows)
    decision = decide(hold_ends(seen, special.eos), [row.policy for row in rows])
    had_masks = seen.is_masked.any(dim=-1)
    # All rows are of one checkpoint, so all start from noise or none does.
    if not rows[0].policy.starts_from_noise:
        _require_progress(had_masks & ~decision.commit.any(dim=-1), rows)
    is_complete = (decision.commit == seen.is_masked).all(dim=-1) & decision.is_settled
    if any(row.is_forced for row in rows):
        decision = _forced(decision, seen, rows)
    return seen, decision, (argmax_confidence, had_masks, is_complete)


def _window(
    state: WindowState, is_open: Tensor, candidates: Candidates, rows: Sequence[RowStep]
) -> tuple[Window, Float[Tensor, "B W"]]:
    """The policies' view, and the probabilities of the argmax tokens, which they do not need.

    Positions that are not open appear as PROMPT with nothing proposed.
    """
    where = is_open.flatten().nonzero()[:, 0]

    def place(*values: Tensor) -> Sequence[Tensor]:
        """All of one dtype at once: a step of a small model is short beside so many small operators."""
        placed = torch.zeros(len(values), is_open.numel(), dtype=values[0].dtype, device=is_open.device)
        placed[:, where] = torch.stack(values)
        return placed.unflatten(-1, is_open.shape).unbind()

    def numbers(values: list[int]) -> Tensor:
        return torch.tensor(values, device=is_open.device)

    candidate_ids, argmax_ids = place(candidates.token_ids, candidates.argmax_ids)
    confidence, argmax_confidence, margin, entropy = place(
        candidates.confidence, candidates.argmax_confidence, candidates.margin, candidates.entropy
    )
    window = Window(
        token_ids=state.token_ids,
        state=state.state.masked_fill(~is_open, int(State.PROMPT)),
        candidate_ids=candidate_ids,
        argmax_ids=argmax_ids,
        previous_argmax_ids=state.previous_argmax,
        confidence=confidence,
        margin=margin,
        entropy=entropy,
        commit_confidence=state.confidence,
        num_edits=state.num_edits,
        positions=state.positions,
        seed=numbers([row.seed for row in rows]),
        step=numbers([row.step for row in rows]),
        num_masks=numbers([row.num_masks for row in rows]),
        num_post_steps=numbers([row.num_post_steps for row in rows]),
        holds_ends=torch.tensor([row.holds_ends for row in rows], device=is_open.device),
    )
    return window, argmax_confidence


def _require_progress(is_stuck: Bool[Tensor, " B"], rows: Sequence[RowStep]) -> None:
    if bool(is_stuck.any()):
        row = rows[int(is_stuck.nonzero()[0])]
        raise ConfigError(f"policy {type(row.policy).__name__} committed nothing at step {row.step}")


def _forced(decision: Decision, seen: Window, rows: Sequence[RowStep]) -> Decision:
    """Rows that must end commit all their masks, remask nothing and keep their ends."""
    device = seen.token_ids.device
    is_forced = torch.tensor([row.is_forced for row in rows], device=device)
    if rows[0].policy.starts_from_noise:
        return take_argmax(decision, seen, is_forced)
    ends = [
        torch.isin(ids, torch.tensor(sorted(row.end_ids), device=device))
        for ids, row in zip(seen.token_ids, rows, strict=True)
    ]
    return Decision(
        commit=torch.where(is_forced[:, None], seen.is_masked, decision.commit),
        edit=decision.edit & ~(is_forced[:, None] & torch.stack(ends)),
        remask=decision.remask & ~is_forced[:, None],
        is_settled=decision.is_settled | is_forced,
        takes_argmax=decision.takes_argmax,
    )


def _apply(
    before: WindowState,
    seen: Window,
    decision: Decision,
    rows: Sequence[RowStep],
    mask_id: int,
    argmax_confidence: Float[Tensor, "B W"],
) -> WindowState:
    """Commits, then edits, then remasks, as ``Canvas`` does them."""
    written = decision.commit | decision.edit
    states = [int(State.DRAFT if row.policy.revises else State.FINAL) for row in rows]
    after = torch.tensor(states, dtype=torch.int8, device=written.device)[:, None].expand_as(before.state)
    nfe = torch.tensor([row.nfe for row in rows], device=written.device)[:, None]
    state = torch.where(decision.commit, after, before.state)
    token_ids = decision.written(seen.candidate_ids, seen.argmax_ids)
    confidence = decision.written(seen.confidence, argmax_confidence)
    changed = WindowState(
        token_ids=torch.where(written, token_ids, before.token_ids),
        state=state,
        confidence=torch.where(written, confidence, before.confidence),
        step_committed=torch.where(written, nfe, before.step_committed),
        num_edits=before.num_edits,
        positions=before.positions,
        previous_argmax=seen.argmax_ids,
    )
    if not any(row.policy.revises for row in rows):
        return changed
    return replace(
        changed,
        token_ids=changed.token_ids.masked_fill(decision.remask, mask_id),
        state=state.masked_fill(decision.edit, int(State.DRAFT)).masked_fill(decision.remask, int(State.MASK)),
        confidence=changed.confidence.masked_fill(decision.remask, 0.0),
        step_committed=changed.step_committed.masked_fill(decision.remask, 0),
        num_edits=before.num_edits + (decision.edit | decision.remask),
    )
