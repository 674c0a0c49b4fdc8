"""What several trainings and several sample sets say about the next one.

Two models differ if their intervals do not overlap. Intervals of 95 % that do not overlap are
stricter than a test at 5 %, which pays for the many pairs that a table invites to compare.
"""

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

LEVEL = 0.95
TIE_FACTOR = 1.5
"""FIDs of single trainings within this factor are a tie: other seeds move them as much."""


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


def interval(row: Mapping[str, Any], key: str) -> tuple[float, float]:
    """Between which values another training would be, of a row that has ``key``.

    That is the interval over its trainings; of a single one it is a guess, so that two of them
    overlap within `TIE_FACTOR`.
    """
    if row.get(f"{key}_trained_low") is not None:
        return row[f"{key}_trained_low"], row[f"{key}_trained_high"]
    return row[key] / math.sqrt(TIE_FACTOR), row[key] * math.sqrt(TIE_FACTOR)


def letters(spans: Sequence[tuple[float, float]]) -> list[str]:
    """Letters for intervals (low, high); two that share a letter overlap.

    Overlapping is not transitive, so one interval may have several letters: each stands for a
    largest group whose members all overlap (a compact letter display, Piepho 2004). Letters go up
    with the values.
    """
    groups: list[set[int]] = []
    # Intervals that all overlap have a point in common, and one of their lower ends is such.
    for low in sorted({low for low, _ in spans}):
        members = {i for i, (start, end) in enumerate(spans) if start <= low <= end}
        groups = [each for each in groups if not each <= members]
        if not any(members <= each for each in groups):
            groups.append(members)
    return [
        " ".join(_letter(place) for place, members in enumerate(groups) if i in members)
        for i in range(len(spans))
    ]


def _letter(index: int) -> str:
    """a to z, then a1 to z1 and so on."""
    round_, place = divmod(index, len(string.ascii_lowercase))
    return string.ascii_lowercase[place] + (str(round_) if round_ else "")
