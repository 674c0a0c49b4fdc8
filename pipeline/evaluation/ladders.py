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
    every = np.asarray(split.images)
    images = np.array(every[seeds.subset(len(every), min(n, len(every)), seed, "ladders")])
    rng = np.random.Generator(np.random.Philox(seeds.derive(seed, "ladders")))
    yield Rung(REAL, "real", images)
    for percent in NOISE_PERCENT:
        noise = rng.standard_normal(images.shape)
        yield Rung("noise", f"noise of {percent:g} %", _levels(images + 2.55 * percent * noise))
    for sigma in BLUR:
        yield Rung("blur", f"blur of {sigma:g} px", _blur(images, sigma))
    for percent in COLOUR_PERCENT:
        yield Rung("colour", f"{percent:g} % of colour", _tinted(images, percent / 100))
    groups = np.asarray(split.labels) if len(np.unique(split.labels)) > 1 else _groups(every, seed)
    order = np.argsort(-np.bincount(groups), kind="stable")
    order = order[np.bincount(groups)[order] > 0]
    kinds = len(order)
    for missing in sorted({1, kinds // 3, kinds - 1} - {0}) if kinds > 1 else ():
        left = np.flatnonzero(~np.isin(groups, order[:missing]))
        chosen = left[rng.integers(len(left), size=len(images))]
        if len(left) >= len(images):
            chosen = left[seeds.subset(len(left), len(images), seed, "ladders", missing)]
        name = f"without {missing} of {kinds}" if missing < kinds - 1 else "one kind alone"
        yield Rung("missing", name, np.array(every[chosen]))
    mean = _levels(np.mean(every, axis=0, dtype=np.float64))
    yield Rung("mean", "the mean image", np.repeat(mean[None], len(images), axis=0))
    yield Rung("uniform", "uniform noise", rng.integers(0, 256, images.shape, dtype=np.uint8))


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


def _groups(images: np.ndarray, seed: int) -> np.ndarray:
    """The group of each image, int [N]: what k-means finds in the main components of the pixels."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    flat = images.reshape(len(images), -1).astype(np.float32)
    components = min(COMPONENTS, len(images) - 1, flat.shape[1])
    state = seeds.derive(seed, "ladders") % 2**32
    places = PCA(components, svd_solver="randomized", random_state=state).fit_transform(flat)
    return KMeans(min(CLUSTERS, len(images)), n_init=3, random_state=state).fit_predict(places)
