"""Student's interval: against SciPy, and how often it holds."""

import numpy as np
import pytest
from scipy import stats

from compress_cli.statistics.student import central, geometric_mean, quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 6, 11, 47, 200])
def test_quantiles_are_those_of_scipy(degrees):
    for probability in (0.6, 0.975, 0.995, 0.99875):
        assert quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-6)


def test_a_worked_example():
    mean = geometric_mean(np.exp([1.0, 2, 3, 4]), 0.95)
    low, high = stats.t.interval(0.95, 3, loc=2.5, scale=stats.sem([1, 2, 3, 4]))
    assert np.log([mean.value, mean.low, mean.high]) == pytest.approx([2.5, low, high])
    with pytest.raises(ValueError, match="at least two"):
        geometric_mean(np.ones(1), 0.95)


def test_values_far_off_hardly_move_it():
    values = np.r_[np.linspace(0.99, 1.01, 18), 5, 7]
    assert geometric_mean(values, 0.99).high < 1.02
    assert geometric_mean(values, 0.99, trim=False).high > 1.4
    assert set(central(values)) == set(range(4, 16))
    assert list(central(values[:6])) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [6, 12, 24, 48])
@pytest.mark.parametrize("degrees", [3, 1000])
def test_it_holds_the_level(count, degrees):
    """Values of normal and of heavier tails: at 95%, 1,000 times, outside at most 7.5% (5% give more once in 2,000 times)."""
    drawn = np.exp(np.random.default_rng(count).standard_t(degrees, (1000, count)) / 10)
    estimates = [geometric_mean(values, 0.95) for values in drawn]
    assert sum(not estimate.low <= 1 <= estimate.high for estimate in estimates) / 1000 < 0.075
