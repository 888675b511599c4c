"""Whether probabilities mean what they say, and the temperature that makes them.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599): expected calibration error over bins of
equal width, and temperature scaling.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval, bootstrap

NUM_BINS = 15
"""As Guo et al. have it."""
_SHARPEST, _FLATTEST = 1e-3, 1e3
"""Temperatures beyond which the labels' order, or nothing, is all that is left."""


def softmax(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Probabilities of scores in nats."""
    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()


def calibration_error(confidence: Float[np.ndarray, " N"], is_right: Bool[np.ndarray, " N"]) -> Interval:
    """Expected calibration error of the likeliest labels: the mean gap between confidence and accuracy in a bin.

    The plain estimate: of few items it is too large, since every bin's accuracy is known only roughly.

    Args:
        confidence: probability of each likeliest label, in [0, 1].
        is_right: whether it was right.

    Raises:
        ConfigError: there is no item.
    """
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = confidence - is_right

    def error(index: np.ndarray) -> np.ndarray:
        """Of resamples of the items, [R, N]."""
        flat = bins[index] + NUM_BINS * np.arange(len(index))[:, None]
        sums = np.bincount(flat.ravel(), weights=gaps[index].ravel(), minlength=NUM_BINS * len(index))
        return np.abs(sums.reshape(len(index), NUM_BINS)).sum(axis=1) / index.shape[1]

    return bootstrap(len(gaps), error)


def fit_temperature(scores: Sequence[np.ndarray], right: Sequence[int]) -> float:
    """The temperature of least negative log-likelihood.

    Args:
        scores: nats of every label, a row per item: float [number of labels], which may differ.
        right: which label was right.

    Raises:
        ConfigError: there is no item, or no temperature is best: the labels' order is always right, or no better than
            chance.
    """
    if not scores:
        raise ConfigError("a temperature is fitted to at least one item")

    def slope(inverse: float) -> float:
        """Of the mean loss, by the inverse temperature; it rises, for the loss is convex in it."""
        expected = [
            float(softmax(inverse * row) @ row) - float(row[which]) for row, which in zip(scores, right, strict=True)
        ]
        return float(np.mean(expected))

    low, high = 1 / _FLATTEST, 1 / _SHARPEST
    if slope(low) >= 0 or slope(high) <= 0:
        raise ConfigError("no temperature fits: the right label is always the likeliest, or no likelier than others")
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / (low * high) ** 0.5
