"""Reconstruction error of 8-bit images, on the scale where white is 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW, SIGMA = 11, 1.5
"""Side of the Gaussian window of SSIM in pixels, and its standard deviation."""
STABILISERS = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
"""C1 and C2 of SSIM, for levels from 0 to 255."""


def check_images(images: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    """Refuse anything but uint8 [N, C, H, W], of the given image shape if there is one.

    Raises:
        ValueError: with what was found and what would be right.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (0..255), not {images.dtype}")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must be [N >= 1, C, H, W], not {list(images.shape)}")
    if shape is not None and images.shape[1:] != tuple(shape):
        raise ValueError(f"images must be {list(shape)}, not {list(images.shape[1:])}")


def squared_errors(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Mean squared error of each image, float64 [N], in units of (white level)^2.

    Raises:
        ValueError: if either is not uint8, or their shapes differ.
    """
    check_images(images)
    check_images(reconstructions, images.shape[1:])
    if len(images) != len(reconstructions):
        raise ValueError(f"{len(images)} images but {len(reconstructions)} reconstructions")
    difference = images.astype(np.float64) - reconstructions
    return (difference**2).mean(axis=(1, 2, 3)) / 255**2


def psnr(errors: np.ndarray) -> float:
    """Mean over images of each image's peak signal-to-noise ratio, in dB.

    An error below that of one level in one of 28 x 28 pixels counts as that error, so that a
    perfect reconstruction is a large number and not infinity.
    """
    floor = 1 / (255**2 * 784)
    return float((-10 * np.log10(np.maximum(errors, floor))).mean())


def structural_similarities(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray | None:
    """SSIM of each image with its reconstruction, float64 [N], 1 where they are equal.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    equation 13, with their Gaussian window and constants: the mean over all places at which the
    window lies within the image, and over channels, each of which is compared by itself. None
    where the window is larger than the images.

    Raises:
        ValueError: if either is not uint8, or their shapes differ.
    """
    check_images(images)
    check_images(reconstructions, images.shape[1:])
    if min(images.shape[2:]) < WINDOW:
        return None
    x, y = images.astype(np.float64), reconstructions.astype(np.float64)
    mean_x, mean_y = _local_means(x), _local_means(y)
    variances = _local_means(x * x) - mean_x**2 + _local_means(y * y) - mean_y**2
    covariance = _local_means(x * y) - mean_x * mean_y
    c1, c2 = STABILISERS
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean(axis=(1, 2, 3))


def _local_means(values: np.ndarray) -> np.ndarray:
    """Means of [N, C, H, W] weighted by the window, at all places where it fits."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (2, 3):
        size = values.shape[axis] - WINDOW + 1
        values = sum(
            weight * values.take(range(start, start + size), axis=axis)
            for start, weight in enumerate(weights)
        )
    return values


def keys(prefix: str = "reconstruction") -> tuple[str, ...]:
    """What `Distortion.keys` reports."""
    return tuple(f"{prefix}_{each}" for each in ("mse", "psnr", "ssim", "kind"))


@dataclass(frozen=True)
class Distortion:
    """What becomes of images [N] that are encoded and decoded again.

    Attributes:
        errors: mean squared errors, float64 [N].
        similarities: SSIM, float64 [N], or None for images that are too small for it.
    """

    errors: np.ndarray
    similarities: np.ndarray | None

    def keys(self, kind: str, prefix: str = "reconstruction") -> dict[str, Any]:
        """Means over images as ``<prefix>_mse``, ``_psnr``, ``_ssim``, and ``_kind``."""
        found = self.similarities
        return {
            f"{prefix}_mse": float(self.errors.mean()),
            f"{prefix}_psnr": psnr(self.errors),
            f"{prefix}_ssim": None if found is None else float(found.mean()),
            f"{prefix}_kind": kind,
        }


def distortion(images: np.ndarray, reconstructions: np.ndarray) -> Distortion:
    """Of uint8 images [N, C, H, W]; errors are those of `squared_errors`."""
    return Distortion(
        squared_errors(images, reconstructions), structural_similarities(images, reconstructions)
    )


def joined(parts: Sequence[Distortion]) -> Distortion:
    """The distortion of all images of several parts, in their order."""
    similarities = [each.similarities for each in parts if each.similarities is not None]
    return Distortion(
        np.concatenate([each.errors for each in parts]),
        np.concatenate(similarities) if similarities else None,
    )
