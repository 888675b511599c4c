"""The step that all reference samplers share: one forward of one canvas, one decision, its events and its accounts.

This is the yardstick that every fast path must match token for token: full recompute, batch of one, float32.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments, adjust, canvas_adjustments
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.constrained import ConstrainedRows, Terms, decide_jointly, first_candidates
from quicksilver.decoding.draws import Purpose, draw
from quicksilver.decoding.ends import Ends, hold_ends
from quicksilver.decoding.events import Done, Event, Result
from quicksilver.decoding.guidance import Guidance, check_guidance, classifier_rows, guided, twin_of
from quicksilver.decoding.kept_rows import Cache, KeptRows
from quicksilver.decoding.ledger import Ledger, Marks, Places, Step, commits
from quicksilver.decoding.lengths import LengthRule
from quicksilver.decoding.params import SamplingParams, end_ids, forbidden_tokens, resolve_policy, special_ids
from quicksilver.decoding.policies import decide
from quicksilver.decoding.protocol import CanvasLogits, ConditionedLogits, StaleLogits
from quicksilver.decoding.regions import ConstrainedResponse, Region, constrained_response, rows_of
from quicksilver.decoding.revision_rules import take_argmax
from quicksilver.decoding.selection import Candidates, distribution, select
from quicksilver.decoding.window import Decision, Window
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError, InputError


def final_result(events: Iterable[Event]) -> Result:
    """Run a sampler to its end and return what it wrote."""
    for event in events:
        if isinstance(event, Done):
            return event.result
    raise InputError("the events ended without Done")


@dataclass(kw_only=True, slots=True)
class BlockProgress:
    """What must be remembered between the steps of one block."""

    max_steps: int
    step: int = 0
    num_masks: int = 0
    """As the first step began."""
    num_post_steps: int = 0
    previous_argmax: Tensor | None = None
    predicted: Tensor | None = None
    """Probabilities that the step before gave, or what the network makes of them, where it sees them; None: none."""
    seen: set[bytes] = field(default_factory=set)

    def has_seen(self, canvas: Canvas) -> bool:
        """Whether the canvas stood exactly like this before in this block; remembers it."""
        key = canvas.token_ids.numpy().tobytes() + canvas.state.numpy().tobytes()
        is_known = key in self.seen
        self.seen.add(key)
        return is_known


class Run:
    """One request under way: its parameters, resolved against the checkpoint, its limits and its accounts."""

    def __init__(self, spec: DiffusionSpec, params: SamplingParams) -> None:
        """Resolve ``params``; raises ConfigError where they contradict the checkpoint."""
        self.spec, self.params = spec, params
        self.policy = resolve_policy(spec, params)
        check_guidance(params.guidance, spec, is_exact=params.cache is Cache.EXACT)
        self.end_ids = end_ids(spec, params)
        self.temperature = spec.decoding.temperature if params.temperature is None else params.temperature
        self.lengths_compete = LengthRule(spec.decoding.lengths) is LengthRule.COMPETING
        is_whole = self.policy.starts_from_noise
        if is_whole and params.ends is Ends.HELD:
            raise ConfigError(
                f"{type(self.policy).__name__} denoises blocks as a whole, their ends too: leave ends out"
            )
        self.holds_ends = not is_whole and (params.ends or Ends(spec.decoding.ends)) is Ends.HELD
        self.written_special = frozenset({spec.special.eos} | ({spec.special.pad} if is_whole else set()) - {None})
        """Special tokens that a block may hold: what was trained on noise was trained on whole blocks, padded behind
        their end."""
        self.ledger = Ledger()
        self.is_cut = False
        """Whether ``max_nfe`` made a step commit more than the policy would have."""

    def temperature_at(self, step: int) -> float:
        """Of the candidates that are drawn at this step of a block."""
        return self.temperature * self.policy.temperature_scale(step)

    def measured_at(self, step: int) -> float:
        """Temperature of the distribution that entropy is measured of and self-conditioning sees."""
        return (self.temperature_at(step) or 1.0) if self.policy.starts_from_noise else 1.0

    def constrained_response(self, max_tokens: int) -> ConstrainedResponse | None:
        """The constraint of a continuation of at most ``max_tokens`` tokens; None if there is none."""
        never = frozenset.union(*self.unwritten_ids({self.spec.special.eos}))
        return constrained_response(
            self.params.constraint, self.spec, never=never, ends=self.end_ids, max_tokens=max_tokens
        )

    @property
    def is_spent(self) -> bool:
        """Whether ``max_nfe`` allows no further forward."""
        return self.params.max_nfe is not None and self.ledger.nfe >= self.params.max_nfe

    def is_last_chance(self, block: BlockProgress) -> bool:
        """Whether the coming step must commit whatever is open."""
        at_limit = self.params.max_nfe is not None and self.ledger.nfe + 1 >= self.params.max_nfe
        return at_limit or block.step + 1 >= block.max_steps

    def unwritten_ids(self, written: Container[int] = ()) -> tuple[frozenset[int], frozenset[int]]:
        """Tokens that are never written: those without a probability, and those withheld, which keep theirs.

        Args:
            written: special tokens that are.
        """
        own = frozenset(self.params.forbidden_ids)
        special = frozenset(token for token in special_ids(self.spec) if token not in written)
        return (own, special - own) if self.spec.is_mask_predicted else (own | special, frozenset())

    def is_unwritten(
        self, vocab_size: int, written: Container[int] = ()
    ) -> tuple[Bool[Tensor, " V"], Bool[Tensor, " V"]]:
        """``unwritten_ids`` as masks."""
        self.params.check_vocabulary(vocab_size)
        forbidden, withheld = self.unwritten_ids(written)
        return forbidden_tokens(vocab_size, forbidden), forbidden_tokens(vocab_size, withheld)

    def fill_noise(self, canvas: Canvas, positions: Int[Tensor, " L"], step: int) -> Canvas:
        """Put random tokens, drawn for the coming ``step``, at all masks if the policy denoises uniform noise."""
        if not self.policy.starts_from_noise or self.params.vocab_size is None:
            return canvas
        is_forbidden, is_withheld = self.is_unwritten(self.params.vocab_size)
        allowed = (~(is_forbidden | is_withheld)).nonzero()[:, 0]
        chance = draw(Purpose.NOISE, torch.tensor(self.params.seed), positions, torch.tensor(step))
        noise = allowed[(chance * allowed.shape[0]).long()]
        return replace(canvas, token_ids=torch.where(canvas.is_masked, noise, canvas.token_ids))


class ReferenceRun(Run):
    """A run that looks at its canvas by full recompute and decides it alone."""

    def __init__(self, logits_fn: CanvasLogits, spec: DiffusionSpec, params: SamplingParams) -> None:
        """Resolve ``params``; raises ConfigError where they contradict the checkpoint or ``logits_fn``."""
        super().__init__(spec, params)
        self.logits_fn = logits_fn
        self._kept = KeptRows(params.cache, params.refresh_every, spec.prediction_shift)
        if params.cache is not Cache.EXACT and not isinstance(logits_fn, StaleLogits):
            raise ConfigError(f"cache {params.cache} needs a denoiser that can see stale rows (StaleLogits)")

    def look(
        self,
        canvas: Canvas,
        block_ids: Int[Tensor, " L"],
        is_open: Bool[Tensor, " L"],
        predicted: Tensor | None = None,
        *,
        is_full: bool = False,
    ) -> Float[Tensor, "N V"]:
        """One forward, guided; the logits of the open positions.

        Args:
            canvas: what is seen.
            block_ids: its blocks.
            is_open: what is decided.
            predicted: as in ``ConditionedLogits``.
            is_full: whether attention is full.
        """
        see = self.logits_fn
        if isinstance(see, ConditionedLogits):
            see = partial(see.with_predicted, predicted=predicted)
        logits = self.ledger.forward(see, canvas.token_ids, block_ids)
        index = is_open.nonzero()[:, 0]
        logits = logits[index.to(logits.device)]
        guidance = self.params.guidance
        blocks = None if is_full else block_ids
        return logits if guidance is None else self._guided(guidance, logits, canvas, blocks, index)

    def _guided(
        self, guidance: Guidance, logits: Float[Tensor, "N V"], canvas: Canvas, block_ids: Tensor | None, index: Tensor
    ) -> Float[Tensor, "N V"]:
        """The logits with guidance. A second row is no forward of its own: it belongs into the same batch."""
        twin = twin_of(guidance, self.spec, canvas, block_ids)
        if twin is not None:
            others = self.logits_fn(twin.token_ids, twin.block_ids)[(index + twin.moved).to(logits.device)]
            logits = guided(logits, others, torch.full((len(index),), guidance.scale, device=logits.device))
        added = classifier_rows(guidance, canvas, index.tolist())
        return logits if added is None else logits + added.to(logits.device)

    def look_in_place(
        self,
        canvas: Canvas,
        is_written: Bool[Tensor, " L"],
        is_open: Bool[Tensor, " L"],
        predicted: Tensor | None = None,
    ) -> Float[Tensor, "N V"]:
        """One forward under full attention as ``params.cache`` says; the logits of the open positions.

        Args:
            canvas: what is seen.
            is_written: where tokens are being written, the open positions among them.
            is_open: what is decided.
            predicted: as in ``look``.
        """
        block_ids = torch.zeros(len(canvas), dtype=torch.int64)
        if not isinstance(self.logits_fn, StaleLogits) or self.params.cache is Cache.EXACT:
            return self.look(canvas, block_ids, is_open, predicted, is_full=True)
        columns = self._kept.columns(canvas.token_ids, is_written)
        is_computed = torch.zeros(len(canvas), dtype=torch.bool).index_fill(0, columns, value=True)
        see = partial(self.logits_fn.with_stale, is_computed=is_computed)
        logits = self.ledger.forward(see, canvas.token_ids, block_ids)
        self.ledger.count_stale(self._kept.ran(canvas.token_ids, columns))
        return logits[is_open.nonzero()[:, 0].to(logits.device)]

    def drop_kept_rows(self) -> None:
        """Positions have moved: the next forward computes all rows."""
        self._kept.drop()

    def _commit_all(self, decision: Decision, seen: Window) -> Decision:
        is_complete = bool((decision.commit == seen.is_masked).all()) and bool(decision.is_settled.all())
        self.is_cut = self.is_spent and not is_complete
        if self.policy.starts_from_noise:
            return take_argmax(decision, seen, torch.ones_like(decision.is_settled))
        return Decision(
            commit=seen.is_masked,
            # What is behind an end has not been written: an end that went now would leave masks behind.
            edit=decision.edit & ~torch.isin(seen.token_ids, torch.tensor(sorted(self.end_ids))),
            remask=torch.zeros_like(decision.remask),
            is_settled=torch.ones_like(decision.is_settled),
            takes_argmax=decision.takes_argmax,
        )

    def step(
        self,
        canvas: Canvas,
        logits: Float[Tensor, "N V"],
        block: BlockProgress,
        *,
        window: slice,
        is_open: Bool[Tensor, " L"],
        positions: Int[Tensor, " L"],
        is_forbidden: Bool[Tensor, "#N V"],
        is_withheld: Bool[Tensor, "#N V"] | None = None,
        is_forced: bool,
        regions: Sequence[Region] = (),
    ) -> Step:
        """The policy's decision about the open positions of the window, or all their masks if ``is_forced``.

        ``logits`` are the denoiser's: bias and penalties are added here, for what is visible on ``canvas``. The rows
        of ``regions`` are their indices.

        Raises:
            ConfigError: the policy committed nothing although there are masks.
        """
        index = is_open.nonzero()[:, 0]
        if block.step == 0:
            block.num_masks = int((canvas.is_masked & is_open).sum())
        adjustments = canvas_adjustments(self.params, canvas, logits.shape[0])
        found = select_rows(
            logits,
            self.params,
            temperature=self.temperature_at(block.step),
            measured_at=self.measured_at(block.step),
            positions=positions[index],
            step=block.step,
            is_forbidden=is_forbidden,
            is_withheld=is_withheld,
            adjustments=adjustments,
        )
        if isinstance(self.logits_fn, ConditionedLogits):
            block.predicted = self._distribution(logits, block.step, is_forbidden, adjustments)
        joint = self._constrained(regions, logits, found, positions[index], block.step, adjustments)

        def decide_with(parts: Sequence[Candidates]) -> tuple[Window, Decision, None]:
            seen = self._window(canvas, parts[0], index, positions, block, window)
            return seen, self._decision(seen, block.step, is_forced=is_forced), None

        parts = [found] if joint is None else [first_candidates(joint)]
        columns = [(index - window.start).tolist()]
        seen, decision, _, (found,) = decide_jointly(parts, [joint], columns, decide_with)
        has_masks = bool(seen.is_masked.any())
        block.step += 1
        block.num_post_steps += not has_masks
        block.previous_argmax = seen.argmax_ids
        return _step_of(canvas, found, decision, index, window)

    def _decision(self, seen: Window, step: int, *, is_forced: bool) -> Decision:
        decision = decide(hold_ends(seen, self.spec.special.eos), [self.policy])
        is_stuck = bool(seen.is_masked.any()) and not bool(decision.commit.any())
        if is_stuck and not self.policy.starts_from_noise:
            raise ConfigError(f"policy {type(self.policy).__name__} committed nothing at step {step}")
        return self._commit_all(decision, seen) if is_forced else decision

    def _constrained(
        self,
        regions: Sequence[Region],
        logits: Tensor,
        found: Candidates,
        positions: Tensor,
        step: int,
        adjustments: Adjustments | None,
    ) -> ConstrainedRows | None:
        """The rows of a step that a constraint has a part in; None: no row."""
        rows = rows_of(regions)
        if not rows:
            return None
        terms = Terms.of(
            self.params,
            temperature=self.temperature_at(step),
            measured_at=self.measured_at(step),
            step=step,
            positions=positions,
            policy=self.policy,
        )
        return ConstrainedRows(regions, adjust(logits.cpu(), adjustments)[rows], found, terms)

    def _distribution(
        self, logits: Tensor, step: int, is_forbidden: Tensor, adjustments: Adjustments | None
    ) -> Float[Tensor, "N V"]:
        """What self-conditioning sees at the next step."""
        device = logits.device
        return distribution(
            logits,
            is_forbidden=is_forbidden.to(device),
            measured_at=torch.full((logits.shape[0],), self.measured_at(step), device=device),
            adjustments=None if adjustments is None else adjustments.to(device),
        )

    def _window(
        self, canvas: Canvas, found: Candidates, index: Tensor, positions: Tensor, block: BlockProgress, window: slice
    ) -> Window:
        """The policy's view; positions that are not open appear as PROMPT."""

        def place(values: Tensor) -> Tensor:
            return torch.zeros(len(canvas), dtype=values.dtype).scatter(0, index, values)[window][None]

        argmax_ids = place(found.argmax_ids)
        previous = block.previous_argmax
        if previous is None or previous.shape != argmax_ids.shape:
            previous = torch.full_like(argmax_ids, -1)
        return Window(
            token_ids=canvas.token_ids[window][None],
            state=place(canvas.state[index]),
            candidate_ids=place(found.token_ids),
            argmax_ids=argmax_ids,
            previous_argmax_ids=previous,
            confidence=place(found.confidence),
            margin=place(found.margin),
            entropy=place(found.entropy),
            commit_confidence=canvas.confidence[window][None],
            num_edits=canvas.num_edits[window][None],
            positions=positions[window][None],
            seed=torch.tensor([self.params.seed]),
            step=torch.tensor([block.step]),
            num_masks=torch.tensor([block.num_masks]),
            num_post_steps=torch.tensor([block.num_post_steps]),
            holds_ends=torch.tensor([self.holds_ends]),
        )

    def apply(self, canvas: Canvas, step: Step) -> tuple[Canvas, list[Event]]:
        """The canvas after a step, and the events that lead there."""
        events = self.ledger.record(Places.of(canvas), Marks.of(step), self.spec.special.mask)
        if not self.policy.revises:
            events += commits(canvas, step.commit)
        state = State.DRAFT if self.policy.revises else State.FINAL
        known = {"step": self.ledger.nfe, "alternatives": step.alternatives}
        canvas = canvas.commit(step.commit, step.token_ids, step.confidence, state=state, **known)
        canvas = canvas.edit(step.edit, step.token_ids, step.confidence, **known)
        return canvas.remask(step.remask, self.spec.special.mask), events

    def is_finished(self, canvas: Canvas, is_open: Bool[Tensor, " L"], step: Step, block: BlockProgress) -> bool:
        """Whether the block needs no further step: no open mask, and a revising policy is content or in a circle."""
        if not self.policy.revises:
            return not bool((canvas.is_masked & is_open).any())
        is_changed = bool((step.edit | step.commit).any())
        is_circle = self.policy.ends_circles and block.has_seen(canvas) and is_changed
        return not bool((canvas.is_masked & is_open).any()) and (step.is_settled or is_circle)


