"""Revisions: what may happen to a draft before its block is final, beside any policy that commits masks.

A revision is a frozen dataclass; the tensor work is in ``revision_rules``. What changes is bounded: a position changes
``max_changes`` times at the most, a block has at most ``max_post_steps`` steps that begin without a mask, and one that
stands as it stood before ends there. Under a constraint no change breaks it: candidates are tokens of one text that
fits, and a text that changes drafts is written wholly or not at all (``constrained.decide_jointly``).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from quicksilver.decoding import revision_rules
from quicksilver.decoding.policies import ConfidenceThreshold, Policy, RemaskRate, decide, joined
from quicksilver.decoding.row_parameters import at_least, bools, by_kind, floats, fraction, ints, of_kind
from quicksilver.decoding.window import Decision, Window
from quicksilver.errors import ConfigError

_ANY_NUMBER = 2**31
"""More changes than a position can have."""


@runtime_checkable
class Revision(Protocol):
    """Parameters of one request and the rule that reads them."""

    @property
    def ends_circles(self) -> bool:
        """See ``Policy.ends_circles``."""
        ...

    @classmethod
    def revise_rows(cls, window: Window, commit: Bool[Tensor, "B W"], revisions: "Sequence[Revision]") -> Decision:
        """What changes beside what is committed; row i belongs to ``revisions[i]``, all of this class."""
        ...

    def max_steps(self, num_masks: int, unmasking: int) -> int:
        """Forwards of a block whose masks alone take ``unmasking`` of them at the most."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suspecting:
    """Shared by revisions of drafts that the denoiser now contradicts."""

    threshold: float = 0.9
    """Confidence of another token from which a draft is changed."""
    max_changes: int | None = 2
    """Of a position; None: any number, as LLaDA2.1 has it. Then a block that goes in a circle does so until
    ``max_post_steps`` are spent, where otherwise the first return to a known state ends it."""
    max_post_steps: int = 4
    """Steps per block that begin without a mask."""

    def __post_init__(self) -> None:
        at_least(self.threshold, 0.0, "threshold")
        if self.max_changes is not None:
            at_least(self.max_changes, 0, "max_changes")
        at_least(self.max_post_steps, 1, "max_post_steps")

    @property
    def ends_circles(self) -> bool:
        return self.max_changes is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEdits(_Suspecting):
    """See ``revision_rules.token_edits``. Needs a checkpoint trained to mend visible wrong tokens."""

    @classmethod
    def revise_rows(cls, window: Window, commit: Bool[Tensor, "B W"], revisions: Sequence[Revision]) -> Decision:
        same = of_kind(cls, revisions)
        return revision_rules.token_edits(
            window,
            commit,
            threshold=floats((r.threshold for r in same), window),
            max_changes=ints((_ANY_NUMBER if r.max_changes is None else r.max_changes for r in same), window),
            max_post_steps=ints((r.max_post_steps for r in same), window),
        )

    def max_steps(self, num_masks: int, unmasking: int) -> int:
        return unmasking + self.max_post_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskAndRepredict(_Suspecting):
    """See ``revision_rules.mask_and_repredict``. Reads what the denoiser says of visible tokens, as edits do."""

    def __post_init__(self) -> None:
        _Suspecting.__post_init__(self)
        if self.max_changes is None:
            raise ConfigError("max_changes of mask-and-repredict must be a number: it bounds the forwards")

    @classmethod
    def revise_rows(cls, window: Window, commit: Bool[Tensor, "B W"], revisions: Sequence[Revision]) -> Decision:
        same = of_kind(cls, revisions)
        return revision_rules.mask_and_repredict(
            window,
            commit,
            threshold=floats((r.threshold for r in same), window),
            max_changes=ints((r.max_changes or 0 for r in same), window),
            max_post_steps=ints((r.max_post_steps for r in same), window),
        )

    def max_steps(self, num_masks: int, unmasking: int) -> int:
        return unmasking + num_masks * (self.max_changes or 0) + self.max_post_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomRemasks:
    """See ``revision_rules.random_remasks``. Valid for any mask-trained checkpoint."""

    rate: RemaskRate = RemaskRate.CAP
    eta: float = 0.02
    """In [0, 1]; 0 never remasks."""
    by_confidence: bool = False
    """Remask tokens that were committed with little confidence more often."""
    max_changes: int = 2
    """Of a position."""

    def __post_init__(self) -> None:
        fraction(self.eta, "eta")
        at_least(self.max_changes, 0, "max_changes")

    @property
    def ends_circles(self) -> bool:
        return False  # what is remasked is drawn anew at every step

    @classmethod
    def revise_rows(cls, window: Window, commit: Bool[Tensor, "B W"], revisions: Sequence[Revision]) -> Decision:
        same = of_kind(cls, revisions)
        return revision_rules.random_remasks(
            window,
            commit,
            eta=floats((r.eta for r in same), window),
            is_rescaled=bools((r.rate is RemaskRate.RESCALE for r in same), window),
            is_by_confidence=bools((r.by_confidence for r in same), window),
            max_changes=ints((r.max_changes for r in same), window),
        )

    def max_steps(self, num_masks: int, unmasking: int) -> int:
        return unmasking + num_masks * self.max_changes


