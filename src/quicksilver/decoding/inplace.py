"""In-place infill: holes between given text, all denoised together under full attention.

A hole of unknown length changes its length while it is denoised: a mask that becomes ``expand`` turns into two masks, a
mask that becomes ``delete`` disappears (DreamOn, Wu et al. 2025; research code of the same name). A cap on the length
and a budget of changes per hole end any oscillation between the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.draws import hole_position
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.ledger import Step, commits
from quicksilver.decoding.params import SamplingParams
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.decoding.sampler import BlockProgress, Run
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, InputError

CHANGES_PER_TOKEN = 2
"""Length changes a hole may make, per token of its greatest length: enough to grow to the cap and shrink to nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Given tokens; never changed, even where they hold the literal mask token."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hole:
    """Tokens to be found."""

    length: int | None = None
    """Exact number of tokens; None: found by the model."""
    max_length: int | None = None
    """Cap of a hole of unknown length; None: the spec's ``max_hole_length``."""

    def __post_init__(self) -> None:
        if self.length is not None and self.max_length is not None:
            raise InputError("a hole has either a known length or a greatest length, not both")
        for name in ("length", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"a hole's {name} must be at least 1, got {value}")


Segment = Text | Hole


@dataclass(kw_only=True, slots=True)
class _HoleLength:
    """How far one hole may still change its length."""

    length: int
    cap: int
    changes_left: int

    @property
    def may_expand(self) -> bool:
        return self.changes_left > 0 and self.length < self.cap

    @property
    def may_delete(self) -> bool:
        return self.changes_left > 0

    def change(self, by: int) -> None:
        self.length += by
        self.changes_left -= 1


def infill(
    logits_fn: CanvasLogits, spec: DiffusionSpec, template: Sequence[Segment], params: SamplingParams
) -> Iterator[Event]:
    """Fill all holes of a template together; the last event is Done, with one entry per hole.

    The canvas is [canvas token] and the segments in order. Eos and all other special tokens are never written.

    Raises:
        InputError: the template has no hole.
        ConfigError: the checkpoint was not trained in place, or not on holes of unknown length, or cannot do what the
            policy does; or ``max_tokens`` or ``block_length`` is given.
    """
    holes = [segment for segment in template if isinstance(segment, Hole)]
    if not holes:
        raise InputError("the template has no hole to fill")
    if Layout.IN_PLACE not in spec.layouts or spec.objective is Objective.AUTOREGRESSIVE:
        raise ConfigError("this checkpoint was not trained to fill holes in place; use infill_psm")
    for name in ("max_tokens", "block_length"):
        if getattr(params, name) is not None:
            raise ConfigError(f"in-place infill has no {name}; every hole has its own length")
    if any(hole.length is None for hole in holes):
        _require_length_training(spec)
    return _infill(Run(logits_fn, spec, params), template, [_initial_length(spec, hole) for hole in holes])


def _require_length_training(spec: DiffusionSpec) -> None:
    has_tokens = spec.special.expand is not None and spec.special.delete is not None
    if not (has_tokens and spec.noise.has_length_noise) or spec.objective is Objective.UNIFORM:
        raise ConfigError("this checkpoint was not trained on holes of unknown length; give every hole its length")


def _initial_length(spec: DiffusionSpec, hole: Hole) -> _HoleLength:
    if hole.length is not None:
        return _HoleLength(length=hole.length, cap=hole.length, changes_left=0)
    cap = spec.decoding.max_hole_length if hole.max_length is None else hole.max_length
    return _HoleLength(length=min(spec.decoding.hole_length, cap), cap=cap, changes_left=CHANGES_PER_TOKEN * cap)


def _initial_canvas(spec: DiffusionSpec, template: Sequence[Segment], lengths: Sequence[_HoleLength]) -> Canvas:
    parts = [] if spec.special.canvas is None else [Canvas.of_prompt([spec.special.canvas])]
    hole = 0
    for segment in template:
        if isinstance(segment, Text):
            parts.append(Canvas.of_prompt(segment.token_ids))
        else:
            parts.append(Canvas.of_masks(lengths[hole].length, mask_id=spec.special.mask, hole=hole))
            hole += 1
    return Canvas.join(parts)


