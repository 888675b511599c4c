"""Checks by their names on the command line, and what came of them. Imports nothing heavy: servers are asked too."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quicksilver.coding.checks import CommandCheck, PythonCheck, Span
from quicksilver.errors import CheckError, ConfigError

if TYPE_CHECKING:
    from quicksilver.api import Check, CheckReport, Problem


@dataclass(frozen=True, slots=True)
class Watched:
    """A check that tells what it finds."""

    check: "Check"
    tell: "Callable[[Sequence[Problem]], None]"

    @property
    def name(self) -> str:
        return self.check.name

    @property
    def parts(self) -> tuple[str, ...]:
        return self.check.parts

    def __call__(self, text: str, written: Sequence[Span]) -> "Sequence[Problem]":
        problems = self.check(text, written)
        self.tell(problems)
        return problems


def outcome(report: "CheckReport") -> dict[str, object]:
    """For programs, as a server tells it."""
    return {
        "name": report.name,
        "parts": list(report.parts),
        "passed": report.is_passed,
        "repairs": report.num_rounds,
        "drafts": report.num_drafts,
        "problems": list(report.problems),
    }


def require_passed(told: dict[str, object] | None) -> None:
    """Raise CheckError if a check was asked for and the file does not pass it."""
    if told is not None and not told["passed"]:
        problems = told["problems"]
        raise CheckError(f"the file does not pass the check {told['name']} after {told['repairs']} repairs: {problems}")


def find_check(name: str | None, command: str | None, source: str) -> "Check | None":
    """The check that is asked for; a command's file is named like ``source``, that of a filled template.

    Raises:
        ConfigError: there is none of that name, or the command cannot be read.
    """
    if command is not None:
        return CommandCheck.of(command, suffix=Path(source).suffix or ".py")
    if name is None:
        return None
    if name != PythonCheck().name:
        raise ConfigError(f"no check {name!r}; known: {PythonCheck().name}; --check-command takes any command")
    return PythonCheck()
