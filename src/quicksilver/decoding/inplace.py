"""In-place infill: holes between given text, all denoised together under full attention.

A hole of unknown length changes its length while it is denoised: a mask that becomes ``expand`` turns into two masks, a
mask that becomes ``delete`` disappears. ``lengths`` says when. Such a step writes no token.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.lattice import NO_TOKEN, Lattice
from quicksilver.decoding.adjustments import adjust, canvas_adjustments
from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.constrained_holes import (
    constrained_changes,
    fitting_length,
    hole_lattice,
    require_text,
    unfit_drafts,
)
from quicksilver.decoding.draws import hole_position
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.ledger import Places, commits
from quicksilver.decoding.lengths import (
    MEDIAN,
    HoleLength,
    LengthRule,
    chosen_changes,
    sampled_level,
    withheld_tokens,
)
from quicksilver.decoding.params import SamplingParams, forbidden_tokens, special_ids
from quicksilver.decoding.policies import SelfSpeculative
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.decoding.regions import hole_regions
from quicksilver.decoding.sampler import BlockProgress, ReferenceRun, Run
from quicksilver.decoding.selection import likeliest_tokens, token_probability
from quicksilver.decoding.stops import drop_behind_stops, drop_stops
from quicksilver.decoding.warm_start import draft_events, drafted_hole, judge_draft, keep_draft, weak_marks
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
    draft: tuple[int, ...] | None = None
    """Tokens to start with instead of masks; as many is the hole's length."""
    frozen: tuple[bool, ...] | None = None
    """Which tokens of ``draft`` stay whatever happens. None: none."""
    constraint: TokenAutomaton | None = None
    """What the hole must hold, as a whole and without eos, see ``constrained_holes``. A hole of unknown length takes
    only lengths that the constraint has; of a draft, tokens that do not fit become masks."""

    def __post_init__(self) -> None:
        self._check_draft()
        if self.length is not None and self.max_length is not None:
            raise InputError("a hole has either a known length or a greatest length, not both")
        for name in ("length", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"a hole's {name} must be at least 1, got {value}")

    def _check_draft(self) -> None:
        if self.draft is None:
            if self.frozen is not None:
                raise InputError("a hole's frozen marks tokens of its draft, but there is no draft")
            return
        if self.length is not None or self.max_length is not None:
            raise InputError("a hole with a draft has the draft's length; leave out length and max_length")
        if not self.draft:
            raise InputError("a hole's draft must hold at least 1 token, got none; leave it out")
        if self.frozen is not None and len(self.frozen) != len(self.draft):
            raise InputError(f"a hole's frozen needs one mark per token: {len(self.draft)}, got {len(self.frozen)}")

    @property
    def known_length(self) -> int | None:
        """Exact number of tokens, by ``length`` or by ``draft``; None: found by the model."""
        return self.length if self.draft is None else len(self.draft)


Segment = Text | Hole


def infill(
    logits_fn: CanvasLogits, spec: DiffusionSpec, template: Sequence[Segment], params: SamplingParams
) -> Iterator[Event]:
    """Fill all holes of a template together; the last event is Done, with one entry per hole.

    The canvas is [canvas token] and the segments in order. Eos and all other special tokens are never written.

    Where a hole has a draft, the first forward only looks: drafted tokens below ``draft_threshold`` become masks, the
    others stay, final at once unless the policy revises. If there is no mask then, that is all. Where ``max_nfe`` is 1
    no token becomes a mask, since none could be filled: the draft stays (a policy that edits may edit it), and the
    masks of other holes are filled at once.

    A stop ends the hole it is in; see ``stops``. Where a hole has a constraint there is none: the hole ends with it.

    Raises:
        InputError: the template has no hole.
        ConfigError: the checkpoint was not trained in place, or not on holes of unknown length, or cannot do what the
            policy does; or ``max_tokens``, ``block_length`` or ``stop_ids`` is given; or a draft holds a special token;
            or a hole's constraint cannot be met.
    """
    check_infill(spec, template, params)
    return _infill(ReferenceRun(logits_fn, spec, params), template)


