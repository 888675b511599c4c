"""Lines with their ends. Only a line feed ends a line, so that any text comes back exactly."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

Lines = tuple[str, ...]

_ENDS = re.compile(r"\r?\n")


def split_lines(text: str) -> Lines:
    """The lines of a text with their ends; the last one may have none."""
    return tuple(line for line in re.split(r"(?<=\n)", text) if line)


def newline_of(text: str) -> str:
    """The line break that most lines of a text end with."""
    return "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"


def with_newline(text: str, newline: str) -> str:
    """A text with this line break throughout, at its end too unless it is empty."""
    text = _ENDS.sub(newline, text)
    return text if not text or text.endswith("\n") else text + newline


def key_of(line: str) -> str:
    """What makes two lines the same: all but blanks at the end."""
    return line.rstrip()


def is_blank(line: str) -> bool:
    return not line.strip()


def num_code_lines(lines: Sequence[str]) -> int:
    return sum(not is_blank(line) for line in lines)


def indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def is_similar(one: str, other: str) -> bool:
    """Whether one line looks like a rewrite of the other."""
    return SequenceMatcher(None, one.strip(), other.strip(), autojunk=False).ratio() >= _SIMILAR


def in_original_bytes(lines: Sequence[str], original: Sequence[str]) -> Lines:
    """Lines that replace others, with those that did not change as they were: blanks at their ends included."""
    matcher = SequenceMatcher(
        None, [key_of(line) for line in original], [key_of(line) for line in lines], autojunk=False
    )
    result = list(lines)
    for match in matcher.get_matching_blocks():
        result[match.b : match.b + match.size] = original[match.a : match.a + match.size]
    return tuple(result)


_SIMILAR = 0.6
