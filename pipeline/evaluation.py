"""Judge one model: samples, labels, reconstruction, likelihood. What it cannot do stays None."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import judge, quality
from pipeline.blocks import likelihoods
from pipeline.core import seeds
from pipeline.core.family import (
    Family,
    HasLikelihood,
    Inverts,
    Likelihood,
    MeasuresItself,
    Reconstructs,
    in_batches,
)
from pipeline.core.progress import Progress
from pipeline.datasets.store import Split
from pipeline.metrics import labels as label_metrics
from pipeline.metrics import reconstruction


def sample_quality(
    judges: list[judge.Judge], samples: np.ndarray | None, reference: np.ndarray
) -> dict[str, Any]:
    """Samples against as many reference images, by `pipeline.quality.KEYS`; None without samples.

    Raises:
        ValueError: if the samples are not uint8 images like the reference.
    """
    if samples is None:
        return dict.fromkeys(quality.KEYS)
    return quality.measure(judges, samples, reference)


def memorisation(
    judges: list[judge.Judge],
    samples: np.ndarray | None,
    training: np.ndarray,
    unseen: np.ndarray,
) -> dict[str, Any]:
    """Whether samples are copies of training images, by `pipeline.quality.COPYING_KEYS`."""
    if samples is None:
        return dict.fromkeys(quality.COPYING_KEYS)
    return quality.copying(judges, samples, training, unseen)


def label_fidelity(
    judges: list[judge.Judge],
    samples: np.ndarray | None,
    labels: np.ndarray | None,
    split: Split,
    train: Split,
) -> dict[str, Any]:
    """What samples are worth as samples of the class that was asked for.

    ``label_accuracy`` is the share that the judges take for that class, as a mean over judges;
    higher is better, and real images of ``split`` have ``label_accuracy_real``. Within each class:
    `pipeline.quality.by_class`.
    """
    if samples is None or labels is None:
        return {"label_accuracy": None}
    return {
        "label_accuracy": label_metrics.accuracy(judges, samples, labels),
        "label_accuracy_real": label_metrics.accuracy(judges, split.images, np.array(split.labels)),
        **quality.by_class(
            judges,
            (samples, labels),
            (split.images, np.array(split.labels)),
            (train.images, np.array(train.labels)),
        ),
    }


def reconstruction_error(
    family: Family, images: np.ndarray, labels: np.ndarray, batch: int
) -> dict[str, Any]:
    """Mean squared error (white is 1), PSNR (dB) and SSIM of images [N, C, H, W] after encoding."""
    if not isinstance(family, Reconstructs):
        return dict.fromkeys(reconstruction.keys())
    decoded = [
        family.reconstruct(originals, told)[:real].cpu().numpy()
        for originals, told, real in _batches(family, images, labels, batch)
    ]
    return reconstruction.distortion(images, np.concatenate(decoded)).keys(
        family.reconstruction_kind
    )


def inversion_error(
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
    distortion = reconstruction.distortion(images, np.concatenate(found))
    return {
        **distortion.keys(family.inversion_kind, prefix="inversion"),
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


def likelihood(
    family: Family,
    images: np.ndarray,
    labels: np.ndarray,
    shares: np.ndarray,
    *,
    seed: int,
    batch: int,
    label: str = "score",
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Negative log-likelihood of uint8 images [N, C, H, W], or its bound.

    ``nats_per_image`` and ``bits_per_dim`` are means over the images, the standard errors are over
    the images (and what randomness the family's estimate has). ``likelihood_<term>_nats`` are the
    means of its summands. ``iwae_bits_per_dim`` is the importance-weighted bound, where there is
    one; it never stands in for the other.

    A conditional model scores log p(x|y). Its ``bits_per_dim`` is that of the marginal, log p(x) =
    log sum_y p(y) p(x|y) over all classes, the only one to be compared with other models;
    ``..._given_label`` is log p(x|y) at the true label, of which the terms are summands;
    ``label_gain_nats`` is the mean paired difference between the true label and the next class.

    Returns the metrics, and the nats of each image that ``nats_per_image`` is the mean of, float64
    [N], by which two models can be compared image by image.

    Args:
        family: the model.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        shares: p(y), the share of each class among the training images, float [classes].
        seed: names the randomness of estimates.
        batch: images per call.
        label: shown in front of the progress bar.

    Raises:
        ValueError: if a likelihood is not finite.
    """
    keys = ("nats_per_image", "bits_per_dim", "bits_per_dim_stderr", "likelihood_bound")
    if not isinstance(family, HasLikelihood):
        return dict.fromkeys(keys), None
    every = seeds.image_seeds(len(images), seed, "score")
    scores = []
    with Progress(label, len(images)) as progress:
        for index, real in in_batches(len(images), batch):
            originals = torch.from_numpy(images[index.numpy()]).to(family.device)
            told = torch.from_numpy(labels[index.numpy()]).to(family.device)
            scores.append(_score(family, originals, told, shares, every[index]).first(real))
            progress.advance(real)
    dimensions = family.spec.dimensions

    def reported(values: list[Tensor], prefix: str = "", suffix: str = "") -> dict[str, float]:
        nats = -torch.cat(values).double().cpu().numpy()
        if not np.isfinite(nats).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(nats))} likelihoods are not finite")
        mean, stderr = float(nats.mean()), float(nats.std(ddof=1)) / math.sqrt(len(nats))
        bits = f"{prefix}bits_per_dim{suffix}"
        return {
            f"{prefix}nats_per_image{suffix}": mean,
            bits: likelihoods.bits_per_dim(mean, dimensions),
            f"{bits}_stderr": likelihoods.bits_per_dim(stderr, dimensions),
        }

    one = scores[0].given
    result: dict[str, Any] = reported([each.nats for each in scores])
    result["likelihood_bound"] = one.bound
    for name in one.terms:
        total = torch.cat([each.given.terms[name] for each in scores])
        result[f"likelihood_{name}_nats"] = -float(total.double().mean())
    if one.iwae is not None:
        result |= reported([each.iwae for each in scores], prefix="iwae_")
        result["iwae_samples"] = one.iwae_samples
    if family.conditional:
        result |= reported([each.given.nats for each in scores], suffix="_given_label")
        gains = torch.cat([each.given.nats - each.wrong for each in scores]).double()
        result["label_gain_nats"] = float(gains.mean())
        result["label_gain_nats_stderr"] = float(gains.std()) / math.sqrt(len(gains))
    return result, -torch.cat([each.nats for each in scores]).double().cpu().numpy()


