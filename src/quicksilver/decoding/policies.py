"""Policies: what is committed, edited or remasked at a step, with the parameters of one request each.

A policy is a frozen dataclass; the tensor work is in ``rules`` and ``revision_rules``. ``decide`` answers for a whole
batch in which every row has its own policy and parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from quicksilver.decoding import revision_rules, rules
from quicksilver.decoding.draws import Purpose, draw
from quicksilver.decoding.row_parameters import at_least, bools, by_kind, floats, fraction, ints, of_kind
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

    @property
    def ends_circles(self) -> bool:
        """Whether a revised block that stands as it stood before goes in a circle, and so ends there."""
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

    @property
    def ends_circles(self) -> bool:
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
        at_least(self.threshold, 0.0, "threshold")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        threshold = floats((p.threshold for p in of_kind(cls, policies)), window)
        return _commits_only(window, rules.confidence_threshold(window.confidence, window.is_masked, threshold))


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicFactor(_Unmasking):
    """See ``rules.dynamic_factor``."""

    factor: float = 1.0

    def __post_init__(self) -> None:
        at_least(self.factor, 0.0, "factor")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        factor = floats((p.factor for p in of_kind(cls, policies)), window)
        return _commits_only(window, rules.dynamic_factor(window.confidence, window.is_masked, factor))


@dataclass(frozen=True, kw_only=True, slots=True)
class EntropyBound(_Unmasking):
    """See ``rules.entropy_bound``."""

    bound: float = 0.1
    """Nats."""

    def __post_init__(self) -> None:
        at_least(self.bound, 0.0, "bound")

    @property
    def reads_entropy(self) -> bool:
        return True

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        bound = floats((p.bound for p in of_kind(cls, policies)), window)
        return _commits_only(window, rules.entropy_bound(window.entropy, window.is_masked, bound))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchical(_Unmasking):
    """See ``rules.hierarchical``."""

    low: float = 0.62
    """A run's best mask is committed from this confidence."""
    threshold: float = 0.92
    """Any mask is committed from this confidence."""

    def __post_init__(self) -> None:
        at_least(self.low, 0.0, "low")
        at_least(self.threshold, self.low, "threshold")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = of_kind(cls, policies)
        low, high = floats((p.low for p in same), window), floats((p.threshold for p in same), window)
        return _commits_only(window, rules.hierarchical(window.confidence, window.is_masked, low, high))


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedSteps(_Unmasking):
    """Fill every block in ``steps`` forwards, most confident masks first (MaskGIT, arXiv:2202.04200).

    Equal shares, the greater ones first, as in LLaDA (arXiv:2502.09992), whose ``steps`` count all blocks together.
    """

    steps: int = 8
    """Forwards per block; more than one per mask are not used."""

    def __post_init__(self) -> None:
        at_least(self.steps, 1, "steps")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        steps = ints((p.steps for p in of_kind(cls, policies)), window)
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
        at_least(self.tokens_per_step, 1, "tokens_per_step")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = of_kind(cls, policies)
        count = ints((p.tokens_per_step for p in same), window)
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
        at_least(self.steps, 1, "steps")
        if not 0 < self.eps < 1:
            raise ConfigError(f"eps must lie in (0, 1), got {self.eps}")

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = of_kind(cls, policies)
        at = zip(same, window.num_masks.tolist(), window.step.tolist(), strict=True)
        return _in_order(window, [p.order for p in same], ints((p._count(*where) for p, *where in at), window))

    def _count(self, num_masks: int, step: int) -> int:
        counts = rules.timestep_counts(num_masks, self.steps, self.eps)
        # Holes that grew meanwhile have more masks than were counted on.
        return counts[step] if step < len(counts) else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Renoise:
    """See ``revision_rules.renoise``. Needs a checkpoint trained on uniform noise."""

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
        at_least(self.bound, 0.0, "bound")
        at_least(self.settle_entropy, 0.0, "settle_entropy")
        at_least(self.steps, 1, "steps")
        fraction(self.cooling, "cooling")

    @property
    def reads_entropy(self) -> bool:
        return True

    @property
    def ends_circles(self) -> bool:
        return False  # noise is new at every step

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = of_kind(cls, policies)
        return revision_rules.renoise(
            window,
            bound=floats((p.bound for p in same), window),
            settle_entropy=floats((p.settle_entropy for p in same), window),
            max_steps=ints((p.steps for p in same), window),
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
    """See ``revision_rules.remdm``. Valid for any mask-trained checkpoint; quality rises with ``steps``."""

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
        at_least(self.steps, 1, "steps")
        fraction(self.eta, "eta")
        if self.loop is not None and not 0 < self.loop[0] <= self.loop[1] < 1:
            raise ConfigError(f"loop must be two rising fractions in (0, 1), got {self.loop}")
        if not 0 < self.loop_alpha < 1:
            raise ConfigError(f"loop_alpha must lie in (0, 1), got {self.loop_alpha}")

    @property
    def reads_entropy(self) -> bool:
        return False

    @property
    def ends_circles(self) -> bool:
        return False  # what is remasked is drawn anew at every step

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        same = of_kind(cls, policies)
        loops = [p.loop or (1.0, 1.0) for p in same]
        return revision_rules.remdm(
            window,
            steps=ints((p.steps for p in same), window),
            eta=floats((p.eta for p in same), window),
            is_rescaled=bools((p.rate is RemaskRate.RESCALE for p in same), window),
            is_by_confidence=bools((p.by_confidence for p in same), window),
            is_looped=bools((p.loop is not None for p in same), window),
            loop_start=floats((start for start, _ in loops), window),
            loop_stop=floats((stop for _, stop in loops), window),
            loop_alpha=floats((p.loop_alpha for p in same), window),
        )

    def max_steps(self, num_masks: int) -> int:
        return self.steps

    def temperature_scale(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfSpeculative(_Unmasking):
    """Lossless: the denoiser drafts a block, the next-token reading of the same weights checks it.

    A mode of the engine, not a rule for windows: it has no step to decide (``engine.speculation``). The tokens are
    those of the next-token reading alone, written several at a time.
    """

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        raise ConfigError("policy self_speculative continues prompts in the engine; it has no step for windows")


def decide(window: Window, policies: Sequence[Policy]) -> Decision:
    """Decide for a batch in which row i follows ``policies[i]``; rows of one class are decided together.

    Raises:
        ConfigError: the number of policies is not the number of rows.
    """
    if len(policies) != window.state.shape[0]:
        raise ConfigError(f"{window.state.shape[0]} rows need as many policies, got {len(policies)}")
    kinds = by_kind(policies)
    if len(kinds) == 1:
        return type(policies[0]).decide_rows(window, policies)
    parts = {}
    for kind, rows in kinds.items():
        index = torch.tensor(rows, device=window.state.device)
        parts[index] = kind.decide_rows(window.rows(index), [policies[row] for row in rows])
    return joined(window, parts)


def joined(window: Window, parts: Mapping[Tensor, Decision]) -> Decision:
    """One decision of those about the rows at each index."""
    commit, edit, remask = (torch.zeros_like(window.is_masked) for _ in range(3))
    is_settled, takes_argmax = (torch.zeros_like(window.seed, dtype=torch.bool) for _ in range(2))
    for index, part in parts.items():
        commit[index], edit[index], remask[index] = part.commit, part.edit, part.remask
        is_settled[index] = part.is_settled
        if part.takes_argmax is not None:
            takes_argmax[index] = part.takes_argmax
    return Decision(commit=commit, edit=edit, remask=remask, is_settled=is_settled, takes_argmax=takes_argmax)
