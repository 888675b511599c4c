"""What is asked of a server, and when: code of Python's own library, and arrivals as a Poisson process.

The same seed, Python version and options give the same texts at the same times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from quicksilver.errors import ConfigError, InputError

SOURCES = ("bisect", "calendar", "cmd", "csv", "difflib", "fractions", "heapq", "shlex", "statistics", "textwrap")
"""Modules whose code the prompts are cut from: plain Python, on every machine."""


class Kind(StrEnum):
    """Of a request."""

    FILL = "fill"
    """The rest of a line, as an editor asks while someone types."""
    GENERATE = "generate"
    """A long continuation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One request."""

    kind: Kind
    prefix: str
    suffix: str
    """Empty for a continuation."""
    max_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """What a stream of requests is made of."""

    fill_share: float = 0.8
    """In [0, 1]; the rest are continuations."""
    fill_tokens: int = 24
    long_tokens: int = 128
    prompt_chars: int = 600
    """Of every prompt; three or four characters of code are a token."""

    def __post_init__(self) -> None:
        if not 0 <= self.fill_share <= 1:
            raise ConfigError(f"the share of fills must lie in [0, 1], got {self.fill_share}")
        for name in ("fill_tokens", "long_tokens", "prompt_chars"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A request and its time."""

    at_s: float
    """From the beginning."""
    job: Job


def read_sources() -> list[str]:
    """The code that prompts are cut from.

    Raises:
        InputError: this Python came without its sources.
    """
    found = []
    for name in SOURCES:
        spec = find_spec(name)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise InputError(f"this Python has no source of its module {name} to cut prompts from")
        found.append(Path(spec.origin).read_text(encoding="utf-8"))
    return found


def draw_jobs(mix: Mix, sources: Sequence[str], rng: np.random.Generator) -> Iterator[Job]:
    """Jobs without end, each at a place of its own."""
    while True:
        is_fill = rng.random() < mix.fill_share
        text = sources[int(rng.integers(len(sources)))]
        at = int(rng.integers(min(mix.prompt_chars, len(text) - 1), len(text)))
        # Two thirds of what a fill sees stand before it.
        before = 2 * mix.prompt_chars // 3 if is_fill else mix.prompt_chars
        prefix = text[max(at - before, 0) : at]
        if not is_fill:
            yield Job(kind=Kind.GENERATE, prefix=prefix, suffix="", max_tokens=mix.long_tokens)
            continue
        line_end = text.find("\n", at)
        rest = text[line_end:] if line_end >= 0 else "\n"
        suffix = rest[: mix.prompt_chars - before]
        yield Job(kind=Kind.FILL, prefix=prefix, suffix=suffix, max_tokens=mix.fill_tokens, stop=("\n",))


def draw_arrivals(rate: float, duration_s: float, mix: Mix, sources: Sequence[str], seed: int) -> list[Arrival]:
    """The requests of ``duration_s`` seconds: gaps are exponential with mean 1 / ``rate``.

    Raises:
        ConfigError: rate or duration is not positive, or no request falls into the duration.
    """
    if not rate > 0 or not duration_s > 0:
        raise ConfigError(f"rate and duration must be positive, got {rate} requests/s for {duration_s} s")
    times = np.random.Generator(np.random.Philox(key=[seed, 0]))
    jobs = draw_jobs(mix, sources, np.random.Generator(np.random.Philox(key=[seed, 1])))
    found, at = [], float(times.exponential(1 / rate))
    while at < duration_s:
        found.append(Arrival(at_s=at, job=next(jobs)))
        at += float(times.exponential(1 / rate))
    if not found:
        raise ConfigError(f"no request falls into {duration_s} s at {rate} a second: make it longer")
    return found
