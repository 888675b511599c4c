"""What the store takes and gives: immutable values, independent of any database session."""

from dataclasses import dataclass
from datetime import date, datetime

from quicksilver.errors import ConfigError
from quicksilver.server.accounts.limits import Limits

DEFAULT_GRANT_TOKENS = 10_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key without its secret."""

    id: str
    name: str
    hint: str
    """The secret's beginning and end, enough to recognise it."""
    created_at: datetime
    revoked_at: datetime | None
    limits: Limits
    granted_tokens: int | None
    """Input and output tokens that the key may use in all; None is without limit."""
    used_tokens: int
    """Of those, as of the moment when this was read."""

    @property
    def remaining_tokens(self) -> int | None:
        """What is left of the grant, never below zero; None is without limit."""
        return None if self.granted_tokens is None else max(0, self.granted_tokens - self.used_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a finished request took.

    Raises:
        ConfigError: more tokens are cached than were read, a count is negative, or a moment has no time zone.
    """

    request_id: str
    """Made by the server, never taken from a client: what has the id of a recorded request is not billed again."""
    key_id: str | None
    """None on a server that asks for no keys."""
    route: str
    model: str
    input_tokens: int
    cached_tokens: int
    """Those of the input tokens that the prefix cache held."""
    output_tokens: int
    nfe: int
    started_at: datetime
    finished_at: datetime
    finish_reason: str

    def __post_init__(self) -> None:
        if not 0 <= self.cached_tokens <= self.input_tokens or self.output_tokens < 0 or self.nfe < 0:
            raise ConfigError(
                f"usage of {self.request_id} counts {self.cached_tokens} cached of {self.input_tokens} input tokens, "
                f"{self.output_tokens} output tokens and {self.nfe} forwards: that cannot be"
            )
        if self.started_at.tzinfo is None or self.finished_at.tzinfo is None:
            raise ConfigError(f"usage of {self.request_id} has moments without a time zone: give datetime.now(UTC)")

    @property
    def tokens(self) -> int:
        """What counts against the grant."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageTotal:
    """What a key's requests to one model took on one day in UTC."""

    day: date
    key_id: str | None
    model: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    nfe: int
    cost_nanodollars: int
