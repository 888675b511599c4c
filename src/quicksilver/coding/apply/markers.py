"""Marker lines: those of a lazy snippet that stand for code which stays as it is."""

import re
from collections.abc import Set as AbstractSet

from quicksilver.coding.apply.lines import key_of

_LEADERS = r"(?:\#+|//+|--|;+|%+|/\*+|<!--|\{\s*/\*+|\(\*)"
_TRAILERS = r"(?:\*+/\s*\}?|-->|\*\))?"
_COMMENT = re.compile(rf"^\s*{_LEADERS}\s*(?P<text>.*?)\s*{_TRAILERS}\s*$")
_DOTS = r"(?:\.{3,}|…)"
_WORDS = (
    r"(?:exist\w*|rest|remain\w*|unchanged|previous\w*|other|others|same|omitted|original|keep|kept|code|before|as is|"
    r"unmodified|skipped|etc)"
)
_WITH_DOTS = re.compile(
    rf"^[\[(<]?\s*(?:{_DOTS}|{_DOTS}.*\b{_WORDS}\b.*|(?:the\s+)?\b{_WORDS}\b.*{_DOTS})\s*[\])>]?$", re.IGNORECASE
)
_WITHOUT_DOTS = re.compile(
    r"^[\[(]?(?:the\s+)?(?:rest of|remaining|unchanged|existing|other existing|previous)\b(?:\s+\S+){0,5}?\s+"
    r"(?:code|functions?|methods?|class|file|imports?|implementation|body|logic|lines?|unchanged|same|here)[\])]?\.?$",
    re.IGNORECASE,
)
_BARE = re.compile(rf"^\s*{_DOTS}\s*$")


def is_marker(line: str, known: AbstractSet[str] = frozenset()) -> bool:
    """Whether a snippet's line stands for unchanged code.

    Args:
        line: of the snippet.
        known: keys of the original's lines (``lines.key_of``). A bare ``...`` and a comment such as ``# rest of the
            code`` are taken literally where the original has them.
    """
    if is_comment_marker(line):
        return True
    if key_of(line) in known:
        return False
    if is_bare(line):
        return True
    comment = _COMMENT.match(line)
    return comment is not None and bool(_WITHOUT_DOTS.match(comment["text"]))


def is_comment_marker(line: str) -> bool:
    """A comment that cannot be meant literally: ``# ... existing code ...``."""
    comment = _COMMENT.match(line)
    return comment is not None and bool(_WITH_DOTS.match(comment["text"]))


def is_bare(line: str) -> bool:
    """Nothing but an ellipsis, which is an expression in Python."""
    return bool(_BARE.match(line))
