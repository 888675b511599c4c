"""Parameters of policies and revisions: checked when they are made, and as tensors of one value per row."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from quicksilver.decoding.window import Window
from quicksilver.errors import ConfigError

T = TypeVar("T")


def at_least(value: float | int, least: float | int, name: str) -> None:
    """Raise ConfigError if a value is smaller, or no number."""
    # Written so that NaN fails too.
    if not value >= least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")


def fraction(value: float, name: str) -> None:
    """Raise ConfigError if a value does not lie in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in [0, 1], got {value}")


def of_kind(kind: type[T], each: Sequence[object]) -> list[T]:
    """All of them, which must be of one class.

    Raises:
        ConfigError: they are not.
    """
    same = [one for one in each if isinstance(one, kind)]
    if len(same) != len(each):
        raise ConfigError(f"every row must hold a {kind.__name__}, got {', '.join(type(one).__name__ for one in each)}")
    return same


def by_kind(each: Sequence[T]) -> dict[type[T], list[int]]:
    """The rows of every class, in order."""
    rows: dict[type[T], list[int]] = {}
    for row, one in enumerate(each):
        rows.setdefault(type(one), []).append(row)
    return rows


def floats(values: Iterable[float], window: Window) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, device=window.confidence.device)


def ints(values: Iterable[int], window: Window) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64, device=window.confidence.device)


def bools(values: Iterable[bool], window: Window) -> Tensor:
    return torch.tensor(list(values), dtype=torch.bool, device=window.confidence.device)
