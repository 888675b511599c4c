"""Limits of one server."""

from dataclasses import dataclass

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
        if not self.merge_seconds > 0:
            raise ConfigError(f"merge_seconds must be positive, got {self.merge_seconds}")
        if not self.drain_seconds >= 0:
            raise ConfigError(f"drain_seconds must not be negative, got {self.drain_seconds}")
