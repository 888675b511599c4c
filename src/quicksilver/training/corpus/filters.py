"""Which files of a wheel belong in the corpus: path rules, then content rules, in a fixed order.

Pure functions of a path and its bytes. What needs more than one file (duplicates, caps, leakage) is in ``selection``.
"""

import ast
import re
import warnings
from enum import StrEnum
from pathlib import PurePosixPath

MAX_BYTES = 400_000
MIN_BYTES = 128
MAX_LINE_CHARS = 1_000
MAX_MEAN_LINE_CHARS = 100
MIN_LETTER_SHARE = 0.25

HEADER_CHARS = 4_096
"""How much of a file is searched for a licence."""

GENERATED_HEADER_CHARS = 1_000
"""How much of a file is searched for the words of a generator."""


class Drop(StrEnum):
    """Why a file is not in the corpus, in the order in which the rules are tried."""

    TEST = "test"
    GENERATED = "generated"
    VENDORED = "vendored"
    SEPARATELY_LICENSED = "separately_licensed"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    LONG_LINES = "long_lines"
    FEW_LETTERS = "few_letters"
    TOO_SMALL = "too_small"
    NOT_PERMISSIVE = "not_permissive"
    NOT_PARSEABLE = "not_parseable"


_TEST_FOLDERS = frozenset(
    {"test", "tests", "_tests", "testing", "_testing", "test_utils", "test-examples", "_test_common"}
)
_TEST_NAME = re.compile(r"(^tests?_.*|.*_tests?|^tests?|^conftest)\.py$")
_GENERATED_FOLDERS = frozenset({"_generated", "generated"})
_GENERATED_NAME = re.compile(r"(.*_pb2(_grpc)?|_?version|__config__|.*_generated|_?lextab|_?(yacc|parse)tab)\.py$")
_GENERATED_HEADER = re.compile(
    r"(auto(matically|-| )?(generated|created))|(generated (automatically|by|from|with))"
    r"|(do not (edit|modify)|don't edit)|@generated",
    re.IGNORECASE,
)
_VENDORED_FOLDERS = frozenset(
    {"_vendor", "vendor", "vendored", "_vendored", "extern", "externals", "third_party", "thirdparty", "typeshed"}
)
_COPYLEFT_HEADER = re.compile(
    r"\b(A|L)?GPL(v?\d|-\d|\b)|GNU\s+(Lesser\s+|Library\s+|Affero\s+)?General\s+Public"
    r"|Mozilla\s+Public\s+License|\bMPL[- ]2|CC[- ]BY[- ]?-?(NC|SA)"
    r"|Non-?Commercial|Creative\s+Commons\s+Attribution-(NonCommercial|ShareAlike)"
)


def path_drop(path: str) -> Drop | None:
    """Why the path alone keeps a file out, or None.

    Args:
        path: member name inside the wheel, with forward slashes.
    """
    *folders, name = PurePosixPath(path).parts
    lowered = {folder.lower() for folder in folders}
    if lowered & _TEST_FOLDERS or _TEST_NAME.match(name):
        return Drop.TEST
    if lowered & _GENERATED_FOLDERS or _GENERATED_NAME.match(name):
        return Drop.GENERATED
    if lowered & _VENDORED_FOLDERS:
        return Drop.VENDORED
    if "enterprise" in lowered:
        return Drop.SEPARATELY_LICENSED
    return None


def read_text(data: bytes) -> str | None:
    r"""The text of a source file with ``\n`` line ends and no byte order mark, or None when it is not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def content_drop(text: str) -> Drop | None:
    """Why the text keeps a file out, or None. The costly rule, parsing, is last."""
    num_bytes = len(text.encode("utf-8"))
    if num_bytes > MAX_BYTES:
        return Drop.TOO_LARGE
    if _GENERATED_HEADER.search(text[:GENERATED_HEADER_CHARS]):
        return Drop.GENERATED
    lines = text.split("\n")
    if max(map(len, lines)) > MAX_LINE_CHARS or len(text) / len(lines) > MAX_MEAN_LINE_CHARS:
        return Drop.LONG_LINES
    if sum(map(str.isalpha, text)) < MIN_LETTER_SHARE * len(text):
        return Drop.FEW_LETTERS
    if num_bytes < MIN_BYTES:
        return Drop.TOO_SMALL
    if _COPYLEFT_HEADER.search(text[:HEADER_CHARS]):
        return Drop.NOT_PERMISSIVE
    if not _is_parseable(text):
        return Drop.NOT_PARSEABLE
    return None


def _is_parseable(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        # ValueError: null bytes; RecursionError and MemoryError: expressions nested too deep for the parser.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
