"""What a sampler tells while it works: typed events, snapshots of the canvas, and the result.

All ranges are half-open offsets in a hole as it stands at that moment (block-by-block generation is hole 0). A client
that applies the events in order holds the canvas; what an OpenAI client sees is the leading run of committed tokens.
"""

from dataclasses import dataclass
from enum import StrEnum

from quicksilver.decoding.alternatives import TokenAlternatives
from quicksilver.decoding.canvas import NO_HOLE, State


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize:
    """``added`` masks were inserted before offset ``start``; negative: that many positions from it on were dropped.

    The canvas of a hole starts with the Resize that opens it; generation opens one block after the other.
    """

    hole: int
    start: int
    added: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Masks became tokens. They may still change until a Commit covers them.

    The draft that a hole starts with comes with confidence 1 before the first forward.
    """

    hole: int
    start: int
    token_ids: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """Draft tokens were replaced."""

    hole: int
    start: int
    token_ids: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Remask:
    """Draft tokens became masks again."""

    hole: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """The tokens of the range are final."""

    hole: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The whole canvas after a forward pass, prompt included, for display."""

    nfe: int
    token_ids: tuple[int, ...]
    state: tuple[State, ...]
    confidence: tuple[float, ...]
    hole: tuple[int, ...]
    """Hole number per position, ``NO_HOLE`` for the prompt."""

    @property
    def is_prompt(self) -> tuple[bool, ...]:
        return tuple(hole == NO_HOLE for hole in self.hole)


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceEntry:
    """One decision: at forward ``step`` (from 1) position ``position`` of that step's canvas took ``token_id``.

    An expand or delete decision is traced with that token's id, a remask with the mask's id and confidence 0.
    """

    step: int
    hole: int
    position: int
    token_id: int
    confidence: float


class FinishReason(StrEnum):
    """Why decoding ended."""

    EOS = "eos"
    STOP = "stop"
    """One of ``stop_ids`` was written, or the ``stop`` rule ended the response."""
    LENGTH = "length"
    """``max_tokens`` are written."""
    FILLED = "filled"
    """Every hole is filled."""
    MAX_NFE = "max_nfe"
    """``max_nfe`` forwards are spent; the open masks were all committed at the last one, and doubtful drafts kept."""
    DEADLINE = "deadline"
    """The request's time is up: as MAX_NFE, at the forward that ``nfe`` says, so that a replay may repeat it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was written, and what it took."""

    holes: tuple[tuple[int, ...], ...]
    """Token ids per hole, without eos and stop ids; generation has one hole."""
    confidence: tuple[tuple[float, ...], ...]
    """Probability of every token of ``holes`` when it was written, or found fit in a draft; 1 if it was frozen."""
    step_committed: tuple[tuple[int, ...], ...]
    """Forward pass, from 1, that wrote every token of ``holes``; 0 if it was given in the hole's draft."""
    nfe: int
    """Forward passes, all of them counted. Full recompute needs no commit passes; an engine with a cache may."""
    num_edits: int
    finish_reason: FinishReason
    trace: tuple[TraceEntry, ...]
    num_stale_forwards: int = 0
    """Forwards that saw stale rows; the others computed all of theirs. See ``kept_rows``."""
    num_stale_rows: int = 0
    """Rows of which keys and values of an earlier forward were read, summed over those forwards."""
    alternatives: tuple[tuple[TokenAlternatives, ...], ...] = ()
    """For every token of ``holes`` the likeliest ones at the forward that ``confidence`` is of, on the same terms: at
    temperature 1, over the allowed tokens, after bias and penalties. The token itself is among them if it is likely
    enough; expand and delete never are. A frozen token has none. Empty where ``num_alternatives`` is 0."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All written tokens, hole after hole."""
        return tuple(token for hole in self.holes for token in hole)

    @property
    def tpf(self) -> float:
        """Text tokens written per forward pass; 0 if there was none."""
        return len(self.token_ids) / self.nfe if self.nfe else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The last event."""

    result: Result


Event = Resize | Draft | Edit | Remask | Commit | Frame | Done
