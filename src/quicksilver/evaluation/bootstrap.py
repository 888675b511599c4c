"""Percentile bootstrap intervals of means, ratios and their differences (Efron 1979, doi:10.1214/aos/1176344552)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from quicksilver.errors import ConfigError

NUM_RESAMPLES = 10_000
SEED = 0
_CHUNK = 500
"""Resamples drawn at once: 500 of 1,000 items are 4 MB of indices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(
    values: Float[np.ndarray, " N"], *, seed: int = SEED, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Mean over items, resampled with replacement."""
    return bootstrap_ratio(values, np.ones_like(values), seed=seed, num_resamples=num_resamples)


def bootstrap_ratio(
    numerators: Float[np.ndarray, " N"],
    denominators: Float[np.ndarray, " N"],
    *,
    seed: int = SEED,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Sum of numerators over sum of denominators; both are resampled together, item by item.

    Args:
        numerators: one per independent item: correlated ones (windows of one file) must be summed first.
        denominators: positive in sum.
        seed: the same seed gives the same interval.
        num_resamples: at least 1.

    Raises:
        ConfigError: there is no item, or the denominators sum to nothing.
    """
    _check(numerators, denominators, num_resamples)
    ratios: list[np.ndarray] = []
    for index in _resamples(len(numerators), seed, num_resamples):
        # A resample of items without any denominator has no ratio.
        totals = denominators[index].sum(axis=1)
        ratios.append(numerators[index].sum(axis=1)[totals > 0] / totals[totals > 0])
    return _interval(float(numerators.sum() / denominators.sum()), ratios)


def bootstrap_difference(
    numerators: Float[np.ndarray, " N"],
    denominators: Float[np.ndarray, " N"],
    first_numerators: Float[np.ndarray, " N"],
    first_denominators: Float[np.ndarray, " N"],
    *,
    seed: int = SEED,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """A ratio less another one of the same items, which are resampled for both together.

    Narrower than the two ratios' own intervals suggest where items are hard or easy for both. Arguments as of
    ``bootstrap_ratio``.

    Raises:
        ConfigError: there is no item, or denominators sum to nothing.
    """
    _check(numerators, denominators, num_resamples)
    _check(first_numerators, first_denominators, num_resamples)
    differences: list[np.ndarray] = []
    for index in _resamples(len(numerators), seed, num_resamples):
        totals, first_totals = denominators[index].sum(axis=1), first_denominators[index].sum(axis=1)
        has_both = (totals > 0) & (first_totals > 0)
        ratios = numerators[index].sum(axis=1)[has_both] / totals[has_both]
        differences.append(ratios - first_numerators[index].sum(axis=1)[has_both] / first_totals[has_both])
    value = numerators.sum() / denominators.sum() - first_numerators.sum() / first_denominators.sum()
    return _interval(float(value), differences)


def bootstrap(
    num_items: int,
    figure: Callable[[Int[np.ndarray, "R N"]], Float[np.ndarray, " R"]],
    *,
    seed: int = SEED,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Any figure of items, resampled with replacement.

    Args:
        num_items: at least 1.
        figure: its values for several choices of items, which are given by their numbers.
        seed: the same seed gives the same interval.
        num_resamples: at least 1.

    Raises:
        ConfigError: there is no item.
    """
    _check(np.ones(num_items), np.ones(num_items), num_resamples)
    value = float(figure(np.arange(num_items)[None])[0])
    return _interval(value, [figure(index) for index in _resamples(num_items, seed, num_resamples)])


def _check(numerators: np.ndarray, denominators: np.ndarray, num_resamples: int) -> None:
    if len(numerators) == 0 or denominators.sum() <= 0:
        raise ConfigError("an interval needs at least one item with a positive denominator")
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be at least 1, got {num_resamples}")


def _resamples(num_items: int, seed: int, count: int) -> Iterator[np.ndarray]:
    """Indices of items, some resamples at a time."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    for start in range(0, count, _CHUNK):
        yield rng.integers(num_items, size=(min(_CHUNK, count - start), num_items))


def _interval(value: float, resampled: list[np.ndarray]) -> Interval:
    low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high))
