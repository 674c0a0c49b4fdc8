"""How probable a model finds images that it has not seen; n/a for models that cannot say."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.blocks import distributions
from pipeline.core import seeds
from pipeline.core.contract import Family, HasLikelihood, Likelihood, in_batches
from pipeline.core.errors import NotFinite
from pipeline.core.progress import Progress


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
        NotFinite: if a likelihood is not finite.
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
