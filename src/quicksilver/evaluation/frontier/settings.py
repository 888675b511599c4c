"""The decoding settings that are tried: policies with their parameters, in place and block by block."""

from collections.abc import Sequence
from dataclasses import dataclass

from quicksilver.api import InfillLayout
from quicksilver.decoding import (
    ConfidenceThreshold,
    DynamicFactor,
    EntropyBound,
    FixedCount,
    FixedSteps,
    Hierarchical,
    JointThreshold,
    Order,
    Policy,
    ReMDM,
)
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy with its parameter."""

    name: str
    parameter: str
    policy: Policy


GRID = (
    *(
        NamedPolicy("confidence_threshold", f"{x}", ConfidenceThreshold(threshold=x))
        for x in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    ),
    *(NamedPolicy("dynamic_factor", f"{x}", DynamicFactor(factor=x)) for x in (0.25, 0.5, 1.0, 2.0)),
    *(NamedPolicy("entropy_bound", f"{x}", EntropyBound(bound=x)) for x in (0.05, 0.1, 0.3, 1.0)),
    *(
        NamedPolicy("hierarchical", f"{low}/{x}", Hierarchical(low=low, threshold=x))
        for low, x in ((0.4, 0.8), (0.62, 0.92))
    ),
    *(NamedPolicy("fixed_steps", f"{x}", FixedSteps(steps=x)) for x in (1, 2, 4, 6, 8)),
    *(NamedPolicy("confidence_order", f"{x} a step", FixedCount(tokens_per_step=x)) for x in (1, 2, 4)),
    *(NamedPolicy("margin_order", f"{x} a step", FixedCount(order=Order.MARGIN, tokens_per_step=x)) for x in (1, 2)),
    *(NamedPolicy("random_order", f"{x} a step", FixedCount(order=Order.RANDOM, tokens_per_step=x)) for x in (1, 2)),
    *(NamedPolicy("joint_threshold", f"{x}", JointThreshold(threshold=x)) for x in (0.5, 0.7, 0.9)),
    *(NamedPolicy("remdm", f"{x} steps", ReMDM(steps=x)) for x in (8, 16)),
)
"""``renoise`` is left out: it needs a checkpoint trained on uniform noise."""
BY_BLOCKS = ("confidence_threshold", "fixed_steps")
"""Policies that are also tried block by block, at every block length: one of confidence and one of counted forwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One way to decode holes."""

    policy: NamedPolicy
    layout: InfillLayout
    block_length: int | None = None
    """None in place, where all holes are denoised together."""

    @property
    def has_fixed_nfe(self) -> bool:
        """Whether a hole takes the same number of forwards whatever its length."""
        return self.block_length is None and isinstance(self.policy.policy, FixedSteps | ReMDM)

    @property
    def label(self) -> str:
        """For tables."""
        place = "in place" if self.block_length is None else f"blocks of {self.block_length}"
        return f"{self.policy.name} {self.policy.parameter}, {place}"

    @property
    def family(self) -> str:
        """What makes a line of a picture: all but the parameter."""
        place = "in place" if self.block_length is None else f"blocks of {self.block_length}"
        return f"{self.policy.name}, {place}"

    @property
    def slug(self) -> str:
        """Part of a file name."""
        place = "in-place" if self.block_length is None else f"blocks-{self.block_length}"
        return f"{self.policy.name}-{self.policy.parameter}-{place}".replace("/", "-").replace(" ", "-")


def make_settings(
    spec: DiffusionSpec,
    *,
    layouts: Sequence[InfillLayout] = (),
    policies: Sequence[str] = (),
    block_lengths: Sequence[int] = (),
) -> list[Setting]:
    """The settings to try; what is empty is everything that the checkpoint was trained for.

    Raises:
        ConfigError: the checkpoint does not know what is asked, or nothing is left.
    """
    if spec.objective is Objective.AUTOREGRESSIVE:
        raise ConfigError("an autoregressive checkpoint has one way to decode; it is the twin that others stand beside")
    known = {
        each.value: Layout(each.value if each is InfillLayout.IN_PLACE else "block_causal") for each in InfillLayout
    }
    trained = [each for each in InfillLayout if known[each.value] in spec.layouts]
    for layout in layouts:
        if layout not in trained:
            raise ConfigError(f"this checkpoint was not trained in layout {layout}; it knows {', '.join(trained)}")
    named = _named(spec, policies)
    found = []
    for layout in layouts or trained:
        if layout is InfillLayout.IN_PLACE:
            found += [Setting(policy=each, layout=layout) for each in named]
        else:
            found += _by_blocks(spec, named, block_lengths)
    if not found:
        raise ConfigError(f"of the policies asked for, none is tried block by block; there are {', '.join(BY_BLOCKS)}")
    return found


def _named(spec: DiffusionSpec, names: Sequence[str]) -> list[NamedPolicy]:
    known = dict.fromkeys(each.name for each in GRID)
    for name in names:
        if name not in known:
            raise ConfigError(f"no policy {name!r} in the grid; there are: {', '.join(known)}")
    is_edit_trained = bool(spec.noise.edit_rate)
    if "joint_threshold" in names and not is_edit_trained:
        raise ConfigError("joint_threshold edits visible tokens, but this checkpoint never saw wrong ones")
    return [
        each
        for each in GRID
        if (not names or each.name in names) and (is_edit_trained or each.name != "joint_threshold")
    ]


def _by_blocks(spec: DiffusionSpec, named: Sequence[NamedPolicy], block_lengths: Sequence[int]) -> list[Setting]:
    trained = sorted({spec.block_length, *spec.trained_block_lengths})
    for length in block_lengths:
        if length not in trained:
            raise ConfigError(f"block length {length} was not trained; the checkpoint knows {trained}")
    return [
        Setting(policy=each, layout=InfillLayout.PSM, block_length=length)
        for length in block_lengths or trained
        for each in named
        if each.name in BY_BLOCKS and not (isinstance(each.policy, FixedSteps) and each.policy.steps >= length)
    ]
