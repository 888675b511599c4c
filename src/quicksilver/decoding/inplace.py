"""In-place infill: holes between given text, all denoised together under full attention.

A hole of unknown length changes its length while it is denoised: a mask that becomes ``expand`` turns into two masks, a
mask that becomes ``delete`` disappears. ``lengths`` says when. Such a step writes no token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.adjustments import adjust, canvas_adjustments
from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.draws import hole_position
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.ledger import Places, commits
from quicksilver.decoding.lengths import MEDIAN, HoleLength, length_changes, sampled_level, withheld_tokens
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


def infill(
    logits_fn: CanvasLogits, spec: DiffusionSpec, template: Sequence[Segment], params: SamplingParams
) -> Iterator[Event]:
    """Fill all holes of a template together; the last event is Done, with one entry per hole.

    The canvas is [canvas token] and the segments in order. Eos and all other special tokens are never written.

    Raises:
        InputError: the template has no hole.
        ConfigError: the checkpoint was not trained in place, or not on holes of unknown length, or cannot do what the
            policy does; or ``max_tokens``, ``block_length``, ``stop_ids`` or ``stop`` is given.
    """
    holes = [segment for segment in template if isinstance(segment, Hole)]
    if not holes:
        raise InputError("the template has no hole to fill")
    if Layout.IN_PLACE not in spec.layouts or spec.objective is Objective.AUTOREGRESSIVE:
        raise ConfigError("this checkpoint was not trained to fill holes in place; use infill_psm")
    for name in ("max_tokens", "block_length"):
        if getattr(params, name) is not None:
            raise ConfigError(f"in-place infill has no {name}; every hole has its own length")
    for name in ("stop_ids", "stop"):
        if getattr(params, name) not in ((), None):
            raise ConfigError(f"in-place infill has no {name}; a hole ends where the text after it begins")
    if any(hole.length is None for hole in holes):
        _require_length_training(spec)
    run = Run(logits_fn, spec, params)
    return _infill(run, template, [_initial_length(run, number, hole) for number, hole in enumerate(holes)])


def _require_length_training(spec: DiffusionSpec) -> None:
    has_tokens = spec.special.expand is not None and spec.special.delete is not None
    if not (has_tokens and spec.noise.has_length_noise) or spec.objective is Objective.UNIFORM:
        raise ConfigError("this checkpoint was not trained on holes of unknown length; give every hole its length")


def _initial_length(run: Run, number: int, hole: Hole) -> HoleLength:
    if hole.length is not None:
        return HoleLength(length=hole.length, cap=hole.length, changes_left=0)
    defaults = run.spec.decoding
    cap = defaults.max_hole_length if hole.max_length is None else hole.max_length
    return HoleLength(
        length=min(defaults.hole_length, cap),
        cap=cap,
        changes_left=CHANGES_PER_TOKEN * cap,
        level=sampled_level(run.params.seed, number) if run.temperature > 0 else MEDIAN,
    )


def _initial_canvas(spec: DiffusionSpec, template: Sequence[Segment], lengths: Sequence[HoleLength]) -> Canvas:
    parts = [] if spec.special.canvas is None else [Canvas.of_prompt([spec.special.canvas])]
    hole = 0
    for segment in template:
        if isinstance(segment, Text):
            parts.append(Canvas.of_prompt(segment.token_ids))
        else:
            parts.append(Canvas.of_masks(lengths[hole].length, mask_id=spec.special.mask, hole=hole))
            hole += 1
    return Canvas.join(parts)


def _infill(run: Run, template: Sequence[Segment], lengths: list[HoleLength]) -> Iterator[Event]:
    canvas = _initial_canvas(run.spec, template, lengths)
    yield from (Resize(hole=hole, start=0, added=entry.length) for hole, entry in enumerate(lengths))
    block = BlockProgress(max_steps=run.policy.max_steps(sum(entry.cap for entry in lengths)))
    is_finished = False
    while not is_finished:
        positions = hole_position(canvas.hole.clamp(min=0), canvas.offset)
        canvas = run.fill_noise(canvas, positions, block.step)
        is_forced = run.is_last_chance(block)
        is_open = canvas.is_masked | canvas.is_draft
        logits = run.look(canvas, torch.zeros(len(canvas), dtype=torch.int64), is_open)
        forbidden, withheld = _length_tokens(run, canvas, lengths, logits.shape[1])
        if not is_forced:
            change = _change_lengths(run, canvas, logits, forbidden, lengths)
            if bool(change.any()):
                # Tokens wait: the next forward sees the better length.
                yield from _resizes(canvas, change)
                canvas = canvas.take(torch.arange(len(canvas)).repeat_interleave(1 + change))
                is_finished = not bool((canvas.is_masked | canvas.is_draft).any())
                yield run.ledger.frame(canvas)
                continue
        step = run.step(
            canvas,
            logits,
            block,
            window=slice(0, len(canvas)),
            is_open=is_open,
            positions=positions,
            is_forbidden=forbidden,
            is_withheld=withheld,
            is_forced=is_forced,
        )
        canvas, events = run.apply(canvas, step)
        yield from events
        everywhere = torch.ones(len(canvas), dtype=torch.bool)
        is_finished = run.is_finished(canvas, everywhere, step, block) or is_forced
        if is_finished and run.policy.revises:
            yield from commits(canvas, canvas.is_draft)
            canvas = canvas.finalize(everywhere)
        yield run.ledger.frame(canvas)
    yield run.ledger.done(canvas, len(lengths), FinishReason.MAX_NFE if run.is_cut else FinishReason.FILLED)


def _length_tokens(
    run: Run, canvas: Canvas, lengths: Sequence[HoleLength], vocab_size: int
) -> tuple[Bool[Tensor, "N V"], Bool[Tensor, "N V"]]:
    """Forbidden and withheld tokens per open position: a length token that may yet come true is only withheld."""
    special = run.spec.special
    index = (canvas.is_masked | canvas.is_draft).nonzero()[:, 0]
    withheld = withheld_tokens(canvas.take(index), lengths, special.expand, special.delete, vocab_size)
    return run.is_forbidden(vocab_size) & ~withheld, withheld


def _change_lengths(
    run: Run,
    canvas: Canvas,
    logits: Float[Tensor, "N V"],
    is_forbidden: Bool[Tensor, "N V"],
    lengths: Sequence[HoleLength],
) -> Int[Tensor, " L"]:
    """The length changes of this step, traced; all zero where no hole may change."""
    special = run.spec.special
    if special.expand is None or special.delete is None or not any(entry.changes_left for entry in lengths):
        return torch.zeros(len(canvas), dtype=torch.int64)
    index = (canvas.is_masked | canvas.is_draft).nonzero()[:, 0]
    adjusted = adjust(logits.cpu(), canvas_adjustments(run.params, canvas, logits.shape[0]))
    probs = torch.softmax(adjusted.masked_fill(is_forbidden, -torch.inf), dim=-1)
    expand, delete = (
        torch.zeros(len(canvas)).scatter(0, index, probs[:, token]) for token in (special.expand, special.delete)
    )
    change = length_changes(canvas, expand, delete, lengths)
    run.ledger.record_resize(
        Places.of(canvas),
        (change != 0).tolist(),
        torch.where(change > 0, special.expand, special.delete).tolist(),
        torch.where(change > 0, expand, delete).tolist(),
    )
    return change


def _resizes(canvas: Canvas, change: Int[Tensor, " L"]) -> list[Event]:
    """From the last position to the first, so that each event's offset still holds when it is applied."""
    hole, offset = canvas.hole.tolist(), canvas.offset.tolist()
    return [
        Resize(hole=hole[position], start=offset[position], added=int(change[position]))
        for position in reversed(change.nonzero()[:, 0].tolist())
    ]
