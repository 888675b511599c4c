"""Policies and revisions by their names on the command line and in requests."""

from dataclasses import fields

from quicksilver.decoding.policies import (
    ConfidenceThreshold,
    DynamicFactor,
    EntropyBound,
    FixedCount,
    FixedSteps,
    Hierarchical,
    Order,
    Policy,
    RemaskRate,
    ReMDM,
    Renoise,
    SelfSpeculative,
    Timesteps,
)
from quicksilver.decoding.revisions import (
    JointThreshold,
    MaskAndRepredict,
    RandomRemasks,
    Revising,
    Revision,
    TokenEdits,
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

_PLAIN = frozenset(_KINDS.values()) - {JointThreshold, Renoise, ReMDM}
"""Policies that take a revision."""
POLICY_NAMES: tuple[str, ...] = tuple(_KINDS)
"""Policies that decide windows."""
SELF_SPECULATIVE = "self_speculative"
"""The one that does not, see ``SelfSpeculative``."""

_REMDM = {
    "remdm_cap": RandomRemasks(),
    "remdm_rescale": RandomRemasks(rate=RemaskRate.RESCALE),
    "remdm_conf": RandomRemasks(by_confidence=True, eta=1.0),
}
REVISION_NAMES: tuple[str, ...] = ("none", "edit", "remask", *_REMDM)
"""What may happen to drafts, beside any policy that does not revise by itself; see ``revisions``."""


def make_policy(
    name: str,
    *,
    revision: str | None = None,
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
    ``joint_threshold`` and for the revision the checkpoint's calibrated ``defaults``. Finer settings: build the
    policy's class directly. ``joint_threshold`` is ``confidence_threshold`` with revision ``edit``: another revision
    takes the place of its edits.

    Raises:
        ConfigError: a name is unknown, or the policy has no such parameter, or its value is out of range.
    """
    if name == "joint_threshold" and revision is not None:
        name = "confidence_threshold"
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
    revised = _revision_of(name, revision, edit_threshold, defaults, is_free=kind in _PLAIN)
    if revised is not None:
        given.pop("edit_threshold", None)
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
    policy = kind(**given)
    return policy if revised is None else Revising(unmasking=policy, revision=revised)


def _revision_of(
    policy: str, name: str | None, threshold: float | None, defaults: DecodingDefaults | None, *, is_free: bool
) -> Revision | None:
    if name is not None and name not in REVISION_NAMES:
        raise ConfigError(f"no revision {name!r}; known: {', '.join(REVISION_NAMES)}")
    if not is_free:
        if name is not None:
            raise ConfigError(f"policy {policy} decides by itself what is revised: leave revision out")
        return None
    calibrated = defaults or DecodingDefaults()
    name = name or calibrated.revision
    threshold = calibrated.edit_threshold if threshold is None else threshold
    changes, steps = calibrated.max_edits, calibrated.max_post_steps
    match name:
        case "none":
            return None
        case "edit":
            return TokenEdits(threshold=threshold, max_changes=changes, max_post_steps=steps)
        case "remask":
            # Where edits may go on for ever, masks may not: every one costs a forward.
            changes = MaskAndRepredict().max_changes if changes is None else changes
            return MaskAndRepredict(threshold=threshold, max_changes=changes, max_post_steps=steps)
        case _ if name in _REMDM:
            return _REMDM[name]
    raise ConfigError(f"the checkpoint asks for revision {name!r}; known: {', '.join(REVISION_NAMES)}")
