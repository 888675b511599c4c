"""Grammars in llama.cpp's form, GBNF."""

import re

from quicksilver.constraints.expression import (
    ANY_CHARACTER,
    Alternatives,
    Characters,
    Expression,
    Literal,
    Repeat,
    Rule,
    Sequence,
    Special,
    complement_of,
    ranges_of,
)
from quicksilver.errors import ConfigError, UnsupportedConstraintError

MAX_NESTING = 100
"""Of groups; deeper ones would end in Python's own limit."""

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:\s|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"<[^<>\[\]\s]+>")
_BOUNDS = re.compile(r"\{[ \t]*(\d*)[ \t]*(,?)[ \t]*(\d*)[ \t]*\}")
_CODE = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}


def gbnf_rules(source: str, start: str) -> tuple[Expression, list[Rule]]:
    """The whole texts of a grammar that begins with rule ``start``, and all its rules.

    ``<name>`` stands for a special token of that name.

    Raises:
        ConfigError: it is no grammar, or has no such rule.
        UnsupportedConstraintError: it uses what is not kept; the message names it.
    """
    rules = _Parser(source).parsed()
    if start not in rules:
        raise ConfigError(f"the grammar has no rule {start!r}; it has {', '.join(rules)}")
    return rules[start], list(rules.values())


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._rules: dict[str, Rule] = {}
        self._defined: set[str] = set()

    def parsed(self) -> dict[str, Rule]:
        self._skip(_LINES)
        while self._at < len(self._source):
            name = self._match(_NAME)
            if name is None:
                raise self._wrong("a rule's name is missing")
            self._skip(_SPACE)
            if not self._take("::="):
                raise self._wrong("::= is missing")
            if name in self._defined:
                raise self._wrong(f"rule {name!r} is defined twice")
            self._defined.add(name)
            self._skip(_LINES)
            self._rule(name).body = self._options(0)
            self._skip(_LINES)
        missing = sorted(self._rules.keys() - self._defined)
        if missing:
            raise ConfigError(f"the grammar uses rules that it does not define: {', '.join(missing)}")
        return self._rules

    def _rule(self, name: str) -> Rule:
        return self._rules.setdefault(name, Rule(name))

    def _options(self, nesting: int) -> Expression:
        if nesting > MAX_NESTING:
            raise UnsupportedConstraintError(f"more than {MAX_NESTING} groups inside each other are not supported")
        options = [self._sequence(nesting)]
        while self._take("|"):
            self._skip(_LINES)
            options.append(self._sequence(nesting))
        return Alternatives(tuple(options))

    def _sequence(self, nesting: int) -> Expression:
        parts: list[Expression] = []
        while True:
            # A line ends a rule, but not inside a group.
            self._skip(_LINES if nesting else _SPACE)
            part = self._part(nesting)
            if part is None:
                return Sequence(tuple(parts))
            self._skip(_LINES if nesting else _SPACE)
            parts.append(self._repeated(part))

    def _part(self, nesting: int) -> Expression | None:
        if self._take('"'):
            return self._literal()
        if self._take("["):
            return self._class()
        if self._take("."):
            return ANY_CHARACTER
        if self._take("("):
            self._skip(_LINES)
            inner = self._options(nesting + 1)
            if not self._take(")"):
                raise self._wrong(") is missing")
            return inner
        token = self._match(_TOKEN)
        if token is not None:
            return Special(token)
        if self._source.startswith(("<", "!"), self._at):
            raise UnsupportedConstraintError("GBNF's tokens by number (<[1]>) and their negation (!) are not supported")
        name = self._match(_NAME)
        return None if name is None else self._rule(name)

    def _repeated(self, part: Expression) -> Expression:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return Repeat(part, *bounds)
        found = _BOUNDS.match(self._source, self._at)
        if found is None:
            return part
        if not found[1] and not found[3]:
            raise self._wrong("a repetition without bounds")
        self._at = found.end()
        least = int(found[1] or 0)
        most = (int(found[3]) if found[3] else None) if found[2] else least
        if most is not None and most < least:
            raise self._wrong(f"a repetition of at least {least} and at most {most}")
        return Repeat(part, least, most)

    def _literal(self) -> Expression:
        found = []
        while not self._take('"'):
            found.append(self._character())
        return Literal("".join(found))

    def _class(self) -> Expression:
        is_negated = self._take("^")
        found: list[tuple[int, int]] = []
        while not self._take("]"):
            low = high = ord(self._character())
            if self._source.startswith("-", self._at) and not self._source.startswith("-]", self._at):
                self._at += 1
                high = ord(self._character())
            if high < low:
                raise self._wrong("a range of characters that ends before it begins")
            found.append((low, high))
        ranges = ranges_of(found)
        return Characters(complement_of(ranges) if is_negated else ranges)

    def _character(self) -> str:
        if self._at >= len(self._source):
            raise self._wrong("it ends inside a literal or class")
        char = self._source[self._at]
        self._at += 1
        if char != "\\":
            return char
        kind = self._source[self._at : self._at + 1]
        self._at += 1
        if kind in _CODE:
            digits = self._source[self._at : self._at + _CODE[kind]]
            if len(digits) != _CODE[kind] or re.fullmatch("[0-9a-fA-F]+", digits) is None or int(digits, 16) > 0x10FFFF:
                raise self._wrong("an incomplete escape of a code point")
            self._at += len(digits)
            return chr(int(digits, 16))
        if kind not in _ESCAPES:
            raise self._wrong(f"the unknown escape \\{kind}")
        return _ESCAPES[kind]

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._source, self._at)
        self._at = found.end() if found else self._at

    def _match(self, what: re.Pattern[str]) -> str | None:
        found = what.match(self._source, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _take(self, text: str) -> bool:
        if self._source.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _wrong(self, what: str) -> ConfigError:
        line = self._source.count("\n", 0, self._at) + 1
        return ConfigError(f"the grammar is no GBNF, line {line}: {what}")
