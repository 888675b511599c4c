"""Texts with some strings in them and without others."""

from dataclasses import dataclass

from quicksilver.constraints.constraint import Constraint
from quicksilver.constraints.expression import ANY_TEXT, Difference, Expression, Intersection, alternatives, sequence
from quicksilver.constraints.language import Compiler
from quicksilver.errors import ConfigError


@dataclass(frozen=True)
class Strings:
    """A constraint: every one of ``required`` stands somewhere in the text, and none of ``banned`` does.

    Wherever the tokens' borders are: it is about characters. Texts without special tokens only.
    """

    required: tuple[str, ...] = ()
    banned: tuple[str, ...] = ()
    base: Constraint | None = None
    """What else the text must satisfy."""

    def __post_init__(self) -> None:
        if "" in (*self.required, *self.banned):
            raise ConfigError("required and banned strings hold at least one character each")
        for banned in self.banned:
            if held := [text for text in self.required if banned in text]:
                raise ConfigError(f"the required string {held[0]!r} holds the banned one {banned!r}")

    def expression(self, compiler: Compiler) -> Expression:
        base = ANY_TEXT if self.base is None else self.base.expression(compiler)
        found = Intersection((base, *(_around(text) for text in self.required)))
        return Difference(found, _around(*self.banned)) if self.banned else found


def _around(*texts: str) -> Expression:
    """Texts that hold one of these."""
    return sequence(ANY_TEXT, alternatives(*texts), ANY_TEXT)
