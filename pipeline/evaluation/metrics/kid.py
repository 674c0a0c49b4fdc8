"""Kernel distance between sets of features (Binkowski et al. 2018, arXiv:1801.01401)."""

import numpy as np

PAIRS = 8_000_000
"""How many values of the kernel are in memory: memory does not grow with the number of images."""


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared maximum mean discrepancy with the kernel k(x, y) = (x.y / d + 1)^3.

    The unbiased estimate over all pairs, not over random subsets as is common: it has no
    randomness of its own. It is not clamped, since what is unbiased falls below 0 half of the time
    where two sets have the same distribution.

    Args:
        a: features [N >= 2, d], on the scale on which FID is measured.
        b: features [M >= 2, d].

    Raises:
        ValueError: if there are too few rows, or a value is not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features must be [N >= 2, d] and [M >= 2, d], not {list(a.shape)} and {list(b.shape)}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features hold values that are not finite")
    return _mean_within(a) + _mean_within(b) - 2 * _sum(a, b) / (len(a) * len(b))


def _sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of k(x, y) over all pairs, of which `PAIRS` are held at a time."""
    x, y = a.astype(np.float64), b.astype(np.float64).T / a.shape[1]
    step = max(1, PAIRS // len(b))
    held = np.empty((min(step, len(x)), len(b)))
    total = 0.0
    for i in range(0, len(x), step):
        part = x[i : i + step]
        kernel = np.matmul(part, y, out=held[: len(part)])
        kernel += 1
        kernel **= 3
        total += kernel.sum()
    return float(total)


def _mean_within(a: np.ndarray) -> float:
    """Mean of k(x, y) over all pairs of different rows."""
    itself = float((((a.astype(np.float64) ** 2).sum(axis=1) / a.shape[1] + 1) ** 3).sum())
    return (_sum(a, a) - itself) / (len(a) * (len(a) - 1))