def check_infill(spec: DiffusionSpec, template: Sequence[Segment], params: SamplingParams) -> None:
    """Raise what ``infill`` raises for a template, a checkpoint and options that do not go together."""
    holes = [segment for segment in template if isinstance(segment, Hole)]
    if not holes:
        raise InputError("the template has no hole to fill")
    if Layout.IN_PLACE not in spec.layouts or spec.objective is Objective.AUTOREGRESSIVE:
        raise ConfigError("this checkpoint was not trained to fill holes in place; use infill_psm")
    _require_no_order(params)
    for hole in holes:
        special = sorted(set(hole.draft or ()) & special_ids(spec))
        if special:
            raise ConfigError(f"a hole's draft must not hold special tokens, got {special}")
    if any(hole.known_length is None for hole in holes):
        _require_length_training(spec)
    _check_constraints(spec, holes, params)


def _check_constraints(spec: DiffusionSpec, holes: Sequence[Hole], params: SamplingParams) -> None:
    if params.constraint is not None:
        raise ConfigError("in-place infill has no constraint of its own; every hole has one, or none")
    constrained = [hole for hole in holes if hole.constraint is not None]
    if constrained and params.stop is not None:
        raise ConfigError("a stop would cut a hole whose constraint says where it ends; leave one of them out")
    is_competing = LengthRule(spec.decoding.lengths) is LengthRule.COMPETING
    if is_competing and any(hole.known_length is None for hole in constrained):
        raise ConfigError(
            "this checkpoint finds lengths token by token (rule competing), which a constraint cannot follow; give "
            "every hole that has a constraint its length"
        )


def _require_no_order(params: SamplingParams) -> None:
    """Options that go along a text from left to right have no meaning in place."""
    if isinstance(params.policy, SelfSpeculative):
        raise ConfigError("policy self_speculative continues prompts; holes in place have no order to check")
    for name in ("max_tokens", "block_length"):
        if getattr(params, name) is not None:
            raise ConfigError(f"in-place infill has no {name}; every hole has its own length")
    if params.stop_ids:
        raise ConfigError("in-place infill has no stop_ids; a stop rule ends a hole")


def _require_length_training(spec: DiffusionSpec) -> None:
    has_tokens = spec.special.expand is not None and spec.special.delete is not None
    if not (has_tokens and spec.noise.has_length_noise) or spec.objective is Objective.UNIFORM:
        raise ConfigError("this checkpoint was not trained on holes of unknown length; give every hole its length")


def hole_lattices(run: Run, holes: Sequence[Hole]) -> tuple[Lattice | None, ...]:
    """The constraint of every hole; None where a hole has none."""
    never = frozenset.union(*run.unwritten_ids())
    return tuple(hole_lattice(hole.constraint, run.spec, never) for hole in holes)


def initial_length(run: Run, number: int, hole: Hole, lattice: Lattice | None) -> HoleLength:
    """What the hole of that number starts with, and how far its length may change.

    Raises:
        ConfigError: its constraint has no text of such a length.
    """
    if hole.known_length is not None:
        if lattice is not None:
            frozen = hole.frozen or (False,) * hole.known_length
            given = hole.draft or (NO_TOKEN,) * hole.known_length
            kept = [token if stays else NO_TOKEN for token, stays in zip(given, frozen, strict=True)]
            require_text(lattice, number, kept)
        return HoleLength(length=hole.known_length, cap=hole.known_length, changes_left=0)
    defaults = run.spec.decoding
    cap = defaults.max_hole_length if hole.max_length is None else hole.max_length
    length = min(defaults.hole_length, cap)
    return HoleLength(
        length=length if lattice is None else fitting_length(lattice, number, length, cap),
        cap=cap,
        changes_left=CHANGES_PER_TOKEN * cap,
        level=sampled_level(run.params.seed, number) if run.temperature > 0 else MEDIAN,
        margin=defaults.length_margin,
    )


