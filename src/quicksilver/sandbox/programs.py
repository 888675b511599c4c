"""What is run, under which limits, and what came of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from quicksilver.errors import ConfigError, InputError
from quicksilver.sandbox.guest import CHECKS_FILE, PROGRAM_FILE

_LEAST_MEMORY_MB = 64
"""Below it Python itself does not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use."""

    wall_s: float = 10.0
    """Seconds from its start, not counting the sandbox's own."""
    cpu_s: float = 10.0
    """Processor seconds of all its threads; the kernel counts whole ones, so it is rounded up."""
    memory_mb: int = 512
    """MiB of address space; a program that asks for more gets a MemoryError."""
    output_bytes: int = 1 << 20
    """Bytes of standard output, of standard error, and of any file it writes."""
    files_mb: int = 64
    """MiB of all files it writes. They are kept in memory, beside ``memory_mb``."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} must be a number above 0, got {value}")
        if self.memory_mb < _LEAST_MEMORY_MB:
            raise ConfigError(f"memory_mb must be at least {_LEAST_MEMORY_MB}, got {self.memory_mb}")


@dataclass(frozen=True, slots=True)
class Program:
    """A Python program. It passes if it runs to the end of its source, and of its checks, without an exception."""

    source: str
    """Run as ``program.py`` in an empty folder."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative path to text, in the program's folder, from which it may also import."""
    stdin: str = ""
    checks: str = ""
    """Run after the source and among its names, but compiled apart from it: no source can turn them into a string, and
    what it did to the builtins is undone before."""
    name: str = "__main__"
    """The module's ``__name__``. Under another than ``__main__`` a main block does not run."""
    readable: Sequence[Path] = ()
    """Folders whose packages it may import, as from site-packages, after the standard library; never to write."""

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise InputError(f"a program's file must have a relative path without .., got {name!r}")
            if str(path) in (PROGRAM_FILE, CHECKS_FILE):
                raise InputError(f"{name!r} is the name of the program's own file; give this file another")
        for folder in self.readable:
            if not folder.is_dir():
                raise InputError(f"readable must name folders; {folder} is none")


class Call(NamedTuple):
    """A function to be called once with each of several lists of arguments."""

    source: str
    function: str
    arguments: Sequence[Sequence[Any]]


class Outcome(StrEnum):
    """How a program ended."""

    PASSED = "passed"
    FAILED = "failed"
    """By an exception, of its own or of a check."""
    TIMEOUT = "timeout"
    """Of wall or processor time."""
    MEMORY = "memory"
    OUTPUT = "output"
    """It wrote more than it may."""
    CRASHED = "crashed"
    """It ended without a verdict: by a signal or by leaving the interpreter."""
    REFUSED = "refused"
    """It was not run: its text cannot be written as UTF-8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came of a program."""

    outcome: Outcome
    detail: str = ""
    """The exception's type, text and line, or what happened instead; empty if it passed."""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    """Of wall time, without the sandbox's own start."""

    @property
    def is_passed(self) -> bool:
        return self.outcome is Outcome.PASSED


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of one call. ``PASSED`` means that it returned; whether the value is right is for the caller to say."""

    outcome: Outcome
    value: Any = None
    """Of plain types: subclasses have become their base class, anything else an ``Opaque``, which equals nothing."""
    detail: str = ""
