"""The constraint that a context-free grammar is."""

from dataclasses import dataclass
from typing import Literal

from quicksilver.constraints.expression import Expression
from quicksilver.constraints.gbnf import gbnf_rules
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.recursion import without_left_recursion
from quicksilver.errors import ConfigError


@dataclass(frozen=True)
class Grammar:
    """A constraint: texts of a grammar, in llama.cpp's form or Lark's.

    Rules that call themselves at their end, or directly at their beginning, are loops. Elsewhere they nest, as deep as
    the options of compiling say.
    """

    source: str
    syntax: Literal["gbnf", "lark"] = "gbnf"
    start: str | None = None
    """The rule of whole texts; None: ``root`` in GBNF, ``start`` in Lark."""

    def __post_init__(self) -> None:
        if self.syntax not in ("gbnf", "lark"):
            raise ConfigError(f"a grammar's syntax is gbnf or lark, got {self.syntax!r}")

    def expression(self, compiler: Compiler) -> Expression:
        start = self.start or {"gbnf": "root", "lark": "start"}[self.syntax]
        if self.syntax == "gbnf":
            whole, rules = gbnf_rules(self.source, start)
        else:
            from quicksilver.constraints.lark_grammar import lark_rules  # needs lark

            whole, rules = lark_rules(self.source, start)
        without_left_recursion(rules)
        return whole