def initial_canvas(spec: DiffusionSpec, template: Sequence[Segment], lengths: Sequence[HoleLength]) -> Canvas:
    """The canvas before the first forward: text, masks and drafts."""
    parts = [] if spec.special.canvas is None else [Canvas.of_prompt([spec.special.canvas])]
    hole = 0
    for segment in template:
        if isinstance(segment, Text):
            parts.append(Canvas.of_prompt(segment.token_ids))
        else:
            parts.append(_initial_hole(spec, segment, lengths[hole].length, hole))
            hole += 1
    return Canvas.join(parts)


def _initial_hole(spec: DiffusionSpec, segment: Hole, length: int, hole: int) -> Canvas:
    if segment.draft is None:
        return Canvas.of_masks(length, mask_id=spec.special.mask, hole=hole)
    return drafted_hole(segment.draft, segment.frozen or (False,) * length, hole=hole)


def _infill(run: ReferenceRun, template: Sequence[Segment]) -> Iterator[Event]:
    holes = [segment for segment in template if isinstance(segment, Hole)]
    lattices = hole_lattices(run, holes)
    lengths = [initial_length(run, *each) for each in zip(range(len(holes)), holes, lattices, strict=True)]
    return _fill(run, template, lengths, lattices)


def _fill(
    run: ReferenceRun, template: Sequence[Segment], lengths: list[HoleLength], lattices: Sequence[Lattice | None]
) -> Iterator[Event]:
    canvas = initial_canvas(run.spec, template, lengths)
    yield from (Resize(hole=hole, start=0, added=entry.length) for hole, entry in enumerate(lengths))
    yield from draft_events(canvas)
    block = BlockProgress(max_steps=most_steps(run, lengths))
    if bool(canvas.is_draft.any()):
        canvas = yield from _review(run, canvas, lengths, lattices, block)
    while bool(_open_positions(canvas).any()):
        is_forced = run.is_last_chance(block)
        look = _look(run, canvas, lengths, block)
        if not (is_forced or run.lengths_compete):
            change = _change_lengths(run, look, lengths, lattices)
            if bool(change.any()):
                # Tokens wait: the next forward sees the better length.
                yield from resizes(look.canvas, change)
                run.drop_kept_rows()
                canvas = look.canvas.take(torch.arange(len(canvas)).repeat_interleave(1 + change))
                yield run.ledger.frame(canvas)
                continue
        canvas = yield from _step(run, look, lengths, lattices, block, is_forced=is_forced)
    canvas, ends = drop_stops(canvas, run.params.stop, len(lengths))
    yield from ends
    reason = FinishReason.STOP if ends else FinishReason.FILLED
    yield run.ledger.done(canvas, len(lengths), FinishReason.MAX_NFE if run.is_cut else reason)


def most_steps(run: Run, lengths: Sequence[HoleLength]) -> int:
    """Steps after which the holes are filled for certain."""
    changes = sum(entry.changes_left for entry in lengths) if run.lengths_compete else 0
    return run.policy.max_steps(sum(entry.cap for entry in lengths)) + changes


def _without_rest(run: ReferenceRun, canvas: Canvas, lengths: Sequence[HoleLength]) -> Generator[Event, None, Canvas]:
    """The canvas without what stands behind a stop."""
    shorter, events = drop_behind_stops(canvas, run.params.stop, len(lengths))
    yield from events
    if events:
        run.drop_kept_rows()
        note_lengths(shorter, lengths)
    return shorter


