"""In-place infill: holes between given text, all denoised together under full attention.

A hole of unknown length changes its length while it is denoised: a mask that becomes ``expand`` turns into two masks, a
mask that becomes ``delete`` disappears (DreamOn, Wu et al. 2025; research code of the same name). A cap on the length
and a budget of changes per hole end any oscillation between the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.draws import hole_position
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.ledger import Step, commits
from quicksilver.decoding.params import SamplingParams, forbidden_tokens, special_ids
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
    is_finished, is_cut = False, False
    while not is_finished:
        positions = hole_position(canvas.hole.clamp(min=0), canvas.offset)
        canvas = run.fill_noise(canvas, positions, block.step)
        is_forced = run.is_last_chance(block)
        is_open = canvas.is_masked | canvas.is_draft
        step = run.step(
            canvas,
            torch.zeros(len(canvas), dtype=torch.int64),
            block,
            window=slice(0, len(canvas)),
            is_open=is_open,
            positions=positions,
            forbid=lambda vocab_size: _forbidden(run, canvas, lengths, vocab_size, is_forced),  # noqa: B023
        )
        step, index, resizes = _change_lengths(run, canvas, step, lengths)
        canvas, events = run.apply(canvas, step)
        yield from [*events, *resizes]
        canvas = _masks_where_repeated(canvas.take(index), index, run.spec.special.mask)
        everywhere = torch.ones(len(canvas), dtype=torch.bool)
        is_content = run.is_finished(canvas, everywhere, step, block)
        is_finished, is_cut = is_content or is_forced, is_forced and not is_content
        if is_finished and run.policy.revises:
            yield from commits(canvas, canvas.is_draft)
            canvas = canvas.finalize(everywhere)
        yield run.ledger.frame(canvas)
    yield run.ledger.done(canvas, len(lengths), FinishReason.MAX_NFE if is_cut else FinishReason.FILLED)
