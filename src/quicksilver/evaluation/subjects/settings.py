"""What a command line says of all subjects; a subject that cannot honour a setting refuses it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """None: the subject's own choice."""

    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    context: int | None = None
    """Most tokens the model sees."""
    layout: str | None = None
    """Of holes."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``api.DecodingOptions`` that are given, by name; a question has its own seed, temperature and stop."""
