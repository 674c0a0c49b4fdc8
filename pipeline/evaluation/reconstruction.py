"""What becomes of images that a model encodes and decodes, or searches among what it can draw."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core import batches, seeds
from pipeline.core.contract import Family, Inverts, MeasuresItself, Quantises, Reconstructs
from pipeline.evaluation.metrics import distortion


def measure(family: Family, images: np.ndarray, labels: np.ndarray, batch: int) -> dict[str, Any]:
    """Mean squared error (white is 1), PSNR (dB) and SSIM of images [N, C, H, W] after encoding."""
    if not isinstance(family, Reconstructs):
        return dict.fromkeys(distortion.keys())

    def compared(originals: Tensor, told: Tensor | None, index: Tensor) -> dict[str, Tensor]:
        decoded = family.reconstruct(originals, told).cpu().numpy()
        found = distortion.distortion(originals.cpu().numpy(), decoded)
        values = {"errors": found.errors, "similarities": found.similarities}
        return {key: torch.from_numpy(v) for key, v in values.items() if v is not None}

    found = _of_each(family, images, labels, batch, compared)
    return distortion.Distortion(found["errors"], found.get("similarities")).keys(
        family.reconstruction_kind
    )


def invert(
    family: Family, images: np.ndarray, labels: np.ndarray, *, seed: int, batch: int
) -> dict[str, Any]:
    """The same for models without an encoder, as ``inversion_...``, of what they find nearest.

    ``inversion_n`` is the number of images; nothing of this is comparable with reconstructions,
    for which one evaluation of an encoder has to do. A model that does not invert has none of it.
    """
    if not isinstance(family, Inverts):
        return {}
    every = seeds.image_seeds(len(images), seed, "inversion")

    def nearest(originals: Tensor, told: Tensor | None, index: Tensor) -> dict[str, Tensor]:
        return {"images": family.invert(originals, told, every[index])}

    found = _of_each(family, images, labels, batch, nearest)["images"]
    compared = distortion.distortion(images, found)
    return {
        **compared.keys(family.inversion_kind, prefix="inversion"),
        "inversion_n": len(images),
    }


def own_errors(
    family: Family, images: np.ndarray, labels: np.ndarray, batch: int
) -> dict[str, float]:
    """Means over images [N, C, H, W] of what only this family measures, under its own names."""
    if not isinstance(family, MeasuresItself):
        return {}

    def errors(originals: Tensor, told: Tensor | None, index: Tensor) -> dict[str, Tensor]:
        return family.own_errors(originals, told)

    found = _of_each(family, images, labels, batch, errors)
    return {name: float(torch.from_numpy(values).double().mean()) for name, values in found.items()}


def code_usage(
    family: Family, images: np.ndarray, labels: np.ndarray, batch: int
) -> dict[str, float]:
    """How a family that quantises uses its codes for images [N, C, H, W]; otherwise nothing.

    ``codebook_perplexity`` is exp(-sum_k p_k ln p_k), where p_k is the share of code k among all
    codes of all images together: so many codes, equally frequent, would be as varied.
    ``codebook_used`` is the share of codes that occur at all.
    """
    if not isinstance(family, Quantises):
        return {}

    def encoded(originals: Tensor, told: Tensor | None, index: Tensor) -> dict[str, Tensor]:
        return {"codes": family.codes(originals, told)}

    codes = _of_each(family, images, labels, batch, encoded)["codes"]
    counts = np.bincount(codes.ravel(), minlength=family.code_count)
    shares = counts[counts > 0] / codes.size
    return {
        "codebook_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "codebook_used": len(shares) / family.code_count,
    }


def _of_each(
    family: Family,
    images: np.ndarray,
    labels: np.ndarray,
    size: int,
    compute: Callable[[Tensor, Tensor | None, Tensor], dict[str, Tensor]],
) -> dict[str, np.ndarray]:
    """What is computed of batches of images, their labels where the family is given them, and
    their indices; see `core.batches.computed`."""

    def of(index: Tensor) -> dict[str, Tensor]:
        originals = torch.from_numpy(images[index.numpy()]).to(family.device)
        told = torch.from_numpy(labels[index.numpy()]).to(family.device)
        return compute(originals, told if family.conditional else None, index)

    return {k: v.numpy() for k, v in batches.computed(len(images), size, of).items()}
