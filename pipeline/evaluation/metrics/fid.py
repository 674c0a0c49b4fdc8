"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Mean [d] and unbiased covariance [d, d] of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, d], accumulated in float64.

    Raises:
        ValueError: if there are fewer than two rows, or a value is not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be [N >= 2, d], not {list(features.shape)}")
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        raise ValueError("features hold values that are not finite")
    mean = features.mean(axis=0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), not clamped.

    The trace of the root is taken from the eigenvalues of the symmetric A^(1/2) B A^(1/2), which
    has those of A B but stays real and defined for singular covariances; negative eigenvalues
    of the order of rounding are taken as zero.
    """
    root_a = _symmetric_root(a.covariance)
    inner = root_a @ b.covariance @ root_a
    eigenvalues = np.linalg.eigvalsh((inner + inner.T) / 2).clip(min=0)
    difference = a.mean - b.mean
    return float(
        difference @ difference
        + np.trace(a.covariance)
        + np.trace(b.covariance)
        - 2 * np.sqrt(eigenvalues).sum()
    )


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
