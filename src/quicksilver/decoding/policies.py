"""Policies: what is committed, edited or remasked at a step, with the parameters of one request each.

A policy is a frozen dataclass; the tensor work is in ``rules`` and ``revision``. ``decide`` answers for a whole batch
in which every row has its own policy and parameters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from quicksilver.decoding import revision, rules
from quicksilver.decoding.draws import Purpose, draw
from quicksilver.decoding.window import Decision, Window
from quicksilver.errors import ConfigError


@runtime_checkable
class Policy(Protocol):
    """Parameters of one request and the rule that reads them."""

    revises: ClassVar[bool]
    """Drafts may change until the block is settled; otherwise a committed token is final at once."""
    starts_from_noise: ClassVar[bool]
    """The canvas starts as random tokens instead of masks. Then all of a block stays open until it is settled, its ends
    too; a step may commit nothing; and the entropy is that of the distribution at the step's temperature."""

    @property
    def reads_entropy(self) -> bool:
        """Whether decisions depend on ``Window.entropy``, which costs a pass over the vocabulary."""
        ...

    @classmethod
    def decide_rows(cls, window: Window, policies: "Sequence[Policy]") -> Decision:
        """Decide for a window whose row i belongs to ``policies[i]``, all of this class."""
        ...

    def max_steps(self, num_masks: int) -> int:
        """Forward passes after which a block of ``num_masks`` masks is settled for certain."""
        ...

    def temperature_scale(self, step: int) -> float:
        """Factor on the request's temperature at this step of the block."""
        ...


P = TypeVar("P")


def _of_kind(kind: type[P], policies: "Sequence[Policy]") -> list[P]:
    same = [policy for policy in policies if isinstance(policy, kind)]
    if len(same) != len(policies):
        raise ConfigError(f"every row must hold a {kind.__name__}, got {', '.join(type(p).__name__ for p in policies)}")
    return same


def _floats(values: Iterable[float], window: Window) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, device=window.confidence.device)


def _ints(values: Iterable[int], window: Window) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=window.confidence.device)


def _bools(values: Iterable[bool], window: Window) -> Tensor:
    return torch.tensor(list(values), dtype=torch.bool, device=window.confidence.device)


