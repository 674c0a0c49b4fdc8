"""How probable a model finds images that it has not seen; n/a for models that cannot say."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.blocks import distributions
from pipeline.core import batches, seeds
from pipeline.core.contract import Family, HasLikelihood, Likelihood
from pipeline.core.errors import NotFinite
from pipeline.core.progress import Progress

TERM = "term/"
"""Before the name of a summand of a likelihood, among tensors that have others."""


def measure(
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
    means of its summands. ``bound_of`` says what the bound is of, where a family could have
    scored otherwise. ``iwae_bits_per_dim`` is the importance-weighted bound, where there is
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
        NotFinite: if a likelihood is not finite.
    """
    keys = ("nats_per_image", "bits_per_dim", "bits_per_dim_stderr", "likelihood_bound")
    if not isinstance(family, HasLikelihood):
        return dict.fromkeys(keys), None
    every = seeds.image_seeds(len(images), seed, "score")
    facts: dict[str, Any] = {}

    def scored(index: Tensor) -> dict[str, Tensor]:
        originals = torch.from_numpy(images[index.numpy()]).to(family.device)
        told = torch.from_numpy(labels[index.numpy()]).to(family.device)
        values, one = _score(family, originals, told, shares, every[index])
        facts.update(bound=one.bound, iwae_samples=one.iwae_samples, of=one.of)
        return values

    with Progress(label, len(images)) as progress:
        scores = batches.computed(len(images), batch, scored, progress.advance)
    dimensions = family.spec.dimensions

    def reported(values: Tensor, prefix: str = "", suffix: str = "") -> dict[str, float]:
        nats = -values.double().numpy()
        if not np.isfinite(nats).all():
            raise NotFinite(
                f"{label}: {np.count_nonzero(~np.isfinite(nats))} likelihoods are not finite; the "
                "training went wrong: try a lower training.learning_rate"
            )
        mean, stderr = float(nats.mean()), float(nats.std(ddof=1)) / math.sqrt(len(nats))
        bits = f"{prefix}bits_per_dim{suffix}"
        return {
            f"{prefix}nats_per_image{suffix}": mean,
            bits: distributions.bits_per_dim(mean, dimensions),
            f"{bits}_stderr": distributions.bits_per_dim(stderr, dimensions),
        }

    result: dict[str, Any] = reported(scores["nats"])
    result["likelihood_bound"] = facts["bound"]
    if facts["of"] is not None:
        result["bound_of"] = facts["of"]
    for name, values in scores.items():
        if name.startswith(TERM):
            term = name.removeprefix(TERM)
            result[f"likelihood_{term}_nats"] = -float(values.double().mean())
    if "iwae" in scores:
        result |= reported(scores["iwae"], prefix="iwae_")
        result["iwae_samples"] = facts["iwae_samples"]
    if family.conditional:
        result |= reported(scores["given"], suffix="_given_label")
        gains = (scores["given"] - scores["wrong"]).double()
        result["label_gain_nats"] = float(gains.mean())
        result["label_gain_nats_stderr"] = float(gains.std()) / math.sqrt(len(gains))
    return result, -scores["nats"].double().numpy()


def _score(
    family: Family, images: Tensor, labels: Tensor, shares: np.ndarray, every: Tensor
) -> tuple[dict[str, Tensor], Likelihood]:
    """Log-likelihoods of a batch, each [B], and one `Likelihood` for what is no tensor.

    ``nats`` and perhaps ``iwae`` are what is compared; terms have `TERM` before their name. Of a
    conditional model ``given`` is at the true label, as the terms are, and ``wrong`` at the next.
    """
    if not family.conditional:
        found = family.log_likelihood(images, None, every)
        values = {"nats": found.nats, "iwae": found.iwae, **_named(found.terms)}
        return {name: each for name, each in values.items() if each is not None}, found
    classes = family.spec.classes
    each = [
        family.log_likelihood(images, torch.full_like(labels, y), every) for y in range(classes)
    ]
    prior = torch.from_numpy(shares).to(images.device).log()

    def marginal(values: list[Tensor]) -> Tensor:
        return torch.logsumexp(torch.stack(values, dim=1).double() + prior, dim=1)

    def at(values: list[Tensor], wanted: Tensor) -> Tensor:
        return torch.stack(values, dim=1).gather(1, wanted[:, None]).squeeze(1)

    nats = [one.nats for one in each]
    found = {
        "nats": marginal(nats),
        "given": at(nats, labels),
        "wrong": at(nats, (labels + 1) % classes),
        **_named({name: at([one.terms[name] for one in each], labels) for name in each[0].terms}),
    }
    if each[0].iwae is not None:
        found["iwae"] = marginal([one.iwae for one in each])
    return found, each[0]


def _named(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{TERM}{name}": values for name, values in terms.items()}
