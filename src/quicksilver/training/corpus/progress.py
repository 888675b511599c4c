"""How a build reports that it goes on, without knowing who listens."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class BuildProgress(Protocol):
    """Receives the steps of a build. Called from the building process only."""

    def start(self, step: str, total: int) -> None:
        """A step begins that consists of ``total`` units; the one before it is over."""
        ...

    def advance(self, units: int, detail: str) -> None:
        """``units`` more are done; ``detail`` names the last one."""
        ...


class SilentProgress:
    """Reports nothing."""

    def start(self, step: str, total: int) -> None:
        """Ignore it."""

    def advance(self, units: int, detail: str) -> None:
        """Ignore it."""
