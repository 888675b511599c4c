"""The Python API: load a checkpoint folder, generate, fill holes, score, look at logits."""

from quicksilver.api.checking import Check, Problem, Repairs
from quicksilver.api.deciding import Decision
from quicksilver.api.events import Cell, Done, Draft, Edit, Snapshot, StreamEvent
from quicksilver.api.loading import bundled_models, load
from quicksilver.api.model import Model
from quicksilver.api.requests import (
    MARK,
    AnyConstraint,
    DecodingOptions,
    GenerateRequest,
    HoleOptions,
    InfillLayout,
    InfillRequest,
    split_template,
)
from quicksilver.api.results import Alternative, CheckReport, Completion, HoleText, Token
from quicksilver.api.scoring import Score
from quicksilver.api.serving import Answer, AsyncModel
from quicksilver.api.settled import SettledText
from quicksilver.decoding import Commit, FinishReason, Remask, Resize, State, TraceEntry
from quicksilver.models.ranks import Ranks

__all__ = [
    "MARK",
    "Alternative",
    "Answer",
    "AnyConstraint",
    "AsyncModel",
    "Cell",
    "Check",
    "CheckReport",
    "Commit",
    "Completion",
    "Decision",
    "DecodingOptions",
    "Done",
    "Draft",
    "Edit",
    "FinishReason",
    "GenerateRequest",
    "HoleOptions",
    "HoleText",
    "InfillLayout",
    "InfillRequest",
    "Model",
    "Problem",
    "Ranks",
    "Remask",
    "Repairs",
    "Resize",
    "Score",
    "SettledText",
    "Snapshot",
    "State",
    "StreamEvent",
    "Token",
    "TraceEntry",
    "bundled_models",
    "load",
    "split_template",
]