@dataclass(frozen=True)
class _Scored:
    """Log-likelihoods of a batch: what is compared, what is given the labels, and a wrong one."""

    nats: Tensor
    iwae: Tensor | None
    given: Likelihood
    wrong: Tensor | None = None

    def first(self, n: int) -> "_Scored":
        """Without the padding of the last batch."""
        cut = slice(0, n)
        given = Likelihood(
            self.given.nats[cut],
            self.given.bound,
            {name: term[cut] for name, term in self.given.terms.items()},
            None if self.given.iwae is None else self.given.iwae[cut],
            self.given.iwae_samples,
        )
        return _Scored(
            self.nats[cut],
            None if self.iwae is None else self.iwae[cut],
            given,
            None if self.wrong is None else self.wrong[cut],
        )


def _score(
    family: Family, images: Tensor, labels: Tensor, shares: np.ndarray, every: Tensor
) -> _Scored:
    if not family.conditional:
        found = family.log_likelihood(images, None, every)
        return _Scored(found.nats, found.iwae, found)
    classes = family.spec.classes
    each = [
        family.log_likelihood(images, torch.full_like(labels, y), every) for y in range(classes)
    ]
    prior = torch.from_numpy(shares).to(images.device).log()

    def marginal(values: list[Tensor]) -> Tensor:
        return torch.logsumexp(torch.stack(values, dim=1).double() + prior, dim=1)

    def at(values: list[Tensor], wanted: Tensor) -> Tensor:
        return torch.stack(values, dim=1).gather(1, wanted[:, None]).squeeze(1)

    given = Likelihood(
        at([one.nats for one in each], labels),
        each[0].bound,
        {name: at([one.terms[name] for one in each], labels) for name in each[0].terms},
        None if each[0].iwae is None else at([one.iwae for one in each], labels),
        each[0].iwae_samples,
    )
    return _Scored(
        marginal([one.nats for one in each]),
        None if each[0].iwae is None else marginal([one.iwae for one in each]),
        given,
        at([one.nats for one in each], (labels + 1) % classes),
    )


def _batches(family: Family, images: np.ndarray, labels: np.ndarray, size: int):
    """Images, their labels where the family is given them, and how many of each batch are real."""
    for index, real in in_batches(len(images), size):
        originals = torch.from_numpy(images[index.numpy()]).to(family.device)
        told = torch.from_numpy(labels[index.numpy()]).to(family.device)
        yield originals, told if family.conditional else None, real