def _infill(run: Run, template: Sequence[Segment], lengths: list[_HoleLength]) -> Iterator[Event]:
    canvas = _initial_canvas(run.spec, template, lengths)
    yield from (Resize(hole=hole, start=0, added=entry.length) for hole, entry in enumerate(lengths))
    num_steps = run.policy.max_steps(sum(entry.cap for entry in lengths)) + sum(e.changes_left for e in lengths)
    block = BlockProgress(max_steps=num_steps)
    is_finished = False
    while not is_finished:
        positions = hole_position(canvas.hole.clamp(min=0), canvas.offset)
        canvas = run.fill_noise(canvas, positions, block.step)
        is_forced = run.is_last_chance(block)
        step = run.step(
            canvas,
            torch.zeros(len(canvas), dtype=torch.int64),
            block,
            window=slice(0, len(canvas)),
            is_open=canvas.is_masked | canvas.is_draft,
            positions=positions,
            forbid=partial(_forbidden, run, canvas, lengths, is_forced),
        )
        step, index, resizes = _change_lengths(run, canvas, step, lengths)
        canvas, events = run.apply(canvas, step)
        yield from [*events, *resizes]
        canvas = canvas.take(index)
        everywhere = torch.ones(len(canvas), dtype=torch.bool)
        is_finished = run.is_finished(canvas, everywhere, step, block) or is_forced
        if is_finished and run.policy.revises:
            yield from commits(canvas, canvas.is_draft)
            canvas = canvas.finalize(everywhere)
        yield run.ledger.frame(canvas)
    yield run.ledger.done(canvas, len(lengths), FinishReason.MAX_NFE if run.is_cut else FinishReason.FILLED)


def _forbidden(
    run: Run, canvas: Canvas, lengths: Sequence[_HoleLength], is_forced: bool, vocab_size: int
) -> Bool[Tensor, "N V"]:
    """Forbidden tokens per open position: all special ones, except a length change where the hole may still make it."""
    special = run.spec.special
    index = (canvas.is_masked | canvas.is_draft).nonzero()[:, 0]
    is_forbidden = run.is_forbidden(vocab_size).repeat(index.shape[0], 1)
    if is_forced:
        return is_forbidden
    hole, is_masked = canvas.hole[index], canvas.is_masked[index]
    for number, entry in enumerate(lengths):
        here = is_masked & (hole == number)
        if special.expand is not None and entry.may_expand:
            is_forbidden[here, special.expand] = False
        if special.delete is not None and entry.may_delete:
            is_forbidden[here, special.delete] = False
    return is_forbidden


def _change_lengths(
    run: Run, canvas: Canvas, step: Step, lengths: Sequence[_HoleLength]
) -> tuple[Step, Int[Tensor, " M"], list[Event]]:
    """Take the length changes out of a step.

    Returns:
        The step without them; the canvas positions to keep, an expanded one twice; the events, from the last position
        to the first, so that each one's offset still holds when it is applied. Changes beyond a hole's limits are
        dropped from the last position on: those positions stay masks.
    """
    token_ids, hole, offset = step.token_ids, canvas.hole, canvas.offset
    is_expand = step.commit & (token_ids == run.spec.special.expand)
    is_delete = step.commit & (token_ids == run.spec.special.delete)
    repeats = torch.ones(len(canvas), dtype=torch.int64)
    events: list[Event] = []
    for position in (is_expand | is_delete).nonzero()[:, 0].tolist():
        entry = lengths[int(hole[position])]
        if not (entry.may_expand if is_expand[position] else entry.may_delete):
            continue
        by = 1 if is_expand[position] else -1
        entry.change(by)
        repeats[position] += by
        events.append(Resize(hole=int(hole[position]), start=int(offset[position]), added=by))
    run.ledger.record_resize(canvas, repeats != 1, step)
    kept = replace(step, commit=step.commit & ~is_expand & ~is_delete)
    return kept, torch.arange(len(canvas)).repeat_interleave(repeats), events[::-1]