def select_rows(
    logits: Float[Tensor, "N V"],
    params: SamplingParams,
    *,
    temperature: float,
    positions: Int[Tensor, " N"],
    step: int,
    is_forbidden: Bool[Tensor, "#N V"],
    measured_at: float = 1.0,
    is_withheld: Bool[Tensor, "#N V"] | None = None,
    adjustments: Adjustments | None = None,
) -> Candidates:
    """Select for rows of one request, on the device of the logits; the answer is on the CPU."""
    count, device = logits.shape[0], logits.device
    found = select(
        logits,
        is_forbidden=is_forbidden.to(device),
        is_withheld=None if is_withheld is None else is_withheld.to(device),
        temperature=torch.full((count,), float(temperature), device=device),
        measured_at=None if measured_at == 1 else torch.full((count,), measured_at, device=device),
        seed=torch.full((count,), params.seed, device=device),
        positions=positions.to(device),
        step=torch.full((count,), step, device=device),
        top_k=None if params.top_k is None else torch.full((count,), params.top_k, device=device),
        top_p=None if params.top_p is None else torch.full((count,), float(params.top_p), device=device),
        adjustments=None if adjustments is None else adjustments.to(device),
        num_alternatives=params.num_alternatives,
    )
    return found.to(torch.device("cpu"))


def _step_of(canvas: Canvas, found: Candidates, decision: Decision, index: Tensor, window: slice) -> Step:
    """A decision about the columns of a window, on the whole canvas."""
    spread = [_spread(mask[0], window, len(canvas)) for mask in (decision.commit, decision.edit, decision.remask)]
    token_ids = decision.written(found.token_ids[None], found.argmax_ids[None])[0]
    confidence = decision.written(found.confidence[None], found.argmax_confidence[None])[0]
    return Step(
        token_ids=canvas.token_ids.scatter(0, index, token_ids),
        confidence=canvas.confidence.scatter(0, index, confidence),
        commit=spread[0],
        edit=spread[1],
        remask=spread[2],
        is_settled=bool(decision.is_settled[0]),
        alternatives=None if found.alternatives is None else found.alternatives.spread(index, len(canvas)),
    )


def _spread(values: Tensor, window: slice, length: int) -> Tensor:
    spread = torch.zeros(length, dtype=values.dtype)
    spread[window] = values
    return spread
