"""Reconstruction error of 8-bit images, on the scale where white is 1."""

import numpy as np


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
