"""Merged code with open questions in it, and the result that names them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quicksilver.coding.apply.lines import Lines
from quicksilver.errors import MergeError


@dataclass(frozen=True, slots=True)
class Choice:
    """Lines that the snippet leaves undetermined; the first option is what is most likely meant."""

    options: tuple[Lines, ...]


Piece = str | Choice


@dataclass(frozen=True, slots=True)
class Hole:
    """A part of the merged text, ``text[start:end]``, for which there are several candidates; it shows the first."""

    start: int
    end: int
    candidates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """A file with an edit in it."""

    text: str
    holes: tuple[Hole, ...] = ()
    """In order, apart from each other; none where structure and anchors determine everything."""

    def resolve(self, picks: Sequence[int]) -> str:
        """The text with one candidate for each hole.

        Raises:
            MergeError: not as many picks as holes, or a pick that is no candidate.
        """
        if len(picks) != len(self.holes):
            raise MergeError(f"got {len(picks)} picks for {len(self.holes)} holes; give one for each")
        text = self.text
        for hole, pick in reversed(list(zip(self.holes, picks, strict=True))):
            if not 0 <= pick < len(hole.candidates):
                raise MergeError(f"candidate {pick} of a hole that has {len(hole.candidates)}; count from 0")
            text = text[: hole.start] + hole.candidates[pick] + text[hole.end :]
        return text


def likeliest(pieces: Iterable[Piece]) -> Lines:
    """The lines with every choice made for its first option."""
    lines: list[str] = []
    for piece in pieces:
        lines.extend((piece,) if isinstance(piece, str) else piece.options[0])
    return tuple(lines)


def choose(options: Sequence[Sequence[str]]) -> list[Piece]:
    """A choice between texts, with the lines that all of them share outside it."""
    distinct = list(dict.fromkeys(map(tuple, options)))
    if len(distinct) == 1:
        return list(distinct[0])
    head = _shared(distinct)
    tail = _shared([option[head:][::-1] for option in distinct])
    choice = Choice(tuple(option[head : len(option) - tail] for option in distinct))
    return [*distinct[0][:head], choice, *distinct[0][len(distinct[0]) - tail :]]


def _shared(options: Sequence[Lines]) -> int:
    """Lines that all options start with."""
    count = 0
    for lines in zip(*options, strict=False):
        if len(set(lines)) > 1:
            break
        count += 1
    return count


def assembled(pieces: Sequence[Piece], newline: str, ends_with_newline: bool) -> Merge:
    """Pieces as one text, in which every line has an end, but for the last where the original's had none."""
    merged = [piece if isinstance(piece, Choice) else _ended(piece, newline) for piece in pieces]
    if not ends_with_newline:
        merged = _without_last_newline(merged, newline)
    text, holes = "", []
    for piece in merged:
        if isinstance(piece, str):
            text += piece
            continue
        candidates = tuple(dict.fromkeys("".join(_ended(line, newline) for line in option) for option in piece.options))
        holes.append(Hole(len(text), len(text) + len(candidates[0]), candidates))
        text += candidates[0]
    if not ends_with_newline:
        text, holes = text.removesuffix("\n").removesuffix("\r"), _stripped(holes, len(text))
    return Merge(text, tuple(holes))


def _ended(line: str, newline: str) -> str:
    return line if line.endswith("\n") else line + newline


def _without_last_newline(pieces: list[Piece], newline: str) -> list[Piece]:
    """A choice at the end takes in the line before it, so that no option is empty there."""
    if len(pieces) > 1 and isinstance(pieces[-1], Choice) and isinstance(before := pieces[-2], str):
        return [*pieces[:-2], Choice(tuple((before, *option) for option in pieces[-1].options))]
    return pieces


def _stripped(holes: list[Hole], end: int) -> list[Hole]:
    """Holes of a text that lost its last line break."""
    if not holes or holes[-1].end != end:
        return holes
    last = holes[-1]
    candidates = tuple(text.removesuffix("\n").removesuffix("\r") for text in last.candidates)
    return [*holes[:-1], Hole(last.start, last.start + len(candidates[0]), candidates)]
