"""One text out of a list."""

from dataclasses import dataclass

from quicksilver.constraints.expression import Expression, alternatives
from quicksilver.constraints.language import Compiler
from quicksilver.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """A constraint: exactly one of ``options``."""

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ConfigError("a choice needs at least one option")

    def expression(self, compiler: Compiler) -> Expression:
        return alternatives(*self.options)