def note_lengths(canvas: Canvas, lengths: Sequence[HoleLength]) -> None:
    """Let ``lengths`` know how long the holes are."""
    for hole, entry in enumerate(lengths):
        entry.length = int((canvas.hole == hole).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """One forward, and what may be written: one row per open position of the canvas."""

    canvas: Canvas
    logits: Float[Tensor, "N V"]
    is_forbidden: Bool[Tensor, "N V"]
    is_withheld: Bool[Tensor, "N V"]


def _open_positions(canvas: Canvas) -> Bool[Tensor, " L"]:
    return canvas.is_masked | canvas.is_draft


def open_holes(canvas: Canvas) -> Bool[Tensor, " L"]:
    """All positions of holes in which something is open."""
    return torch.isin(canvas.hole, canvas.hole[_open_positions(canvas)])


def _positions(canvas: Canvas) -> Int[Tensor, " L"]:
    """Random-number positions."""
    return hole_position(canvas.hole.clamp(min=0), canvas.offset)


def _look(run: ReferenceRun, canvas: Canvas, lengths: Sequence[HoleLength], block: BlockProgress) -> _Look:
    canvas = run.fill_noise(canvas, _positions(canvas), block.step)
    is_forced = run.is_last_chance(block)
    logits = run.look_in_place(canvas, open_holes(canvas), _open_positions(canvas))
    forbidden, withheld = _length_tokens(run, canvas, lengths, logits.shape[1], may_choose=not is_forced)
    return _Look(canvas=canvas, logits=logits, is_forbidden=forbidden, is_withheld=withheld)


def _review(
    run: ReferenceRun,
    canvas: Canvas,
    lengths: Sequence[HoleLength],
    lattices: Sequence[Lattice | None],
    block: BlockProgress,
) -> Generator[Event, None, Canvas]:
    """The first forward where there are drafts: see ``infill``. It is not a step of the policy."""
    look = _look(run, canvas, lengths, block)
    index = _open_positions(look.canvas).nonzero()[:, 0]
    logits, adjustments = look.logits.cpu(), canvas_adjustments(run.params, look.canvas, index.shape[0])
    probability = token_probability(
        logits, look.canvas.token_ids[index], is_forbidden=look.is_forbidden, adjustments=adjustments
    )
    alternatives, count = None, run.params.num_alternatives
    if count:
        rules = {"is_forbidden": look.is_forbidden, "is_withheld": look.is_withheld}
        alternatives = likeliest_tokens(logits, count, **rules, adjustments=adjustments)
    canvas, is_weak = judge_draft(look.canvas, probability, run.params.draft_threshold, alternatives)
    is_weak = unfit_drafts(canvas, is_weak, lattices)
    if run.is_spent and bool((is_weak | canvas.is_masked).any()):
        canvas = yield from _step(run, replace(look, canvas=canvas), lengths, lattices, block, is_forced=True)
        run.is_cut = run.is_cut or bool(is_weak.any())
        return canvas
    mask_id = run.spec.special.mask
    yield from run.ledger.record(Places.of(canvas), weak_marks(canvas, is_weak), mask_id)
    canvas, is_final = keep_draft(canvas, is_weak, mask_id=mask_id, revises=run.policy.revises)
    yield from commits(canvas, is_final)
    canvas = yield from _without_rest(run, canvas, lengths)
    yield run.ledger.frame(canvas)
    return canvas


def _step(
    run: ReferenceRun,
    look: _Look,
    lengths: Sequence[HoleLength],
    lattices: Sequence[Lattice | None],
    block: BlockProgress,
    *,
    is_forced: bool,
) -> Generator[Event, None, Canvas]:
    """One step of the policy; drafts become final if it was the last."""
    canvas, is_open = look.canvas, _open_positions(look.canvas)
    given = (each.tolist() for each in (canvas.hole, canvas.token_ids, canvas.state, is_open.nonzero()[:, 0]))
    step = run.step(
        look.canvas,
        look.logits,
        block,
        window=slice(0, len(look.canvas)),
        is_open=is_open,
        positions=_positions(look.canvas),
        is_forbidden=look.is_forbidden,
        is_withheld=look.is_withheld,
        is_forced=is_forced,
        regions=hole_regions(lattices, *given),
    )
    change = torch.zeros(len(look.canvas), dtype=torch.int64)
    if run.lengths_compete and not is_forced:
        change, is_length = chosen_changes(look.canvas, step.token_ids, step.commit, lengths, run.spec.special)
        step = replace(step, commit=step.commit & ~is_length)
    canvas, events = run.apply(look.canvas, step)
    yield from events
    everywhere = torch.ones(len(canvas), dtype=torch.bool)
    if run.is_finished(canvas, everywhere, step, block) or is_forced:
        yield from commits(canvas, canvas.is_draft)
        canvas = canvas.finalize(everywhere)
    if bool(change.any()):
        run.ledger.record_resize(
            Places.of(canvas), (change != 0).tolist(), step.token_ids.tolist(), step.confidence.tolist()
        )
        yield from resizes(canvas, change)
        run.drop_kept_rows()
        canvas = canvas.take(torch.arange(len(canvas)).repeat_interleave(1 + change))
    canvas = yield from _without_rest(run, canvas, lengths)
    yield run.ledger.frame(canvas)
    return canvas


def _length_tokens(
    run: ReferenceRun, canvas: Canvas, lengths: Sequence[HoleLength], vocab_size: int, *, may_choose: bool
) -> tuple[Bool[Tensor, "N V"], Bool[Tensor, "N V"]]:
    """Forbidden and withheld tokens per open position: a length token that may yet come true is only withheld.

    Where length tokens compete with others it is neither, and one that may not come true is forbidden.
    """
    special = run.spec.special
    index = _open_positions(canvas).nonzero()[:, 0]
    withheld = withheld_tokens(canvas.take(index), lengths, special.expand, special.delete, vocab_size)
    never, unchosen = run.is_unwritten(vocab_size)
    if not run.lengths_compete:
        return never & ~withheld, unchosen | withheld
    of_length = forbidden_tokens(vocab_size, (each for each in (special.expand, special.delete) if each is not None))
    chosen = withheld if may_choose else torch.zeros_like(withheld)
    return (never | of_length) & ~chosen, (unchosen & ~of_length).expand_as(withheld)


def _change_lengths(
    run: ReferenceRun, look: _Look, lengths: Sequence[HoleLength], lattices: Sequence[Lattice | None]
) -> Int[Tensor, " L"]:
    """The length changes of this step, traced; all zero where no hole may change."""
    canvas, logits = look.canvas, look.logits
    special = run.spec.special
    if special.expand is None or special.delete is None or not any(entry.changes_left for entry in lengths):
        return torch.zeros(len(canvas), dtype=torch.int64)
    index = _open_positions(canvas).nonzero()[:, 0]
    adjusted = adjust(logits.cpu(), canvas_adjustments(run.params, canvas, logits.shape[0]))
    probs = torch.softmax(adjusted.masked_fill(look.is_forbidden, -torch.inf), dim=-1)
    expand, delete = (
        torch.zeros(len(canvas)).scatter(0, index, probs[:, token]) for token in (special.expand, special.delete)
    )
    change = constrained_changes(canvas, expand, delete, lengths, lattices)
    run.ledger.record_resize(
        Places.of(canvas),
        (change != 0).tolist(),
        torch.where(change > 0, special.expand, special.delete).tolist(),
        torch.where(change > 0, expand, delete).tolist(),
    )
    return change


def resizes(canvas: Canvas, change: Int[Tensor, " L"]) -> list[Event]:
    """From the last position to the first, so that each event's offset still holds when it is applied."""
    hole, offset = canvas.hole.tolist(), canvas.offset.tolist()
    return [
        Resize(hole=hole[position], start=offset[position], added=int(change[position]))
        for position in reversed(change.nonzero()[:, 0].tolist())
    ]
