"""From the fields of a request to decoding options."""

from dataclasses import replace

from quicksilver.api import DecodingOptions, Model
from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.diffusion.spec import Objective
from quicksilver.protocol.sampling import Effort, SamplingFields
from quicksilver.server.errors import ApiError

EFFORT_THRESHOLDS = {Effort.INSTANT: 0.5, Effort.LOW: 0.7, Effort.HIGH: 0.97}
"""Confidence from which a token is committed; medium leaves it to the checkpoint. Less means fewer forwards. Read by
checkpoints whose default policy has a threshold, and only where the request chooses nothing itself."""

_THRESHOLD_POLICIES = frozenset({"confidence_threshold", "joint_threshold"})


def decoding_options(
    fields: SamplingFields,
    model: Model,
    *,
    draft_threshold: float | None = None,
    num_alternatives: int = 0,
    constraint: TokenAutomaton | None = None,
    has_own_ends: bool = False,
) -> DecodingOptions:
    """The options of a request.

    Args:
        fields: of the request.
        model: that is asked.
        draft_threshold: None: the default.
        num_alternatives: to name beside each written token.
        constraint: of the answer.
        has_own_ends: constraints say where everything that is written ends, and keep stop texts out of it.

    Raises:
        ApiError: a key of ``logit_bias`` is no token id.
        ConfigError: the options contradict each other or the checkpoint.
    """
    options = DecodingOptions(
        policy=fields.policy,
        steps=fields.steps,
        revision=fields.revision,
        guidance=fields.guidance,
        cfg_until=fields.cfg_until,
        negative_prompt=fields.negative_prompt,
        classifier=fields.classifier,
        classifier_scale=fields.classifier_scale,
        block_length=_block_length(fields, model),
        cache=fields.cache,
        refresh_every=fields.refresh_every,
        temperature=fields.temperature,
        # Clients send negative seeds; the engine's lie in [0, 2**63).
        seed=None if fields.seed is None else fields.seed % 2**63,
        max_nfe=fields.max_nfe,
        deadline_ms=fields.deadline_ms,
        top_k=fields.top_k if fields.top_k is not None and fields.top_k > 0 else None,
        top_p=fields.top_p,
        logit_bias=_logit_bias(fields.logit_bias or {}),
        stop=() if has_own_ends else fields.stop_texts,
        threshold=_threshold(fields, model),
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        num_alternatives=num_alternatives,
        constraint=constraint,
    )
    if draft_threshold is not None:
        options = replace(options, draft_threshold=draft_threshold)
    options.resolve_policy(model.spec)
    return options


def _threshold(fields: SamplingFields, model: Model) -> float | None:
    if fields.threshold is not None or fields.reasoning_effort is None:
        return fields.threshold
    is_chosen = fields.policy is not None or fields.steps is not None
    is_causal = model.spec.objective is Objective.AUTOREGRESSIVE
    if is_chosen or is_causal or model.spec.decoding.policy not in _THRESHOLD_POLICIES:
        return None
    return EFFORT_THRESHOLDS.get(fields.reasoning_effort)


def _block_length(fields: SamplingFields, model: Model) -> int | None:
    is_causal = model.spec.objective is Objective.AUTOREGRESSIVE
    if fields.block_length is not None or not fields.realtime or is_causal:
        return fields.block_length
    return min({model.spec.block_length, *model.spec.trained_block_lengths})


def _logit_bias(bias: dict[str, float]) -> tuple[tuple[int, float], ...]:
    try:
        return tuple((int(token), value) for token, value in bias.items())
    except ValueError as error:
        raise ApiError(
            400, "logit_bias must map token ids to numbers", param="logit_bias", code="invalid_value"
        ) from error
