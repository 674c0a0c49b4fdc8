"""Metrics of nearest neighbours: how a set of samples covers a set of real images, or copies it.

Precision and recall are those of Kynkaanniemi et al. 2019, arXiv:1904.06991; density and coverage
those of Naeem et al. 2020, arXiv:2002.09797, which one outlier cannot inflate. Precision can be
fooled: samples that are all alike, in the middle of the real ones, have a perfect one. Coverage
can not, so it is the one to look at first.

Authenticity is that of Alaa et al. 2022, arXiv:2102.08921.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 5
"""k of the balls around points, for sets of the same size (arXiv:2002.09797, section 4)."""
CHUNK, PAIRS = 1000, 8_000_000
"""Rows whose distances to others are held at a time, and how many distances these are at most."""
BLOCK = 4096
"""Images among which nearest ones are looked for at a time: memory does not grow with their
number."""
EXACT = 1024
"""Products of numbers from -128 to 127 whose sum float32 holds exactly, in whatever order: 2^24
over 2^14."""


@dataclass(frozen=True)
class Overlap:
    """Each from 0 to 1, but density, which has 1 as its expectation for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(samples: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> Overlap:
    """How two sets of features, [N, d] each with N > k, lie among each other.

    A ball around a point reaches as far as its k-th neighbour of its own set, which is outside.

    - precision: the share of samples that are in the ball of some real image;
    - recall: the share of real images that are in the ball of some sample;
    - density: the mean number of real images' balls that a sample is in, over k;
    - coverage: the share of real images with some sample in their ball.

    Raises:
        ValueError: if the sets differ in size, on which all four depend, are too small, or hold
            values that are not finite.
    """
    _check(samples, real)
    if len(samples) != len(real):
        raise ValueError(
            f"{len(samples)} samples but {len(real)} real images: both sets must have the same size"
        )
    if len(real) <= k:
        raise ValueError(f"{len(real)} images are too few for {k} neighbours of each")
    real_radii, sample_radii = radii(real, k), radii(samples, k)
    inside = np.zeros(len(samples), np.int64)
    recalled, covered = [], []
    for rows, distances in _distances(real, samples):
        balls = distances < real_radii[rows, None]
        inside += balls.sum(axis=0, dtype=np.uint16)  # at most `CHUNK` of them
        covered.append(balls.any(axis=1))
        recalled.append((distances < sample_radii).any(axis=1))
    return Overlap(
        precision=float((inside > 0).mean()),
        recall=float(np.concatenate(recalled).mean()),
        density=float(inside.mean() / k),
        coverage=float(np.concatenate(covered).mean()),
    )


def radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance, float64 [N], of each point [N > k, d] to its k-th neighbour."""
    found = []
    for rows, distances in _distances(points, points):
        distances[np.arange(len(distances)), np.arange(len(points))[rows]] = np.inf
        distances.partition(k - 1, axis=1)
        found.append(distances[:, k - 1].copy())
    return np.concatenate(found)


def nearest(
    points: np.ndarray, others: np.ndarray, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each point [N, d] the nearest of the others [M, d], the first of those that tie.

    Where both are uint8, distances are exact.

    Args:
        points: what to look for.
        others: where to look.
        without: for each point the index of one of the others that does not count, int64 [N].

    Returns:
        Indices, int64 [N], and squared distances, float64 [N].

    Raises:
        ValueError: if the shapes do not fit, or values are not finite.
    """
    _check(points, others)
    index, squared = np.zeros(len(points), np.int64), np.full(len(points), np.inf)
    centre = None if others.dtype == np.uint8 else others.mean(axis=0, dtype=np.float64)
    for first in range(0, len(others), BLOCK):
        for rows, distances in _distances(points, others[first : first + BLOCK], centre):
            if without is not None:
                left_out = without[rows] - first
                (here,) = np.nonzero((left_out >= 0) & (left_out < distances.shape[1]))
                distances[here, left_out[here]] = np.inf
            found = distances.argmin(axis=1)
            least = distances[np.arange(len(found)), found]
            nearer = least < squared[rows]
            index[rows] = np.where(nearer, first + found, index[rows])
            squared[rows] = np.where(nearer, least, squared[rows])
    return index, squared


def copied(points: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How near each point [N, d] is to a training image, and how near that is to the next one.

    Returns:
        Index of the nearest training image, int64 [N], the squared distance to it, and its own
        squared distance to the nearest other training image, float64 [N].

    Raises:
        ValueError: if there are fewer than two training images, or values that are not finite.
    """
    if len(training) < 2:
        raise ValueError("copies are told by at least two training images")
    index, squared = nearest(points, training)
    used, place = np.unique(index, return_inverse=True)
    _, own = nearest(training[used], training, without=used)
    return index, squared, own[place]


def authenticity(points: np.ndarray, training: np.ndarray) -> float:
    """Share of points [N, d] farther from their nearest training image than that is from others.

    A generator that copies has 0. New images of the same distribution do not have 1: the nearest
    of many images is often nearer than its own nearest neighbour. So the value of real images that
    were not trained on belongs beside it; only what is far below that is copied.

    Raises:
        ValueError: as `copied`.
    """
    _, squared, own = copied(points, training)
    return float((squared > own).mean())


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(
            f"features must be [N, d] and [M, d], not {list(a.shape)} and {list(b.shape)}"
        )
    if not all(each.dtype == np.uint8 or np.isfinite(each).all() for each in (a, b)):
        raise ValueError("features hold values that are not finite")


def _distances(
    a: np.ndarray, b: np.ndarray, centre: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances, float64 [rows, M], of some rows of a [N, d] at a time to all of b [M, d].

    Both are centred first, by the mean of b if no ``centre`` is given: what is far from the origin
    would lose digits. Those of uint8 are integers, and exact.

    What is given out is overwritten by the next rows: memory that is asked for anew each time
    takes longer than the distances.
    """
    step = max(1, min(CHUNK, PAIRS // len(b)))
    chunks = [slice(start, min(start + step, len(a))) for start in range(0, len(a), step)]
    if a.dtype == b.dtype == np.uint8:
        yield from ((rows, _exact_distances(a[rows], b)) for rows in chunks)
        return
    if centre is None:
        centre = b.mean(axis=0, dtype=np.float64)
    b = b.astype(np.float64) - centre
    lengths = (b**2).sum(axis=1)
    every, products = np.empty((2, min(step, len(a)), len(b)))
    for rows in chunks:
        part = a[rows].astype(np.float64) - centre
        squared, product = every[: len(part)], products[: len(part)]
        np.add((part**2).sum(axis=1)[:, None], lengths, out=squared)
        squared -= np.matmul(2 * part, b.T, out=product)
        yield rows, np.maximum(squared, 0, out=squared)


def _exact_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances, float64 [N, M], of uint8 [N, d] to uint8 [M, d].

    In float32, which is twice as fast, by so few dimensions at a time that nothing is rounded.
    """
    found = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], EXACT):
        x, y = (each[:, start : start + EXACT].astype(np.float32) - 128 for each in (a, b))
        found -= 2 * (x @ y.T)
        found += (x**2).sum(axis=1, dtype=np.float64)[:, None]
        found += (y**2).sum(axis=1, dtype=np.float64)
    return found