class _Pair(ABC):
    """Shared by policies that are made of one that commits and a revision."""

    __slots__ = ()
    revises: ClassVar[bool] = True
    starts_from_noise: ClassVar[bool] = False

    @property
    @abstractmethod
    def parts(self) -> tuple[Policy, Revision]:
        """What commits, and what revises."""

    @property
    def reads_entropy(self) -> bool:
        return self.parts[0].reads_entropy

    @property
    def ends_circles(self) -> bool:
        return self.parts[1].ends_circles

    @classmethod
    def decide_rows(cls, window: Window, policies: Sequence[Policy]) -> Decision:
        pairs = [policy.parts for policy in of_kind(_Pair, policies)]
        commit = decide(window, [unmasking for unmasking, _ in pairs]).commit
        revisions = [each for _, each in pairs]
        kinds = by_kind(revisions)
        if len(kinds) == 1:
            return type(revisions[0]).revise_rows(window, commit, revisions)
        parts = {}
        for kind, rows in kinds.items():
            index = torch.tensor(rows, device=window.state.device)
            parts[index] = kind.revise_rows(window.rows(index), commit[index], [revisions[row] for row in rows])
        return joined(window, parts)

    def max_steps(self, num_masks: int) -> int:
        unmasking, revised = self.parts
        return revised.max_steps(num_masks, unmasking.max_steps(num_masks))

    def temperature_scale(self, step: int) -> float:
        return self.parts[0].temperature_scale(step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Revising(_Pair):
    """A policy whose committed tokens stay drafts, which a revision may change until the block is settled."""

    unmasking: Policy
    """One that does not revise by itself."""
    revision: Revision

    def __post_init__(self) -> None:
        if self.unmasking.revises:
            raise ConfigError(f"{type(self.unmasking).__name__} revises by itself: it takes no other revision")

    @property
    def parts(self) -> tuple[Policy, Revision]:
        return self.unmasking, self.revision


@dataclass(frozen=True, kw_only=True, slots=True)
class JointThreshold(_Pair):
    """``ConfidenceThreshold`` with ``TokenEdits``, as LLaDA2.1 decodes (arXiv:2602.08676)."""

    threshold: float = 0.7
    edit_threshold: float = 0.9
    max_edits: int | None = 2
    """See ``TokenEdits.max_changes``."""
    max_post_steps: int = 4

    def __post_init__(self) -> None:
        at_least(self.edit_threshold, 0.0, "edit_threshold")
        if self.max_edits is not None:
            at_least(self.max_edits, 0, "max_edits")
        _ = self.parts

    @property
    def parts(self) -> tuple[Policy, Revision]:
        edits = TokenEdits(
            threshold=self.edit_threshold, max_changes=self.max_edits, max_post_steps=self.max_post_steps
        )
        return ConfidenceThreshold(threshold=self.threshold), edits


def edits_tokens(policy: Policy) -> bool:
    """Whether a policy lets the denoiser overrule visible tokens."""
    return isinstance(policy, _Pair) and isinstance(policy.parts[1], TokenEdits)
