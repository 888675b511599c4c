"""How much a constraint may take to compile: constraints come from strangers."""

import time
from dataclasses import dataclass, field

from quicksilver.errors import ConfigError, ConstraintTooLargeError

_CLOCK_EVERY = 256


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What compiling may take before it is given up."""

    max_states: int = 20_000
    """Of every automaton on the way."""
    max_edges: int = 4_000_000
    """Of the automaton over tokens."""
    max_seconds: float = 10.0
    max_memory_mb: int = 2_048
    """Of the process that compiles; kept where compiling runs in a process of its own."""

    def __post_init__(self) -> None:
        for name in ("max_states", "max_edges", "max_seconds", "max_memory_mb"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass
class Meter:
    """What one compilation has taken so far."""

    limits: Limits
    _until: float = field(init=False)
    _calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.limits.max_seconds

    def states(self, count: int, what: str) -> None:
        """Raise ConstraintTooLargeError if so many states are too many, or if time is up."""
        if count > self.limits.max_states:
            raise ConstraintTooLargeError(
                f"the constraint takes more than max_states={self.limits.max_states} states ({what}): {_REMEDY}"
            )
        self._calls += 1
        if self._calls % _CLOCK_EVERY == 0:
            self.clock()

    def edges(self, count: int) -> None:
        """Raise ConstraintTooLargeError if so many edges are too many."""
        if count > self.limits.max_edges:
            raise ConstraintTooLargeError(
                f"the constraint takes {count} edges over tokens, max_edges is {self.limits.max_edges}: {_REMEDY}"
            )

    def clock(self) -> None:
        """Raise ConstraintTooLargeError if time is up."""
        if time.monotonic() > self._until:
            raise ConstraintTooLargeError(
                f"the constraint took longer than max_seconds={self.limits.max_seconds} to compile: {_REMEDY}"
            )


_REMEDY = "lower lengths, counts or the recursion depth, close open objects, or raise the limit"
