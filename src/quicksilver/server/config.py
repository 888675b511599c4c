"""Limits of one server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quicksilver.coding.checks import CommandCheck, PythonCheck
from quicksilver.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """What the server allows; every limit is told to the client that meets it."""

    served_names: tuple[str, ...] = ()
    """Further names of the model."""
    max_body_bytes: int = 2 * 2**20
    max_prompts: int = 64
    """Prompts of one completions request."""
    max_open: int = 256
    """Requests that wait or run; more are refused with 503."""
    merge_seconds: float = 10.0
    """Longest merge of an apply request; a longer one is refused."""
    max_kept_constraints: int = 128
    """Compiled ones, those used last."""
    constraint_folder: Path | None = None
    """Where compiled ones are kept on disk; None: nowhere."""
    checks: Mapping[str, str] = field(default_factory=dict)
    """Commands that clients may have filled files checked by, by name; see ``coding.checks.CommandCheck``."""
    confines_checks: bool = True
    """Run these commands in a sandbox: a test runner executes what a model wrote."""
    check_seconds: float = 10.0
    """Longest check of a filled file; one that takes longer fails."""
    drain_seconds: float = 30.0
    """How long a shutdown waits for accepted requests."""
    retry_after_seconds: float = 1.0
    """What a refused client is told to wait."""
    logs_prompts: bool = False
    """Whether logs may hold prompts and answers."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_prompts", "max_open", "max_kept_constraints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("merge_seconds", "check_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        for name, command in self.checks.items():
            CommandCheck.of(command, name=name)
            if name == PythonCheck().name:
                raise ConfigError(f"the check {name} is built in; call the command otherwise")
        if not self.drain_seconds >= 0:
            raise ConfigError(f"drain_seconds must not be negative, got {self.drain_seconds}")
