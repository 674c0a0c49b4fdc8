import math

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison import intervals


def test_against_scipy():
    values = [3.1, 2.7, 3.9, 3.0]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = intervals.of_mean(values)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_relative_intervals_are_those_of_logarithms():
    values = [1.0, 2.0, 4.0]
    plain = intervals.of_mean([math.log(each) for each in values])
    found = intervals.of_mean(values, relative=True)
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert found.low > 0
    assert found.deviation == pytest.approx(math.log(2))


def test_what_has_no_logarithm_is_taken_as_it_is():
    values = [0.0, 1.0, 2.0]
    assert intervals.of_mean(values, relative=True) == intervals.of_mean(values)


def test_three_values_hold_the_mean_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(5, 2, (4000, 3))
    found = [intervals.of_mean(each) for each in draws]
    held = np.mean([each.low <= 5 <= each.high for each in found])
    assert held == pytest.approx(0.95, abs=0.012)


def test_intervals_that_do_not_overlap_are_rare_where_nothing_differs():
    draws = np.random.default_rng(1).normal(5, 2, (4000, 2, 3))
    apart = 0
    for one, other in draws:
        a, b = intervals.of_mean(one), intervals.of_mean(other)
        apart += a.high < b.low or b.high < a.low
    assert apart / len(draws) < 0.02


def test_one_value_says_nothing():
    with pytest.raises(ValueError, match="two values or more, not 1"):
        intervals.of_mean([1.0])
