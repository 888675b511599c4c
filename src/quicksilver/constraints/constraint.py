"""What every kind of constraint has in common."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from quicksilver.constraints.expression import Expression
from quicksilver.constraints.language import Compiler
from quicksilver.constraints.limits import Limits
from quicksilver.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How constraints are compiled."""

    recursion_depth: int = 3
    """How often a rule or schema may be nested in itself; deeper texts are left out, and the automaton is clipped."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.recursion_depth < 0:
            raise ConfigError(f"recursion_depth must be at least 0, got {self.recursion_depth}")


@runtime_checkable
class Constraint(Protocol):
    """A frozen dataclass of what can be written as JSON, constraints among it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def expression(self, compiler: Compiler) -> Expression:
        """The texts that satisfy it.

        Args:
            compiler: looks into parts where what follows depends on them.

        Raises:
            UnsupportedConstraintError: it asks what cannot be kept exactly; the message names it.
            ConfigError: it is malformed.
        """
        ...


def canonical(constraint: Constraint) -> str:
    """A constraint as JSON, equal where constraints are; the order of keys counts, for it is that of properties."""
    return json.dumps(_plain(constraint), ensure_ascii=False, separators=(",", ":"))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        fields = {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
