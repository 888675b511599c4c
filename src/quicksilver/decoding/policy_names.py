"""Policies by their names on the command line and in requests."""

from dataclasses import fields

from quicksilver.decoding.policies import (
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
    Renoise,
    SelfSpeculative,
    Timesteps,
)
from quicksilver.diffusion.spec import DecodingDefaults
from quicksilver.errors import ConfigError

_KINDS: dict[str, type[Policy]] = {
    "confidence_threshold": ConfidenceThreshold,
    "dynamic_factor": DynamicFactor,
    "entropy_bound": EntropyBound,
    "hierarchical": Hierarchical,
    "fixed_steps": FixedSteps,
    "confidence_order": FixedCount,
    "margin_order": FixedCount,
    "entropy_order": FixedCount,
    "random_order": FixedCount,
    "timesteps": Timesteps,
    "joint_threshold": JointThreshold,
    "renoise": Renoise,
    "remdm": ReMDM,
}
_ORDERS = {
    "confidence_order": Order.CONFIDENCE,
    "margin_order": Order.MARGIN,
    "entropy_order": Order.ENTROPY,
    "random_order": Order.RANDOM,
}

POLICY_NAMES: tuple[str, ...] = tuple(_KINDS)
"""Policies that decide windows."""
SELF_SPECULATIVE = "self_speculative"
"""The one that does not, see ``SelfSpeculative``."""


def make_policy(
    name: str,
    *,
    threshold: float | None = None,
    edit_threshold: float | None = None,
    factor: float | None = None,
    bound: float | None = None,
    steps: int | None = None,
    tokens_per_step: int | None = None,
    defaults: DecodingDefaults | None = None,
) -> Policy:
    """Build a policy by its name on the command line and in requests.

    What is None keeps the policy's own default, or for the two thresholds of ``confidence_threshold`` and
    ``joint_threshold`` the checkpoint's calibrated ``defaults``. Finer settings: build the policy's class directly.

    Raises:
        ConfigError: the name is unknown, or the policy has no such parameter, or its value is out of range.
    """
    kind = SelfSpeculative if name == SELF_SPECULATIVE else _KINDS.get(name)
    if kind is None:
        raise ConfigError(f"no policy {name!r}; known: {', '.join((*POLICY_NAMES, SELF_SPECULATIVE))}")
    options = {
        "threshold": threshold,
        "edit_threshold": edit_threshold,
        "factor": factor,
        "bound": bound,
        "steps": steps,
        "tokens_per_step": tokens_per_step,
    }
    given: dict[str, object] = {key: value for key, value in options.items() if value is not None}
    known = {f.name for f in fields(kind)}  # pyright: ignore[reportArgumentType]
    for key in given.keys() - known:
        takes = sorted(known & options.keys())
        raise ConfigError(f"policy {name} has no {key}; it takes {', '.join(takes)}")
    if defaults is not None and kind is ConfidenceThreshold:
        given = {"threshold": defaults.threshold} | given
    if defaults is not None and kind is JointThreshold:
        names = ("threshold", "edit_threshold", "max_edits", "max_post_steps")
        given = {name: getattr(defaults, name) for name in names} | given
    if name in _ORDERS:
        given["order"] = _ORDERS[name]
    return kind(**given)
