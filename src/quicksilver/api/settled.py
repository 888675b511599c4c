"""The part of an answer that will not change any more, as an append-only stream of text.

What an OpenAI client sees: the leading run of committed tokens, never retracted. Bytes that are no whole character yet
wait for the rest, and so does text that may turn out to be the beginning of a stop string.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field

from quicksilver.api.events import Draft, Edit, StreamEvent
from quicksilver.api.stopping import cut_at_stop
from quicksilver.decoding import Commit, Remask, Resize
from quicksilver.tokenization.tokenizer import Tokenizer

_MASK = -1


@dataclass(slots=True)
class _Position:
    token_id: int = _MASK
    is_final: bool = False


@dataclass(slots=True)
class _Row:
    """One hole as the events so far leave it."""

    positions: list[_Position] = field(default_factory=list)
    num_read: int = 0
    """Leading positions whose text has been taken."""


class SettledText:
    """Follows the events of one hole and says what text they have settled."""

    def __init__(self, tokenizer: Tokenizer, eos_id: int, *, hole: int = 0, stop: Sequence[str] = ()) -> None:
        """Start with nothing settled.

        Args:
            tokenizer: of the model.
            eos_id: ends the text.
            hole: which hole to follow; events of others are passed over.
            stop: texts before which the answer ends.
        """
        self._tokenizer, self._eos_id, self._hole, self._stop = tokenizer, eos_id, hole, tuple(stop)
        self._row = _Row()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text, self._told = "", 0
        self._has_ended = False

    @property
    def text(self) -> str:
        """All that has been told."""
        return self._text[: self._told]

    @property
    def num_tokens(self) -> int:
        """Tokens whose text is settled."""
        return self._row.num_read

    def take(self, event: StreamEvent) -> str:
        """What the event adds to the settled text; mostly nothing."""
        if getattr(event, "hole", None) != self._hole:
            return ""
        self._apply(event)
        return self._read() if isinstance(event, Commit) else ""

    def rest(self, text: str) -> str:
        """What is missing to the answer's whole text, known at its end."""
        rest = text[self._told :]
        self._text, self._told, self._has_ended = text, len(text), True
        return rest

    def _apply(self, event: StreamEvent) -> None:
        positions = self._row.positions
        match event:
            case Resize(start=start, added=added) if added >= 0:
                positions[start:start] = [_Position() for _ in range(added)]
            case Resize(start=start, added=added):
                del positions[start : start - added]
            case Draft() | Edit():
                for position, token in zip(positions[event.start : event.stop], event.token_ids, strict=True):
                    position.token_id = token
            case Remask(start=start, stop=stop):
                for position in positions[start:stop]:
                    position.token_id = _MASK
            case Commit(start=start, stop=stop):
                for position in positions[start:stop]:
                    position.is_final = True
            case _:
                pass

    def _read(self) -> str:
        row = self._row
        while row.num_read < len(row.positions) and row.positions[row.num_read].is_final and not self._has_ended:
            token = row.positions[row.num_read].token_id
            row.num_read += 1
            if token == self._eos_id:
                self._has_ended = True
            else:
                self._text += self._decoder.decode(self._tokenizer.token_bytes(token))
        return self._tell()

    def _tell(self) -> str:
        text = cut_at_stop(self._text, self._stop)
        end = len(text) if len(text) < len(self._text) else len(text) - self._held_back(text)
        told = text[self._told : end]
        self._told = max(self._told, end)
        return told

    def _held_back(self, text: str) -> int:
        """Characters at the end that may begin a stop string."""
        most = max((len(stop) for stop in self._stop), default=1) - 1
        for count in range(min(most, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stop):
                return count
        return 0
