"""Calibration error against a plain count, the fitted temperature against a grid."""

import numpy as np
import pytest

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import bootstrap, bootstrap_mean
from quicksilver.evaluation.calibration import NUM_BINS, calibration_error, fit_temperature, softmax


def test_the_error_is_the_mean_gap_of_bins():
    rng = np.random.Generator(np.random.Philox(key=1))
    confidence = rng.uniform(size=300)
    is_right = rng.uniform(size=300) < confidence**2
    gap = 0.0
    for number in range(NUM_BINS):
        inside = (confidence >= number / NUM_BINS) & (confidence < (number + 1) / NUM_BINS)
        if inside.any():
            gap += inside.mean() * abs(confidence[inside].mean() - is_right[inside].mean())
    found = calibration_error(confidence, is_right)
    assert found.value == pytest.approx(gap)
    assert found.low < found.high


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    assert calibration_error(np.ones(5), np.ones(5, dtype=bool)).value == 0.0
    assert calibration_error(np.ones(5), np.zeros(5, dtype=bool)).value == 1.0


def test_the_temperature_is_the_best_of_a_grid():
    rng = np.random.Generator(np.random.Philox(key=2))
    rows = [rng.normal(scale=3.0, size=size) for size in rng.integers(2, 6, size=400)]
    right = [int(rng.choice(len(row), p=softmax(row / 2.5))) for row in rows]
    found = fit_temperature(rows, right)

    def nll(temperature):
        soft = [row / temperature for row in rows]
        return np.mean([np.logaddexp.reduce(row) - row[which] for row, which in zip(soft, right, strict=True)])

    best = min(np.geomspace(1, 6, 180), key=nll)  # steps of 1 %
    assert found == pytest.approx(best, rel=0.01)
    assert found == pytest.approx(2.5, rel=0.2)  # 400 draws: the standard error of the fit is about 0.15


@pytest.mark.parametrize(("rows", "right"), [([], []), ([np.array([1.0, 0.0])], [0]), ([np.array([1.0, 0.0])], [1])])
def test_no_temperature_fits_what_is_always_right_or_wrong(rows, right):
    with pytest.raises(ConfigError):
        fit_temperature(rows, right)


def test_any_figure_is_resampled_as_a_mean_is():
    values = np.random.Generator(np.random.Philox(key=3)).uniform(size=40)
    assert bootstrap(40, lambda index: values[index].mean(axis=1)) == bootstrap_mean(values)
    with pytest.raises(ConfigError):
        bootstrap(0, lambda index: values[index].mean(axis=1))
