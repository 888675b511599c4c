"""What a request gives back."""

from dataclasses import dataclass

from quicksilver.decoding import FinishReason, TraceEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A token that might have been written."""

    token_id: int
    text: str
    """As ``Token.text``."""
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One written token."""

    token_id: int
    text: str
    """Bytes that are no whole character by themselves appear as ``\\xNN``."""
    confidence: float
    """Probability of the token when it was written."""
    step: int
    """Forward pass that wrote it, from 1."""
    alternatives: tuple[Alternative, ...] = ()
    """The likeliest tokens at that forward, ``DecodingOptions.num_alternatives`` of them, likeliest first, by the same
    probabilities as ``confidence``. The token is among them unless it was drawn from behind them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoleText:
    """What was written in one hole."""

    text: str
    """Bytes that are no whole character become U+FFFD."""
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What came of a check, see ``api.checking``."""

    name: str
    parts: tuple[str, ...]
    """What was checked, in words."""
    is_passed: bool
    num_rounds: int
    """How often a repair was tried."""
    num_drafts: int
    """Drafts of all these rounds."""
    problems: tuple[str, ...]
    """What is still wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A finished request, and what it took."""

    text: str
    """Infill: the whole text, holes filled, every given character as it was. Generation: what follows the prompt."""
    holes: tuple[HoleText, ...]
    """In order; generation counts as one hole."""
    nfe: int
    """Forward passes, all of them counted."""
    num_edits: int
    seconds: float
    """Wall time of decoding: tokenizing, loading and the time a consumer of the stream took are left out."""
    finish_reason: FinishReason
    seed: int
    trace: tuple[TraceEntry, ...]
    """Every decision, in order; positions are those of the canvas at that step."""
    num_stale_forwards: int = 0
    """Forwards that saw rows as an earlier one had computed them; 0 with cache ``exact``."""
    num_stale_rows: int = 0
    """Those rows, summed over these forwards."""
    check: CheckReport | None = None
    """None: nothing was checked. With one, costs are those of all drafts."""

    @property
    def num_tokens(self) -> int:
        """Written tokens, eos left out."""
        return sum(len(hole.tokens) for hole in self.holes)

    @property
    def tpf(self) -> float:
        """Tokens per forward pass; 0 if there was none."""
        return self.num_tokens / self.nfe if self.nfe else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second; 0 if no time passed."""
        return self.num_tokens / self.seconds if self.seconds else 0.0
