"""What several trainings and several sample sets say about the next one.

Two models differ if their intervals do not overlap. Intervals of 95 % that do not overlap are
stricter than a test at 5 %, which pays for the many pairs that a table invites to compare.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; ``deviation`` is that of one value.

    On a logarithmic scale the mean is the geometric one and the deviation is relative.
    """

    mean: float
    low: float
    high: float
    deviation: float


def of_mean(values: Sequence[float], *, relative: bool = False, level: float = LEVEL) -> Interval:
    """Student's t interval (Student 1908) of the mean of independent normal values.

    Args:
        values: two or more.
        relative: whether it is their logarithms that are normal, as with distances, whose spread
            grows with their size and which cannot fall below 0. Values at or below 0, which have
            no logarithm, are taken as they are, all of them.
        level: how often such an interval holds the mean.

    Raises:
        ValueError: if there are fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, not {len(values)}")
    logarithmic = relative and min(values) > 0
    scale = np.log(values) if logarithmic else np.asarray(values, np.float64)
    mean, deviation = float(scale.mean()), float(scale.std(ddof=1))
    reach = (
        float(special.stdtrit(len(scale) - 1, (1 + level) / 2)) * deviation / math.sqrt(len(scale))
    )
    ends = (mean, mean - reach, mean + reach)
    return Interval(*(map(math.exp, ends) if logarithmic else ends), deviation)
