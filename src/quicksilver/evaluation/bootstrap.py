"""Percentile bootstrap intervals of means and ratios (Efron 1979, doi:10.1214/aos/1176344552)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

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
    if len(numerators) == 0 or denominators.sum() <= 0:
        raise ConfigError("an interval needs at least one item with a positive denominator")
    if num_resamples < 1:
        raise ConfigError(f"num_resamples must be at least 1, got {num_resamples}")
    rng = np.random.Generator(np.random.Philox(key=seed))
    ratios: list[np.ndarray] = []
    for start in range(0, num_resamples, _CHUNK):
        index = rng.integers(len(numerators), size=(min(_CHUNK, num_resamples - start), len(numerators)))
        # A resample of items without any denominator has no ratio.
        totals = denominators[index].sum(axis=1)
        ratios.append(numerators[index].sum(axis=1)[totals > 0] / totals[totals > 0])
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return Interval(value=float(numerators.sum() / denominators.sum()), low=float(low), high=float(high))
