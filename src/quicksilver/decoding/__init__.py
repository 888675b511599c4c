"""Decoding: canvas, policies and the plain reference sampler. It sees logits, not models."""

from quicksilver.decoding.adjustments import Adjustments, adjust, canvas_adjustments, token_adjustments
from quicksilver.decoding.autoregressive import generate_autoregressive
from quicksilver.decoding.blockwise import generate, infill_psm, psm_prompt
from quicksilver.decoding.canvas import NO_HOLE, Canvas, State
from quicksilver.decoding.events import (
    Commit,
    Done,
    Draft,
    Edit,
    Event,
    FinishReason,
    Frame,
    Remask,
    Resize,
    Result,
    TraceEntry,
)
from quicksilver.decoding.guidance import Classifier, Guidance
from quicksilver.decoding.inplace import Hole, Segment, Text, infill
from quicksilver.decoding.kept_rows import Cache
from quicksilver.decoding.params import SamplingParams, StopRule, end_ids, kept_tokens, resolve_policy
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
    decide,
)
from quicksilver.decoding.policy_names import POLICY_NAMES, REVISION_NAMES, make_policy
from quicksilver.decoding.protocol import CanvasLogits, ConditionedLogits, StaleLogits
from quicksilver.decoding.revisions import (
    JointThreshold,
    MaskAndRepredict,
    RandomRemasks,
    Revising,
    Revision,
    TokenEdits,
)
from quicksilver.decoding.sampler import final_result
from quicksilver.decoding.selection import Candidates, select, token_probability
from quicksilver.decoding.warm_start import draft_events, drafted_hole, judge_draft, keep_draft
from quicksilver.decoding.window import Decision, Window

__all__ = [
    "NO_HOLE",
    "POLICY_NAMES",
    "REVISION_NAMES",
    "Adjustments",
    "Cache",
    "Candidates",
    "Canvas",
    "CanvasLogits",
    "Classifier",
    "Commit",
    "ConditionedLogits",
    "ConfidenceThreshold",
    "Decision",
    "Done",
    "Draft",
    "DynamicFactor",
    "Edit",
    "EntropyBound",
    "Event",
    "FinishReason",
    "FixedCount",
    "FixedSteps",
    "Frame",
    "Guidance",
    "Hierarchical",
    "Hole",
    "JointThreshold",
    "MaskAndRepredict",
    "Order",
    "Policy",
    "RandomRemasks",
    "ReMDM",
    "Remask",
    "RemaskRate",
    "Renoise",
    "Resize",
    "Result",
    "Revising",
    "Revision",
    "SamplingParams",
    "Segment",
    "SelfSpeculative",
    "StaleLogits",
    "State",
    "StopRule",
    "Text",
    "Timesteps",
    "TokenEdits",
    "TraceEntry",
    "Window",
    "adjust",
    "canvas_adjustments",
    "decide",
    "draft_events",
    "drafted_hole",
    "end_ids",
    "final_result",
    "generate",
    "generate_autoregressive",
    "infill",
    "infill_psm",
    "judge_draft",
    "keep_draft",
    "kept_tokens",
    "make_policy",
    "psm_prompt",
    "resolve_policy",
    "select",
    "token_adjustments",
    "token_probability",
]
