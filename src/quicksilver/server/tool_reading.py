"""Reads calls of tools from a text that comes piece by piece, as ``constraints.tool_calls`` has it written."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from quicksilver.constraints.tool_calls import ToolForm


@dataclass(frozen=True, slots=True)
class Said:
    """Text that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A call of a tool."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """A piece of the JSON of a call's arguments."""

    index: int
    text: str


Piece = Said | Begun | Argued


class ToolReader:
    """Takes the text of one answer."""

    def __init__(self, form: ToolForm, *, has_text: bool) -> None:
        """Expect text or calls; without ``has_text`` a call at once."""
        self._form = form
        self._begin = form.opening + form.before_name()
        self._rest = ""
        self._read: Callable[[], Piece | None] = self._text if has_text else self._head
        self._arguments = _JsonEnd()
        self.num_calls = 0
        self.is_whole = has_text
        """Whether no call is open: what was read may be all."""

    def take(self, text: str) -> list[Piece]:
        """What a further piece of the text adds."""
        self._rest += text
        pieces = []
        while True:
            before = (self._rest, self._read)
            piece = self._read()
            if piece is not None:
                pieces.append(piece)
            elif (self._rest, self._read) == before:
                return pieces

    def end(self) -> list[Piece]:
        """What was held back, since the text has ended."""
        rest, self._rest = self._rest, ""
        return [Said(rest)] if rest and self._read == self._text else []

    def _text(self) -> Piece | None:
        opening = self._form.opening
        at = self._rest.find(opening)
        if at >= 0:
            self._read, self.is_whole = self._head, False
        else:
            at = len(self._rest) - _overlap(self._rest, opening)
        said, self._rest = self._rest[:at], self._rest[at:]
        return Said(said) if said else None

    def _head(self) -> Piece | None:
        after = self._form.after_name()
        end = self._rest.find(after, len(self._begin))
        if end < 0:
            return None
        name = self._rest[len(self._begin) : end]
        self._rest = self._rest[end + len(after) :]
        self._read, self._arguments = self._body, _JsonEnd()
        return Begun(self.num_calls, f"call_{secrets.token_hex(12)}", name)

    def _body(self) -> Piece | None:
        count = self._arguments.take(self._rest)
        piece, self._rest = self._rest[:count], self._rest[count:]
        if self._arguments.has_ended:
            self._read = self._tail
        return Argued(self.num_calls, piece) if piece else None

    def _tail(self) -> Piece | None:
        closing = "}" + self._form.closing
        if self._rest.startswith(closing):
            self._rest = self._rest[len(closing) :]
            self._read, self.is_whole = self._next, True
            self.num_calls += 1
        return None

    def _next(self) -> Piece | None:
        if self._rest and len(self._rest) > len(self._form.between):
            self._rest = self._rest[len(self._form.between) :]
            self._read, self.is_whole = self._head, False
        return None


class _JsonEnd:
    """Finds where an object ends."""

    def __init__(self) -> None:
        self._depth, self._is_string, self._is_escaped = 0, False, False
        self.has_ended = False

    def take(self, text: str) -> int:
        """How many further characters belong to it."""
        for count, char in enumerate(text, 1):
            if self._is_string:
                self._is_string = self._is_escaped or char != '"'
                self._is_escaped = char == "\\" and not self._is_escaped
            elif char == '"':
                self._is_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.has_ended = True
                    return count
        return len(text)


def _overlap(text: str, opening: str) -> int:
    """Characters at the end of a text with which the opening may begin."""
    return next((n for n in range(min(len(text), len(opening) - 1), 0, -1) if opening.startswith(text[-n:])), 0)
