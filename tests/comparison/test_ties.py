import math

import numpy as np
import pytest
from scipy import stats

from pipeline.comparison import ties


def test_against_scipy():
    values = [3.1, 2.7, 3.9, 3.0]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = ties.of_mean(values)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_relative_intervals_are_those_of_logarithms():
    values = [1.0, 2.0, 4.0]
    plain = ties.of_mean([math.log(each) for each in values])
    found = ties.of_mean(values, relative=True)
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert found.low > 0
    assert found.deviation == pytest.approx(math.log(2))


def test_what_has_no_logarithm_is_taken_as_it_is():
    values = [0.0, 1.0, 2.0]
    assert ties.of_mean(values, relative=True) == ties.of_mean(values)


def test_three_values_hold_the_mean_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(5, 2, (4000, 3))
    found = [ties.of_mean(each) for each in draws]
    held = np.mean([each.low <= 5 <= each.high for each in found])
    assert held == pytest.approx(0.95, abs=0.012)


def test_intervals_that_do_not_overlap_are_rare_where_nothing_differs():
    draws = np.random.default_rng(1).normal(5, 2, (4000, 2, 3))
    apart = 0
    for one, other in draws:
        a, b = ties.of_mean(one), ties.of_mean(other)
        apart += a.high < b.low or b.high < a.low
    assert apart / len(draws) < 0.02


def test_one_value_says_nothing():
    with pytest.raises(ValueError, match="two values or more, not 1"):
        ties.of_mean([1.0])


@pytest.mark.parametrize(
    ("spans", "letters"),
    [
        ([], []),
        ([(4.0, 5.0)], ["a"]),
        ([(1.0, 2.0), (2.0, 3.0)], ["a", "a"]),
        ([(1.0, 2.0), (2.1, 3.0)], ["a", "b"]),
        ([(2.1, 3.0), (1.0, 2.0)], ["b", "a"]),
        ([(1.0, 9.0), (2.0, 3.0), (4.0, 5.0)], ["a b", "a", "b"]),
        ([(1.0, 2.0), (1.5, 3.0), (2.5, 4.0), (3.5, 5.0)], ["a", "a b", "b c", "c"]),
        ([(0.0, 0.0), (0.0, 0.0), (1.0, 1.0)], ["a", "a", "b"]),
    ],
)
def test_ties(spans, letters):
    assert ties.letters(spans) == letters


def test_letters_are_shared_by_ties_and_by_nothing_else():
    rng = np.random.default_rng(0)
    starts = rng.uniform(1, 2000, 90)
    spans = list(zip(starts, starts + rng.uniform(0, 60, 90), strict=True))
    marks = [set(each.split()) for each in ties.letters(spans)]
    assert len(set.union(*marks)) > 26, "more groups than the alphabet has letters"
    for i, (low, high) in enumerate(spans):
        for j, (start, end) in enumerate(spans):
            assert bool(marks[i] & marks[j]) == (start <= high and low <= end)


@pytest.mark.parametrize(("other", "tied"), [(1.49, True), (1.51, False)])
def test_fids_of_single_trainings_tie_by_a_factor(other, tied):
    marks = ties.letters([ties.interval({"fid": v}, "fid") for v in (1.0, other)])
    assert (marks[0] == marks[1]) == tied
