"""One request under way: its final tokens, its window and its accounts. It decides nothing about others.

A sequence is what the scheduler sees as a ``Job`` and what the runner takes rows from. It changes only in ``advance``,
after a forward has succeeded, so a forward that failed or was preempted can be repeated.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quicksilver.decoding.adjustments import Adjustments
from quicksilver.decoding.alternatives import TokenAlternatives
from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.constrained import Terms
from quicksilver.decoding.events import Done, Event, FinishReason
from quicksilver.decoding.guidance import Guidance, Twin, classifier_rows, twin_of
from quicksilver.decoding.ledger import Ledger, Marks, Places, commit_events
from quicksilver.decoding.lengths import HoleLength
from quicksilver.decoding.params import SamplingParams
from quicksilver.decoding.policies import Policy
from quicksilver.decoding.regions import Region
from quicksilver.decoding.sampler import BlockProgress, Run
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.request import Request
from quicksilver.engine.scheduler import CAUSAL, Grid


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Which tokens a row may take: a set that many rows share, so that its mask is made once."""

    forbidden: frozenset[int]
    withheld: frozenset[int] = frozenset()
    """Tokens that keep their probability but are never chosen, see ``decoding.selection``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """The rows of a window that the coming step decides."""

    open_columns: tuple[int, ...]
    rules: tuple[TokenRule, ...]
    """One for all open columns, or one each."""
    offsets: tuple[int, ...] | None = None
    """The row that predicts each open column, counted from the window's first; -1 is the last context row. None: the
    column's own, or the one before it if the checkpoint has a prediction shift."""
    temperature: float
    measured_at: float = 1.0
    """Temperature of the distribution that entropy is measured of and self-conditioning sees."""
    seed: int
    step: int
    positions: tuple[int, ...]
    """Random-number position of every open column."""
    is_forced: bool
    """All masks must be committed now."""
    adjustments: Adjustments | None = None
    """Of the open columns' rows."""
    watched: tuple[tuple[int, int, int], ...] = ()
    """Tokens whose probabilities are asked for beside the candidates, per open column: expand, delete, and what stands
    there. Empty: none."""
    twin: Twin | None = None
    """What a second row sees, where classifier-free guidance asks for one."""
    added: Tensor | None = None
    """What a classifier adds to the open columns' logits, [n, V]."""
    regions: tuple[Region, ...] = ()
    """Where constraints decide; their rows are those of the open columns."""

    def terms(self, params: SamplingParams, policy: Policy | None) -> Terms:
        """How ``regions`` are decided."""
        return Terms.of(
            params,
            temperature=self.temperature,
            measured_at=self.measured_at,
            step=self.step,
            positions=torch.tensor(self.positions),
            policy=policy,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowStep:
    """What a step did to one window; tensors and lists have one entry per column."""

    canvas: Canvas
    argmax_ids: Tensor
    marks: Marks
    state: Seq[int]
    is_settled: bool
    had_masks: bool
    is_complete: bool
    """The policy itself committed every mask and was settled."""
    predicted: Tensor | None = None
    """Mean embeddings of what was predicted, [W, D], where the denoiser sees them at the next step."""


def without_commits(step: WindowStep, before: Canvas, where: Tensor) -> WindowStep:
    """The step with the masks that stood at some of the columns it has committed."""
    kept = torch.where(where, len(before), 0) + torch.arange(len(before))
    canvas = Canvas.join([step.canvas, before]).take(kept)
    commit = [is_written and not is_left for is_written, is_left in zip(step.marks.commit, where.tolist(), strict=True)]
    marks = replace(step.marks, commit=commit)
    return replace(step, canvas=canvas, marks=marks, state=canvas.state.tolist(), is_complete=False)


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token, its probability and the likeliest ones beside it, if the request asks for them."""

    token_id: int
    confidence: float
    alternatives: TokenAlternatives = ()


@dataclass(frozen=True, slots=True)
class NextTokens:
    """What a forward means for a request that is written token by token: one token per open column."""

    tokens: tuple[NextToken, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthChange:
    """Holes change their length instead of being written."""

    change: Tensor
    """Per position of the canvas: +1 expands, -1 goes."""
    probability: Tensor
    """Of the change, per position."""
    lengths: tuple[HoleLength, ...]
    """After it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """A draft was looked at as it stands."""

    is_weak: Tensor
    """Positions that become masks."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The request cannot go on."""

    error: Exception


Outcome = NextTokens | LengthChange | Review | WindowStep | Failure


class Sequence(ABC):
    """State of one request; see ``scheduler.Job`` for the properties that it reads."""

    def __init__(self, job_id: int, request: Request, spec: DiffusionSpec) -> None:
        self.job_id, self.request, self.spec = job_id, request, spec
        self.ledger = Ledger()
        self.context_ids: list[int] = []
        self.is_late = False
        """Whether the deadline asks for an end at the coming step."""
        self.done: Done | None = None
        self.num_prompt = 0

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def grid(self) -> Grid:
        return CAUSAL

    @property
    def num_slots(self) -> int:
        """Positions of the window that need a place in pages."""
        return self.num_window

    @property
    def is_pinned(self) -> bool:
        """Whether the coming forward reads keys and values that could not be computed again as they were."""
        return False

    @property
    def salt(self) -> bytes | None:
        """Equal tokens have equal keys and values where tenant and grid agree."""
        return self.grid.length.to_bytes(4, "little") + self.request.tenant

    @property
    @abstractmethod
    def num_window(self) -> int:
        """Rows of the coming forward, behind context rows."""
        ...

    @property
    def num_twin(self) -> int:
        """Rows of the coming forward behind all others, that guidance compares the window's with."""
        return 0

    @property
    def window_columns(self) -> Tensor | None:
        """Where in the window those rows stand; None: they are all of it."""
        return None

    @property
    @abstractmethod
    def num_masks(self) -> int: ...

    @property
    @abstractmethod
    def most_positions(self) -> int: ...

    @property
    def has_causal_window(self) -> bool:
        """Whether a window row sees only those before it, as if they were final."""
        return False

    def window_ids(self) -> Tensor:
        """What stands in all of the window for the coming forward."""
        return torch.zeros(0, dtype=torch.int64)

    def given_ids(self) -> list[int]:
        """Token ids that came with the request, beside the context."""
        return []

    @property
    def reads_entropy(self) -> bool:
        """Whether what is decided depends on the candidates' entropy."""
        return False

    @property
    def policy(self) -> Policy | None:
        """What decides the open columns; None: each takes its candidate."""
        return None

    @property
    def is_last(self) -> bool:
        """Whether no forward may follow the coming one."""
        max_nfe = self.params.max_nfe
        return self.is_late or (max_nfe is not None and self.ledger.nfe + 1 >= max_nfe)

    @property
    def shortened_blocks(self) -> tuple[int, ...]:
        """Lengths of all blocks so far if load made some shorter; what ``Request.block_lengths`` repeats."""
        return ()

    @abstractmethod
    def look(self) -> Look: ...

    @abstractmethod
    def opening(self) -> list[Event]:
        """The events before the first forward."""
        ...

    @abstractmethod
    def advance(self, outcome: Outcome, is_forced: bool) -> list[Event]:
        """Write what a forward decided; ``done`` says whether it was the last.

        Args:
            outcome: of the look that was taken last.
            is_forced: as in that look.
        """
        ...

    def context_blocks(self, count: int) -> Tensor | None:
        """Block number of the first ``count`` context positions; None where they are causal."""
        grid = self.grid
        if grid.length == 1:
            return None
        position = torch.arange(count)
        if grid.restart is None:
            return position // grid.length
        restart = -(-grid.restart // grid.length)
        behind = restart + (position - grid.restart) // grid.length
        return torch.where(position < grid.restart, position // grid.length, behind)


class WindowSequence(Sequence):
    """A request that denoises a window; see ``blocks`` and ``filling``."""

    canvas: Canvas
    """The window."""
    positions: Tensor
    """Random-number positions of the window."""
    places: Places
    block: BlockProgress

    def __init__(self, job_id: int, request: Request, spec: DiffusionSpec) -> None:
        super().__init__(job_id, request, spec)
        self.run = Run(spec, request.params)
        self.run.ledger = self.ledger
        self.state: list[int] = []
        """States of the window, as a list."""
        self._twin: Twin | None = None
        self._twin_of: Canvas | None = None
        """The window that ``_twin`` belongs to: the scheduler asks for its size before the look takes it."""

    @property
    def reads_entropy(self) -> bool:
        return self.run.policy.reads_entropy

    @property
    def policy(self) -> Policy | None:
        return self.run.policy

    @property
    def num_window(self) -> int:
        return len(self.state)

    @property
    def num_twin(self) -> int:
        twin = self.twin
        return 0 if twin is None else len(twin.token_ids)

    @property
    def num_masks(self) -> int:
        return self.state.count(State.MASK)

    @property
    def is_forced(self) -> bool:
        """Whether the coming step must commit whatever is open."""
        return self.is_late or self.run.is_last_chance(self.block)

    @property
    def previous_argmax(self) -> Tensor:
        """Of the step before; -1 at the first step of a block and after a change of length."""
        previous = self.block.previous_argmax
        if previous is None or previous.shape[0] != len(self.canvas):
            return torch.full_like(self.canvas.token_ids, -1)
        return previous

    @abstractmethod
    def open_columns(self) -> list[int]:
        """Masks and drafts that a step may touch."""
        ...

    def window_ids(self) -> Tensor:
        return self.canvas.token_ids

    def _look(self, columns: list[int], rules: tuple[TokenRule, ...]) -> Look:
        # Fresh noise at the masks if the policy denoises uniform noise: the same for the same step, however often.
        self.canvas = self.run.fill_noise(self.canvas, self.positions, self.block.step)
        if self.block.step == 0:
            self.block.num_masks = sum(self.state[column] == State.MASK for column in columns)
        positions, guidance = self.positions.tolist(), self.params.guidance
        return Look(
            open_columns=tuple(columns),
            rules=rules,
            temperature=self.run.temperature_at(self.block.step),
            measured_at=self.run.measured_at(self.block.step),
            seed=self.params.seed,
            step=self.block.step,
            positions=tuple(positions[column] for column in columns),
            is_forced=self.is_forced,
            adjustments=self._adjustments(len(columns)),
            twin=self.twin,
            added=None if guidance is None else self._added(guidance, columns),
            regions=self._regions(columns),
        )

    @property
    def whole_canvas(self) -> Canvas:
        """Everything that the window's rows see, and the window."""
        return self.canvas

    @property
    def twin(self) -> Twin | None:
        """What a second row of the coming forward sees; None: there is none."""
        guidance = self.params.guidance
        if guidance is not None and self._twin_of is not self.canvas:
            self._twin, self._twin_of = self._make_twin(guidance), self.canvas
        return self._twin

    def _make_twin(self, guidance: Guidance) -> Twin | None:
        """Of a canvas under full attention."""
        return twin_of(guidance, self.spec, self.whole_canvas, None)

    def _added(self, guidance: Guidance, columns: list[int]) -> Tensor | None:
        canvas = self.whole_canvas
        first = len(canvas) - len(self.canvas)
        return classifier_rows(guidance, canvas, [first + column for column in columns])

    @abstractmethod
    def _regions(self, columns: list[int]) -> tuple[Region, ...]:
        """What constraints say of the open columns."""
        ...

    @abstractmethod
    def _adjustments(self, num_rows: int) -> Adjustments | None: ...

    def _take(self, step: WindowStep, is_forced: bool) -> tuple[list[Event], bool]:
        """Write a step; returns its events and whether the block needs no further one."""
        run, block = self.run, self.block
        self.ledger.nfe += 1
        if is_forced:
            run.is_cut = (run.is_spent or self.is_late) and not step.is_complete
        events = self.ledger.record(self.places, step.marks, self.spec.special.mask)
        if not run.policy.revises:
            events += commit_events(self.places, step.marks.commit)
        self.canvas, self.state = step.canvas, list(step.state)
        block.step += 1
        block.num_post_steps += not step.had_masks
        block.previous_argmax, block.predicted = step.argmax_ids, step.predicted
        is_finished = self._is_finished(step) or is_forced
        if is_finished and State.DRAFT in self.state:
            still_open = self.open_columns()
            drafts = [column in still_open and state == State.DRAFT for column, state in enumerate(self.state)]
            events += commit_events(self.places, drafts)
            where = torch.zeros(len(self.state), dtype=torch.bool)
            where[still_open] = True
            self.canvas = self.canvas.finalize(where)
            self.state = self.canvas.state.tolist()
        return events, is_finished

    def _is_finished(self, step: WindowStep) -> bool:
        """No open mask is left, and a revising policy is content or goes in a circle."""
        has_masks = any(self.state[column] == State.MASK for column in self.open_columns())
        if not self.run.policy.revises:
            return not has_masks
        is_changed = any(step.marks.edit) or any(step.marks.commit)
        is_circle = self.run.policy.ends_circles and self.block.has_seen(self.canvas) and is_changed
        return not has_masks and (step.is_settled or is_circle)

    def _cut_reason(self) -> FinishReason:
        return FinishReason.DEADLINE if self.is_late and not self.run.is_spent else FinishReason.MAX_NFE