def _at_least(value: float | int, least: float | int, name: str) -> None:
    # Written so that NaN fails too.
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def _fraction(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in [0, 1], got {value}")


def _commits_only(window: Window, commit: Tensor) -> Decision:
    nothing = torch.zeros_like(commit)
    return Decision(commit=commit, edit=nothing, remask=nothing, is_settled=(commit | ~window.is_masked).all(dim=-1))


class _Unmasking:
    """Shared by policies whose committed tokens are final: one token per step at the slowest."""

    __slots__ = ()
    revises: ClassVar[bool] = False
    starts_from_noise: ClassVar[bool] = False

    @property
    def reads_entropy(self) -> bool:
        return False

    def max_steps(self, num_masks: int) -> int:
        return num_masks

    def temperature_scale(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidenceThreshold(_Unmasking):
    """See ``rules.confidence_threshold``."""

    threshold: float = 0.9
    """At 0 a block takes one forward, above 1 it takes one per token."""

    def __post_init__(self) -> None:
        _at_least(self.threshold, 0.0, "threshold")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        threshold = _floats((p.threshold for p in _of_kind(cls, policies)), window)
        return _commits_only(window, rules.confidence_threshold(window.confidence, window.is_masked, threshold))


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicFactor(_Unmasking):
    """See ``rules.dynamic_factor``."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        _at_least(self.factor, 0.0, "factor")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        factor = _floats((p.factor for p in _of_kind(cls, policies)), window)
        return _commits_only(window, rules.dynamic_factor(window.confidence, window.is_masked, factor))


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyBound(_Unmasking):
    """See ``rules.entropy_bound``."""

    bound: float = 0.1
    """Nats."""

    def __post_init__(self) -> None:
        _at_least(self.bound, 0.0, "bound")

    @property
    def reads_entropy(self) -> bool:
        return True

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        bound = _floats((p.bound for p in _of_kind(cls, policies)), window)
        return _commits_only(window, rules.entropy_bound(window.entropy, window.is_masked, bound))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchical(_Unmasking):
    """See ``rules.hierarchical``."""

    low: float = 0.62
    """A run's best mask is committed from this confidence."""
    threshold: float = 0.92
    """Any mask is committed from this confidence."""

    def __post_init__(self) -> None:
        _at_least(self.low, 0.0, "low")
        _at_least(self.threshold, self.low, "threshold")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = _of_kind(cls, policies)
        low, high = _floats((p.low for p in same), window), _floats((p.threshold for p in same), window)
        return _commits_only(window, rules.hierarchical(window.confidence, window.is_masked, low, high))


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedSteps(_Unmasking):
    """Fill every block in ``steps`` forwards, most confident masks first (MaskGIT, arXiv:2202.04200).

    Equal shares, the greater ones first, as in LLaDA (arXiv:2502.09992), whose ``steps`` count all blocks together.
    """

    steps: int = 8
    """Forwards per block; more than one per mask are not used."""

    def __post_init__(self) -> None:
        _at_least(self.steps, 1, "steps")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        steps = _ints((p.steps for p in _of_kind(cls, policies)), window)
        count = rules.share_of_masks(window.is_masked, steps, window.step)
        return _commits_only(window, rules.top_count(window.confidence, window.is_masked, count))


class Order(StrEnum):
    """Which masks go first."""

    CONFIDENCE = "confidence"
    MARGIN = "margin"
    """Best minus second-best probability (Kim et al. 2025, arXiv:2502.06768)."""
    ENTROPY = "entropy"
    """Lowest first."""
    RANDOM = "random"


def _order_score(order: Order, window: Window) -> Tensor:
    if order is Order.RANDOM:
        return draw(Purpose.ORDER, window.seed[:, None], window.positions, window.step[:, None])
    scores = {Order.CONFIDENCE: window.confidence, Order.MARGIN: window.margin, Order.ENTROPY: -window.entropy}
    return scores[order].double()


def _in_order(window: Window, orders: Sequence[Order], count: Tensor) -> Decision:
    """Commit ``count`` masks of every row in the row's order."""
    scores = {order: _order_score(order, window) for order in set(orders)}
    score = torch.stack([scores[order][row] for row, order in enumerate(orders)])
    return _commits_only(window, rules.top_count(score, window.is_masked, count))


class _Ordered(_Unmasking):
    """Shared by policies that commit a number of masks in a given order."""

    __slots__ = ()
    order: Order

    @property
    def reads_entropy(self) -> bool:
        return self.order is Order.ENTROPY


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedCount(_Ordered):
    """Commit exactly ``tokens_per_step`` masks per step (fewer only when fewer are left) in a given order."""

    order: Order = Order.CONFIDENCE
    tokens_per_step: int = 1

    def __post_init__(self) -> None:
        _at_least(self.tokens_per_step, 1, "tokens_per_step")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = _of_kind(cls, policies)
        count = _ints((p.tokens_per_step for p in same), window)
        return _in_order(window, [p.order for p in same], count)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timesteps(_Ordered):
    """See ``rules.timestep_counts``: the loop of Dream, of which DiffuCoder and Open-dCoder are trained too."""

    order: Order = Order.ENTROPY
    steps: int = 512
    """Of the schedule, per block; forwards at which nothing would be committed are not taken."""
    eps: float = 1e-3
    """Time at which the schedule ends."""

    def __post_init__(self) -> None:
        _at_least(self.steps, 1, "steps")
        if not 0 < self.eps < 1:
            raise ConfigError(f"eps must lie in (0, 1), got {self.eps}")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = _of_kind(cls, policies)
        at = zip(same, window.num_masks.tolist(), window.step.tolist(), strict=True)
        return _in_order(window, [p.order for p in same], _ints((p._count(*where) for p, *where in at), window))

    def _count(self, num_masks: int, step: int) -> int:
        counts = rules.timestep_counts(num_masks, self.steps, self.eps)
        # Holes that grew meanwhile have more masks than were counted on.
        return counts[step] if step < len(counts) else 1


_ANY_NUMBER = 2**31
"""More edits than a position can have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointThreshold:
    """See ``revision.joint_threshold``. Needs a checkpoint trained to mend visible wrong tokens."""

    threshold: float = 0.7
    edit_threshold: float = 0.9
    max_edits: int | None = 2
    """Edits per position; None: any number, as LLaDA2.1 has it. Then a block that goes in a circle does so until
    ``max_post_steps`` are spent, where otherwise the first return to a known state ends it."""
    max_post_steps: int = 4
    """Forwards per block after its last mask is gone."""
    revises: ClassVar[bool] = True
    starts_from_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _at_least(self.threshold, 0.0, "threshold")
        _at_least(self.edit_threshold, 0.0, "edit_threshold")
        if self.max_edits is not None:
            _at_least(self.max_edits, 0, "max_edits")
        _at_least(self.max_post_steps, 1, "max_post_steps")

    @property
    def reads_entropy(self) -> bool:
        return False

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = _of_kind(cls, policies)
        return revision.joint_threshold(
            window,
            threshold=_floats((p.threshold for p in same), window),
            edit_threshold=_floats((p.edit_threshold for p in same), window),
            max_edits=_ints((_ANY_NUMBER if p.max_edits is None else p.max_edits for p in same), window),
            max_post_steps=_ints((p.max_post_steps for p in same), window),
        )

    def max_steps(self, num_masks: int) -> int:
        return num_masks + self.max_post_steps

    def temperature_scale(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Renoise:
    """See ``revision.renoise``. Needs a checkpoint trained on uniform noise."""

    bound: float = 0.1
    """Nats."""
    settle_entropy: float = 0.005
    """Mean nats per position below which an unchanged argmax ends the block."""
    steps: int = 48
    """Most forwards per block."""
    cooling: float = 0.5
    """Share of the request's temperature that it falls towards along the steps; DiffusionGemma has 0.8 to 0.4."""
    revises: ClassVar[bool] = True
    starts_from_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _at_least(self.bound, 0.0, "bound")
        _at_least(self.settle_entropy, 0.0, "settle_entropy")
        _at_least(self.steps, 1, "steps")
        _fraction(self.cooling, "cooling")

    @property
    def reads_entropy(self) -> bool:
        return True

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = _of_kind(cls, policies)
        return revision.renoise(
            window,
            bound=_floats((p.bound for p in same), window),
            settle_entropy=_floats((p.settle_entropy for p in same), window),
            max_steps=_ints((p.steps for p in same), window),
        )

    def max_steps(self, num_masks: int) -> int:
        return self.steps

    def temperature_scale(self, step: int) -> float:
        """Falls from 1 at the first step."""
        return 1.0 - (1.0 - self.cooling) * step / self.steps


class RemaskRate(StrEnum):
    """How ReMDM limits the remasking probability."""

    CAP = "cap"
    RESCALE = "rescale"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReMDM:
    """See ``revision.remdm``. Valid for any mask-trained checkpoint; quality rises with ``steps``."""

    steps: int = 32
    """Forwards per block."""
    rate: RemaskRate = RemaskRate.CAP
    eta: float = 0.02
    """In [0, 1]; 0 never remasks."""
    by_confidence: bool = False
    """Remask tokens that were committed with little confidence more often."""
    loop: tuple[float, float] | None = None
    """Part of the steps, as two fractions, in which the share of masks is held and tokens are remasked."""
    loop_alpha: float = 0.9
    """Share of tokens visible during the loop, in (0, 1)."""
    revises: ClassVar[bool] = True
    starts_from_noise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _at_least(self.steps, 1, "steps")
        _fraction(self.eta, "eta")
        if self.loop is not None and not 0 < self.loop[0] <= self.loop[1] < 1:
            raise ConfigError(f"loop must be two rising fractions in (0, 1), got {self.loop}")
        if not 0 < self.loop_alpha < 1:
            raise ConfigError(f"loop_alpha must lie in (0, 1), got {self.loop_alpha}")

    @property
    def reads_entropy(self) -> bool:
        return False

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = _of_kind(cls, policies)
        loops = [p.loop or (1.0, 1.0) for p in same]
        return revision.remdm(
            window,
            steps=_ints((p.steps for p in same), window),
            eta=_floats((p.eta for p in same), window),
            is_rescaled=_bools((p.rate is RemaskRate.RESCALE for p in same), window),
            is_by_confidence=_bools((p.by_confidence for p in same), window),
            is_looped=_bools((p.loop is not None for p in same), window),
            loop_start=_floats((start for start, _ in loops), window),
            loop_stop=_floats((stop for _, stop in loops), window),
            loop_alpha=_floats((p.loop_alpha for p in same), window),
        )

    def max_steps(self, num_masks: int) -> int:
        return self.steps

    def temperature_scale(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfSpeculative:
    """Lossless: the denoiser drafts a block, the next-token reading of the same weights checks it.

    A mode of the engine, not a rule for windows: it has no step to decide (``engine.speculation``). The tokens are
    those of the next-token reading alone, written several at a time.
    """

    revises: ClassVar[bool] = False
    starts_from_noise: ClassVar[bool] = False

    @property
    def reads_entropy(self) -> bool:
        return False

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        raise ConfigError("policy self_speculative continues prompts in the engine; it has no step for windows")

    def max_steps(self, num_masks: int) -> int:
        return num_masks

    def temperature_scale(self, step: int) -> float:
        return 1.0


def decide(window: Window, policies: Sequence[Policy]) -> Decision:
    """Decide for a batch in which row i follows ``policies[i]``; rows of one class are decided together.

    Raises:
        ConfigError: the number of policies is not the number of rows.
    """
    if len(policies) != window.state.shape[0]:
        raise ConfigError(f"{window.state.shape[0]} rows need as many policies, got {len(policies)}")
    kinds = dict.fromkeys(type(policy) for policy in policies)
    if len(kinds) == 1:
        return type(policies[0]).decide_rows(window, policies)
    commit, edit, remask = (torch.zeros_like(window.is_masked) for _ in range(3))
    is_settled, takes_argmax = (torch.zeros_like(window.seed, dtype=torch.bool) for _ in range(2))
    for kind in kinds:
        rows = [row for row, policy in enumerate(policies) if type(policy) is kind]
        index = torch.tensor(rows, device=window.state.device)
        part = kind.decide_rows(window.rows(index), [policies[row] for row in rows])
        commit[index], edit[index], remask[index] = part.commit, part.edit, part.remask
        is_settled[index] = part.is_settled
        if part.takes_argmax is not None:
            takes_argmax[index] = part.takes_argmax
    return Decision(commit=commit, edit=edit, remask=remask, is_settled=is_settled, takes_argmax=takes_argmax)
