import numpy as np
import pytest

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import bootstrap_mean, bootstrap_ratio


def test_width_is_that_of_the_normal_approximation():
    values = np.array([1.0] * 120 + [0.0] * 280)
    interval = bootstrap_mean(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert interval.value == pytest.approx(0.3)
    # Quantiles of a lattice of step 1/400 = 0.0025, about a tenth of the half width.
    assert interval.high - interval.value == pytest.approx(half, abs=0.004)
    assert interval.value - interval.low == pytest.approx(half, abs=0.004)


def test_covers_the_truth_about_19_times_in_20():
    # 300 data sets of 80 draws; a coverage of .95 (nearer .94 at this size) has a standard error of .013: four of them.
    rng = np.random.default_rng(5)
    intervals = [bootstrap_mean(rng.exponential(size=80), num_resamples=500) for _ in range(300)]
    coverage = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.88 <= coverage <= 0.99


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_constant_values_leave_no_doubt():
    interval = bootstrap_mean(np.full(20, 0.25))
    assert (interval.value, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_ratio_is_of_sums_not_a_mean_of_ratios():
    interval = bootstrap_ratio(np.array([1.0, 30.0]), np.array([1.0, 10.0]))
    assert interval.value == pytest.approx(31 / 11)
    assert interval.low == pytest.approx(1.0)
    assert interval.high == pytest.approx(3.0)


def test_ratio_resamples_pairs():
    # Every item has the ratio 2, so no resample has another: it would if the two were drawn independently.
    denominators = np.array([1.0, 5.0, 9.0])
    interval = bootstrap_ratio(2 * denominators, denominators)
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize(("numerators", "denominators"), [([], []), ([1.0], [0.0])])
def test_rejects_nothing_to_measure(numerators, denominators):
    with pytest.raises(ConfigError, match="at least one item"):
        bootstrap_ratio(np.array(numerators), np.array(denominators))
