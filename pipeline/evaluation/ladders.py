"""Damage in known order: what a judge must rank if its FIDs are to rank anything.

Each ladder spoils the same real images more and more. `pipeline.evaluation.verdict` climbs them
after the judges were trained, and the evidence in docs/judges.md comes from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from pipeline.core import seeds
from pipeline.datasets.store import Split
from pipeline.evaluation.reference import noisy, uniform

NOISE_PERCENT = (2.5, 5, 10, 20)
"""Standard deviation of Gaussian noise, where white is 100."""
BLUR = (0.5, 1, 2)
"""Standard deviation of a Gaussian, in pixels at 32 and fewer of them a side; see `_blur`."""
COLOUR_PERCENT = (10, 20, 40)
"""By how much the first channel is brightened and the others darkened by half as much; grey images
are darkened."""
CLUSTERS = 5
COMPONENTS = 16
"""Of the pixels, in which images without labels are grouped."""
GROUPED = 2000
"""So many of them at the most, so that memory does not grow with their number."""
REAL = "real"


@dataclass(frozen=True)
class Rung:
    """One step of a ladder: uint8 images [n, C, H, W] and what was done to them."""

    ladder: str
    label: str
    images: np.ndarray


def rungs(split: Split, n: int, seed: int) -> Iterator[Rung]:
    """All ladders of n images from a split, each from the least damage to the most.

    The first, `REAL`, has one rung, images without damage, from which the others begin. ``missing``
    leaves out the most frequent classes, and has what is left drawn again where that is fewer than
    n; where there is but one class, groups of like images stand for classes.
    """
    every = split.images
    images = np.array(every[seeds.subset(len(every), min(n, len(every)), seed, "ladders")])
    yield Rung(REAL, "real", images)
    for percent in NOISE_PERCENT:
        yield Rung("noise", f"noise of {percent:g} %", noisy(images, percent / 100, seed))
    for sigma in BLUR:
        yield Rung("blur", f"blur of {sigma:g} px", _blur(images, sigma))
    for percent in COLOUR_PERCENT:
        yield Rung("colour", f"{percent:g} % of colour", _tinted(images, percent / 100))
    pool, groups = _kinds(split, seed)
    order = [kind for kind in np.argsort(-np.bincount(groups), kind="stable") if kind in groups]
    kinds = len(order)
    for missing in sorted({1, kinds // 3, kinds - 1} - {0}) if kinds > 1 else ():
        left = pool[~np.isin(groups, order[:missing])]
        if len(left) < len(images):
            left = np.resize(left, len(images))  # again from the first on
        chosen = left[seeds.subset(len(left), len(images), seed, "ladders", missing)]
        name = f"without {missing} of {kinds}" if missing < kinds - 1 else "one kind alone"
        yield Rung("missing", name, np.array(every[chosen]))
    mean = _levels(np.mean(every, axis=0, dtype=np.float64))
    yield Rung("mean", "the mean image", np.repeat(mean[None], len(images), axis=0))
    yield Rung("uniform", "uniform noise", uniform(len(images), images.shape[1:], seed))


def _levels(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred by as large a share of the side, whatever its size."""
    wide = sigma * max(1.0, max(images.shape[2:]) / 32)
    return _levels(gaussian_filter(images.astype(np.float32), (0, 0, wide, wide), mode="nearest"))


def _tinted(images: np.ndarray, share: float) -> np.ndarray:
    factors = np.full(images.shape[1], 1 - share / 2)
    factors[0] = 1 - share if len(factors) == 1 else 1 + share
    return _levels(images * factors[:, None, None])


def _kinds(split: Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images and the kind of each: its class, or where there is one class its group.

    Groups are what k-means finds in the main components of the pixels of at most `GROUPED` images.
    """
    labels = np.asarray(split.labels)
    if len(np.unique(labels)) > 1:
        return np.arange(len(labels)), labels
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    pool = seeds.subset(len(labels), min(len(labels), GROUPED), seed, "ladders", "groups")
    flat = split.images[pool].reshape(len(pool), -1).astype(np.float32)
    state = seeds.derive(seed, "ladders") % 2**32
    components = min(COMPONENTS, len(flat) - 1, flat.shape[1])
    places = PCA(components, svd_solver="randomized", random_state=state).fit_transform(flat)
    return pool, KMeans(min(CLUSTERS, len(flat)), n_init=3, random_state=state).fit_predict(places)
