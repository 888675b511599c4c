"""Which items of a set are asked."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from quicksilver.errors import ConfigError

T = TypeVar("T")


def subsample(items: Sequence[T], count: int | None, seed: int) -> list[T]:
    """``count`` items without repetition, in random order; all of them, in order, if None.

    The same seed gives a longer sample the same beginning.

    Raises:
        ConfigError: there are fewer items than that.
    """
    if count is None:
        return list(items)
    if not 1 <= count <= len(items):
        raise ConfigError(f"the number of items must lie in 1..{len(items)}, got {count}")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(items))
    return [items[index] for index in order[:count]]
