"""What becomes of images that a model encodes and decodes, or searches among what it can draw."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core import seeds
from pipeline.core.contract import Family, Inverts, MeasuresItself, Reconstructs, in_batches
from pipeline.evaluation.metrics import distortion


def measure(family: Family, images: np.ndarray, labels: np.ndarray, batch: int) -> dict[str, Any]:
    """Mean squared error (white is 1), PSNR (dB) and SSIM of images [N, C, H, W] after encoding."""
    if not isinstance(family, Reconstructs):
        return dict.fromkeys(distortion.keys())
    parts = [
        distortion.distortion(
            originals[:real].cpu().numpy(), family.reconstruct(originals, told)[:real].cpu().numpy()
        )
        for originals, told, real in _batches(family, images, labels, batch)
    ]
    return distortion.joined(parts).keys(family.reconstruction_kind)


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
    found = []
    for index, real in in_batches(len(images), batch):
        originals = torch.from_numpy(images[index.numpy()]).to(family.device)
        told = torch.from_numpy(labels[index.numpy()]).to(family.device)
        nearest = family.invert(originals, told if family.conditional else None, every[index])
        found.append(nearest[:real].cpu().numpy())
    compared = distortion.distortion(images, np.concatenate(found))
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
    found: dict[str, list[Tensor]] = {}
    for originals, told, real in _batches(family, images, labels, batch):
        for name, values in family.own_errors(originals, told).items():
            found.setdefault(name, []).append(values[:real].double().cpu())
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def _batches(
    family: Family, images: np.ndarray, labels: np.ndarray, size: int
) -> Iterator[tuple[Tensor, Tensor | None, int]]:
    """Images, their labels where the family is given them, and how many of each batch are real."""
    for index, real in in_batches(len(images), size):
        originals = torch.from_numpy(images[index.numpy()]).to(family.device)
        told = torch.from_numpy(labels[index.numpy()]).to(family.device)
        yield originals, told if family.conditional else None, real
