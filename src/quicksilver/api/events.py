"""Stream events with text, for people and programs that show a request while it runs.

Ranges are half-open token offsets in a hole as it stands at that moment; applying the events in order gives the result.
``Remask``, ``Commit`` and ``Resize`` carry no text and are the sampler's own (``quicksilver.decoding``).
"""

from dataclasses import dataclass

from quicksilver.api.results import Completion
from quicksilver.decoding import Commit, Remask, Resize, State


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    hole: int
    start: int
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    """One per token."""
    confidence: tuple[float, ...]

    @property
    def stop(self) -> int:
        return self.start + len(self.texts)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft(_Written):
    """Masks became tokens, which may still change until a Commit covers them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit(_Written):
    """Draft tokens were replaced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One position of a hole."""

    text: str
    """Empty for a mask."""
    state: State
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All holes after a forward pass."""

    nfe: int
    holes: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The last event."""

    completion: Completion


StreamEvent = Draft | Edit | Remask | Commit | Resize | Snapshot | Done
