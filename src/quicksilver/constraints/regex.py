"""Regular expressions: Python's syntax, or ECMA-262's as JSON Schema asks for."""

import re
from dataclasses import dataclass, replace
from typing import Literal as Either

from quicksilver.constraints import unicode
from quicksilver.constraints.expression import (
    Alternatives,
    Characters,
    Expression,
    Ranges,
    Repeat,
    Sequence,
    TextEnd,
    TextStart,
    complement_of,
    ranges_of,
)
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.lookaround import Boundary, Look, whole_text
from quicksilver.errors import ConfigError, UnsupportedConstraintError

Dialect = Either["python", "ecma"]

MAX_NESTING = 100
"""Of groups; deeper ones would end in Python's own limit."""

_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUP_NAME = re.compile(r"P?<([^\W\d]\w*)>")
_GROUP_FLAGS = re.compile(r"([a-zA-Z]+):")
_SURROGATES = re.compile(r"([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_SYNTAX = frozenset(r"\^$.|?*+()[]{}/-")


@dataclass(frozen=True)
class Regex:
    """A constraint: texts that a regular expression matches; see ``regex_expression``."""

    pattern: str
    search: bool = False
    """Whether a match anywhere in the text is enough."""
    dialect: Dialect = "python"

    def expression(self, compiler: Compiler) -> Expression:
        return regex_expression(self.pattern, dialect=self.dialect, search=self.search)


def regex_expression(
    pattern: str, *, dialect: Dialect = "python", search: bool = False, is_terminal: bool = False
) -> Expression:
    r"""The texts that a pattern matches.

    Without backreferences, possessive and atomic groups and conditions. ``$`` is the end of the text, also in Python's
    dialect, where it would also stand before a last newline. Lookarounds are products, where that is simple. ``\d``,
    ``\w`` and ``\s`` are Unicode's in Python's dialect, unless the pattern begins with ``(?a)``.

    Args:
        pattern: Python's flags ``(?aisu)`` may stand at its beginning.
        dialect: "ecma": ECMA-262 with the flag ``u``.
        search: whether a text with a match anywhere in it is meant, as by ``re.search``; else ``re.fullmatch``.
        is_terminal: whether it is a part of a grammar: anchors, lookarounds and lazy quantifiers, which would mean
            something about the text around it, are refused.

    Raises:
        ConfigError: it is no regular expression.
        UnsupportedConstraintError: it uses what no automaton, or not ours, can keep; the message names it.
    """
    return whole_text(_Parser(pattern, dialect, is_terminal=is_terminal).parsed(), search=search)


@dataclass(frozen=True)
class _Flags:
    ascii: bool = False
    ignore_case: bool = False
    dot_all: bool = False


class _Parser:
    def __init__(self, pattern: str, dialect: Dialect, *, is_terminal: bool) -> None:
        self._pattern, self._dialect, self._is_terminal = pattern, dialect, is_terminal
        self._at = 0
        self._nesting = 0
        self._flags = _Flags(ascii=dialect == "ecma")

    def parsed(self) -> Expression:
        self._leading_flags()
        found = self._options()
        if self._at < len(self._pattern):
            raise self._wrong("unbalanced )")
        return found

    def _leading_flags(self) -> None:
        found = re.match(r"\(\?([a-zA-Z]+)\)", self._pattern)
        if found is None:
            return
        self._set_flags(found[1])
        self._at = found.end()

    def _set_flags(self, flags: str) -> None:
        names = {"a": "ascii", "i": "ignore_case", "s": "dot_all"}
        for flag in flags:
            if self._dialect == "ecma" or flag not in "aisu":
                raise self._refused(f"flag (?{flag})")
        self._flags = replace(self._flags, **{names[flag]: True for flag in flags if flag in names})

    def _options(self) -> Expression:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alternatives(tuple(options))

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, atom: Expression) -> Expression:
        bounds = self._quantifier()
        if bounds is None:
            return atom
        if isinstance(atom, TextStart | TextEnd | Look | Boundary):
            raise self._wrong("nothing to repeat")
        least, most = bounds
        if most is not None and most < least:
            raise self._wrong("min repeat greater than max repeat")
        if self._take("+"):
            raise self._refused("a possessive quantifier")
        if self._take("?") and self._is_terminal:  # else the same texts
            raise self._refused("a lazy quantifier in a grammar")
        if self._peek() in ("*", "+") or self._quantifier() is not None:
            raise self._wrong("multiple repeat")
        return Repeat(atom, least, most)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        found = _BRACES.match(self._pattern, self._at)
        if found is None or found[0] == "{}" or (not found[1] and not (found[3] and self._dialect == "python")):
            return None  # a brace that stands for itself
        self._at = found.end()
        least = int(found[1] or 0)
        return least, (int(found[3]) if found[3] else None) if found[2] else least

    def _atom(self) -> Expression:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._cased(self._class())
            case ".":
                return Characters(self._dot())
            case "^" | "$":
                return self._anchor(TextStart() if char == "^" else TextEnd())
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise self._wrong("nothing to repeat")
            case _:
                return self._cased(_single(char))

    def _anchor(self, anchor: Expression) -> Expression:
        if self._is_terminal:
            raise self._refused("an anchor in a grammar")
        return anchor

    def _dot(self) -> Ranges:
        if self._flags.dot_all:
            return complement_of(())
        return complement_of(ranges_of((ord(each), ord(each)) for each in self._line_ends()))

    def _line_ends(self) -> str:
        return "\n\r\u2028\u2029" if self._dialect == "ecma" else "\n"

    def _cased(self, ranges: Ranges) -> Expression:
        if self._flags.ignore_case:
            ranges = unicode.ignoring_case(ranges, ascii_only=self._flags.ascii)
        return Characters(ranges) if ranges else Alternatives(())

    def _group(self) -> Expression:
        begin = self._at - 1
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise self._refused(f"more than {MAX_NESTING} groups inside each other")
        flags = self._flags
        look = self._group_kind()
        part = self._options()
        if not self._take(")"):
            raise self._wrong("missing )")
        self._nesting -= 1
        self._flags = flags
        if look is None:
            # A group is one part, so that a quantifier behind it is not of its last character.
            return part
        if self._is_terminal:
            raise self._refused("a lookaround in a grammar")
        ahead, negative = look
        return Look(part, ahead, negative, self._pattern[begin : self._at])

    def _group_kind(self) -> tuple[bool, bool] | None:
        """Behind ``(``: whether it is a lookaround, and which; ahead and negative."""
        if not self._take("?"):
            return None
        for sign, look in (("=", (True, False)), ("!", (True, True)), ("<=", (False, False)), ("<!", (False, True))):
            if self._take(sign):
                return look
        if self._take(":"):
            return None
        name = _GROUP_NAME.match(self._pattern, self._at) or _GROUP_FLAGS.match(self._pattern, self._at)
        if name is not None:
            self._set_flags(name[1] if name.re is _GROUP_FLAGS else "")
            self._at = name.end()
            return None
        if self._take("#"):
            end = self._pattern.find(")", self._at)
            if end < 0:
                raise self._wrong("missing ), unterminated comment")
            self._at = end
            return None
        what = {">": "an atomic group", "(": "a conditional group", "P": "the backreference"}
        raise self._refused(what.get(self._peek(), f"the group (?{self._peek()}"))

    def _escape(self) -> Expression:
        begin = self._at - 1
        char = self._peek()
        if char == "b" or char == "B":
            self._at += 1
            word = unicode.ASCII_WORD if self._flags.ascii else unicode.word()
            return self._anchor(Boundary(word, char == "B", self._pattern[begin : self._at]))
        if self._dialect == "python" and char in ("A", "Z"):
            self._at += 1
            return self._anchor(TextStart() if char == "A" else TextEnd())
        if char in tuple("123456789") or (self._dialect == "ecma" and char == "k"):
            raise self._refused("a backreference")
        return self._cased(self._escaped())

    def _escaped(self) -> Ranges:
        """The characters of an escape, behind its backslash; also inside classes."""
        char = self._next()
        shorthand = self._shorthand(char)
        if shorthand is not None:
            return shorthand
        match char:
            case _ if char in _CONTROLS:
                return _single(_CONTROLS[char])
            case "a" if self._dialect == "python":
                return _single("\a")
            case "x":
                return self._code(2)
            case "u":
                return self._unicode()
            case "U" if self._dialect == "python":
                return self._code(8)
            case "0" if not self._peek().isdigit():
                return _single("\0")
            case "c" if self._dialect == "ecma" and self._peek().isascii() and self._peek().isalpha():
                return _single(chr(ord(self._next()) % 32))
            case _ if char in _SYNTAX or not (char.isascii() and char.isalnum()):
                return _single(char)
            case _:
                raise self._refused(f"the escape \\{char}")

    def _shorthand(self, char: str) -> Ranges | None:
        kind = char.lower()
        if kind == "p" and self._dialect == "ecma":
            end = self._pattern.find("}", self._at)
            if self._peek() != "{" or end < 0:
                raise self._wrong(rf"\{char} without {{name}}")
            found = unicode.category(self._pattern[self._at + 1 : end])
            self._at = end + 1
        elif kind == "d":
            found = unicode.ASCII_DIGITS if self._flags.ascii else unicode.digits()
        elif kind == "w":
            found = unicode.ASCII_WORD if self._flags.ascii else unicode.word()
        elif kind == "s" and self._dialect == "ecma":
            found = unicode.ECMA_SPACE
        elif kind == "s":
            found = unicode.ASCII_SPACE if self._flags.ascii else unicode.space()
        else:
            return None
        return complement_of(found) if char.isupper() else found

    def _unicode(self) -> Ranges:
        if self._dialect == "ecma" and self._take("{"):
            end = self._pattern.find("}", self._at)
            ranges = self._code(max(0, end - self._at))
            self._at += 1
            return ranges
        found = _SURROGATES.match(self._pattern, self._at)
        if found is not None and self._dialect == "ecma":
            self._at = found.end()
            code = 0x10000 + ((int(found[1], 16) - 0xD800) << 10) + int(found[2], 16) - 0xDC00
            return ((code, code),)
        return self._code(4)

    def _code(self, digits: int) -> Ranges:
        text = self._pattern[self._at : self._at + digits]
        if len(text) != digits or re.fullmatch(r"[0-9a-fA-F]+", text) is None or int(text, 16) > 0x10FFFF:
            raise self._wrong("incomplete escape of a code point")
        self._at += digits
        return ranges_of([(int(text, 16), int(text, 16))])

    def _class(self) -> Ranges:
        """Behind ``[``."""
        is_negated = self._take("^")
        found: list[tuple[int, int]] = []
        is_first = True
        while True:
            if self._at >= len(self._pattern):
                raise self._wrong("unterminated character set")
            # Python reads a ] that stands first as itself; in ECMA-262 it closes an empty class.
            if self._peek() == "]" and not (is_first and self._dialect == "python"):
                break
            is_first = False
            low = self._member()
            if self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._member()
                found.append(self._interval(low, high))
            else:
                found.extend(low)
        self._at += 1
        ranges = ranges_of(found)
        if is_negated and self._flags.ignore_case:
            ranges = unicode.ignoring_case(ranges, ascii_only=self._flags.ascii)
        return complement_of(ranges) if is_negated else ranges

    def _interval(self, low: Ranges, high: Ranges) -> tuple[int, int]:
        is_single = len(low) == len(high) == 1 and low[0][0] == low[0][1] and high[0][0] == high[0][1]
        if not is_single or low[0][0] > high[0][0]:
            raise self._wrong("bad character range")
        return low[0][0], high[0][0]

    def _member(self) -> Ranges:
        char = self._next()
        if char != "\\":
            return _single(char)
        if self._take("b"):
            return _single("\b")
        return self._escaped()

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise self._wrong("ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, text: str) -> bool:
        if self._pattern.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"pattern {self._pattern!r}: {what} at position {self._at}")

    def _refused(self, what: str) -> UnsupportedConstraintError:
        return UnsupportedConstraintError(f"pattern {self._pattern!r}: {what} is not supported (position {self._at})")


def _single(char: str) -> Ranges:
    return ranges_of([(ord(char), ord(char))])
