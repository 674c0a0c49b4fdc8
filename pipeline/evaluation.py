"""Judge one model: sample quality, reconstruction, likelihood. What it cannot do stays None."""

import math
from typing import Any

import numpy as np
import torch

from pipeline import judge, likelihoods, seeds
from pipeline.family import Family, HasLikelihood, Reconstructs, in_batches
from pipeline.metrics import reconstruction
from pipeline.progress import Progress


def sample_quality(
    judges: list[judge.Judge], samples: np.ndarray, reference: np.ndarray
) -> dict[str, Any]:
    """FID of uint8 samples against as many reference images, over all judges.

    Raises:
        ValueError: if the samples are not uint8 images like the reference.
    """
    reconstruction.check_images(samples, reference.shape[1:])
    found = judge.verdict(judges, samples, reference)
    return {"fid": found.fid, "fid_min": found.fid_min, "fid_max": found.fid_max}


def reconstruction_error(family: Family, images: np.ndarray, batch: int) -> dict[str, Any]:
    """Mean squared error (white is 1) and PSNR (dB) of images [N, C, H, W] after encoding."""
    if not isinstance(family, Reconstructs):
        return dict.fromkeys(("reconstruction_mse", "reconstruction_psnr", "reconstruction_kind"))
    errors = []
    for index, real in in_batches(len(images), batch):
        originals = images[index.numpy()]
        decoded = family.reconstruct(torch.from_numpy(originals).to(family.device), None)
        errors.append(reconstruction.squared_errors(originals, decoded.cpu().numpy())[:real])
    every = np.concatenate(errors)
    return {
        "reconstruction_mse": float(every.mean()),
        "reconstruction_psnr": reconstruction.psnr(every),
        "reconstruction_kind": family.reconstruction_kind,
    }


def likelihood(
    family: Family, images: np.ndarray, *, seed: int, batch: int, label: str = "score"
) -> dict[str, Any]:
    """Negative log-likelihood of uint8 images [N, C, H, W], or its bound.

    ``nats_per_image`` and ``bits_per_dim`` are means over the images, the standard errors are over
    the images (and what randomness the family's estimate has); ``likelihood_<term>_nats`` are the
    means of its summands, which add up to ``nats_per_image``.

    Raises:
        ValueError: if a likelihood is not finite.
    """
    keys = ("nats_per_image", "bits_per_dim", "bits_per_dim_stderr", "likelihood_bound")
    if not isinstance(family, HasLikelihood):
        return dict.fromkeys(keys)
    every = seeds.image_seeds(len(images), seed, "score")
    nats: list[np.ndarray] = []
    terms: dict[str, list[np.ndarray]] = {}
    bound = None
    with Progress(label, len(images)) as progress:
        for index, real in in_batches(len(images), batch):
            originals = torch.from_numpy(images[index.numpy()]).to(family.device)
            found = family.log_likelihood(originals, None, every[index])
            bound = found.bound
            nats.append(-found.nats[:real].double().cpu().numpy())
            for name, value in found.terms.items():
                terms.setdefault(name, []).append(-value[:real].double().cpu().numpy())
            progress.advance(real)
    total = np.concatenate(nats)
    if not np.isfinite(total).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(total))} likelihoods are not finite")
    dimensions = family.spec.dimensions
    stderr = total.std(ddof=1) / math.sqrt(len(total))
    return {
        "nats_per_image": float(total.mean()),
        "bits_per_dim": likelihoods.bits_per_dim(float(total.mean()), dimensions),
        "bits_per_dim_stderr": likelihoods.bits_per_dim(float(stderr), dimensions),
        "likelihood_bound": bound,
        **{f"likelihood_{k}_nats": float(np.concatenate(v).mean()) for k, v in terms.items()},
    }
