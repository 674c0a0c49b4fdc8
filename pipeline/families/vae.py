"""Variational autoencoders.

- vae: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.
- beta_vae: Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained
  Variational Framework" (ICLR), as analysed in Burgess et al. 2018, "Understanding disentangling
  in beta-VAE", arXiv:1804.03599: the KL divergence counts ``training.beta`` times in the
  objective. What is reported is the ELBO, which is the objective at beta = 1.
- cvae: Sohn et al. 2015, "Learning Structured Output Representation using Deep Conditional
  Generative Models" (NeurIPS), conditioned on the label, as in Kingma et al. 2014,
  "Semi-Supervised Learning with Deep Generative Models", arXiv:1406.5298.

The prior may be learned last: for a given encoder the prior that maximises the ELBO is the one that
is fitted to its codes (Hoffman & Johnson 2016, "ELBO surgery"), here a mixture of Gaussians, or one
for each label. Samples of a standard normal one are blurred where no code of an image is near.

The decoder is a mixture of discretised logistics over the 256 levels (Salimans et al. 2017,
arXiv:1701.05517), in colour of green given red and of blue given both, so the ELBO bounds the
log-probability of the image as it is stored and can stand beside the exact values of autoregressive
models. The same draws give the tighter bound of Burda et al. 2016, "Importance Weighted
Autoencoders", arXiv:1509.00519.
"""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.blocks import convolutional, distributions, nets
from pipeline.blocks.mixture import CodeMixture
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    Likelihood,
    TrainingImages,
    TrainingParams,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.core.images import PICTURED_CLASSES, ImageSpec
from pipeline.core.params import Decay, ModelParams, Section
from pipeline.core.seeds import BatchNoise, ImageNoise

LOG_VARIANCES = (-12.0, 6.0)
"""Range of the posterior's log-variance: an early outlier must not overflow its exponential."""
PRIOR_DRAWS = 2
"""Codes of each image that a mixture is fitted to."""
PRIOR_IMAGES = 9_000
"""Training images that a mixture is fitted to, with repetition."""
PRIOR_FLOOR = 0.001
"""Added to the variances of a mixture, as a fraction of the codes' variance."""
TRAVERSED = 10
"""Rows and columns of the pictures of the latent space."""
REACH = 2.5
"""A traversal goes this many standard deviations of the standard normal to either side."""


class VaeNetwork(Section):
    """Size of the encoder and decoder, whether they are given labels, and p(z).

    ``hidden`` 0 is one dense layer on either side in place of two with that width between them.
    ``prior: mixture`` is one of ``components`` Gaussians, and ``prior: label`` one for each label,
    fitted to the codes at the end of training, until when it is the standard normal.
    """

    latent: int = Field(24, ge=1, le=4096)
    channels: int = Field(16, ge=4, le=4096)
    hidden: int = Field(256, ge=0, le=65_536)
    mixtures: int = Field(4, ge=1, le=256)
    conditional: bool = False
    prior: Literal["standard", "mixture", "label"] = "standard"
    components: int = Field(4, ge=1, le=10_000)

    @model_validator(mode="after")
    def _labels_for_the_prior(self) -> "VaeNetwork":
        if self.prior == "label" and not self.conditional:
            raise ValueError("prior: label needs conditional: true")
        return self


class VaeTraining(TrainingParams):
    """Optimiser: Adam with a warm-up, a cosine schedule and averaged weights."""

    beta: float = Field(1.0, ge=0, le=1e6)
    clip: float = Field(10.0, gt=0, le=1e6)
    ema: Decay = 0.99


class VaeSampling(Section):
    """What is drawn from p(x|z): its mean, or a sample with its pixel noise."""

    pixels: Literal["mean", "sample"] = "mean"


class VaeScoring(Section):
    """Draws from q(z|x) per image: the ELBO averages over them, the IWAE bound weights them."""

    posterior_samples: int = Field(16, ge=1, le=10_000)


class Vae(Family):
    """Gaussian posterior, convolutional encoder and decoder."""

    Network: ClassVar = VaeNetwork
    Training: ClassVar = VaeTraining
    Sampling: ClassVar = VaeSampling
    Scoring: ClassVar = VaeScoring

    reconstruction_kind = "posterior mean"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        self.conditional = network.conditional
        size = {"channels": network.channels, "hidden": network.hidden or None}
        self.encoder = convolutional.Encoder(
            spec,
            inputs=spec.channels + network.conditional,
            outputs=2 * network.latent,
            **size,
        )
        self.decoder = convolutional.Decoder(
            spec,
            inputs=network.latent + (spec.classes if network.conditional else 0),
            outputs=distributions.PixelMixture.values(spec.channels, network.mixtures),
            **size,
        )
        self.by_label = network.prior == "label"
        self.prior = (
            None
            if network.prior == "standard"
            else CodeMixture(
                spec.classes if self.by_label else 1, network.components, network.latent
            )
        )
        # One plane beside the image: what the encoder is told of the label, pixel by pixel.
        self.label_plane = (
            nn.Embedding(spec.classes, spec.height * spec.width) if network.conditional else None
        )

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: a mixture is fitted to codes, or one to those of each label."""
        reason = super().unsupported(params, device, images)
        network = params.network
        if reason or images is None or network is None or network.prior == "standard":
            return reason
        fewest, whose = images.count, "there are"
        if network.prior == "label":
            if images.by_class is None:
                return None
            fewest, whose = min(n for n in images.by_class if n), "the rarest label has"
        # Which images `finish` sees is chance; twice as many codes as it asks for leave none.
        codes = int(PRIOR_DRAWS * min(1.0, PRIOR_IMAGES / images.count) * fewest)
        if 2 * network.components > codes:
            return (
                f"network.components = {network.components}: {whose} about {codes:,} codes to fit "
                "so many Gaussians to; at most half as many"
            )
        return None

    def encode(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x,y), float32 [B, latent] each, of uint8 [B, C, H, W]."""
        x = to_signed(images)
        if self.label_plane is not None:
            plane = self.label_plane(labels).view(-1, 1, self.spec.height, self.spec.width)
            x = torch.cat([x, plane], dim=1)
        mean, log_var = self.encoder(x).float().chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VARIANCES)

    def decode(self, codes: Tensor, labels: Tensor | None) -> distributions.PixelMixture:
        """p(x|z,y) for codes [B, latent]."""
        if self.conditional:
            told = nets.one_hot(labels, self.spec.classes)
            codes = torch.cat([codes, told.to(codes.dtype)], dim=1)
        return distributions.PixelMixture.split(self.decoder(codes), self.spec.channels)

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": Group(
                list(self.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.learning_rate, fused=True),
                schedule=nets.warm_cosine(0.02),
                clip=training.clip,
                ema=training.ema,
            )
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the objective with one draw from q(z|x); terms in nats per image."""
        labels = batch.labels if self.conditional else None
        mean, log_var = self.encode(batch.images, labels)
        noise = BatchNoise(rng).normal(*mean.shape)
        codes = mean + noise * torch.exp(0.5 * log_var)
        reconstruction = self._reconstruction(batch.images, codes, labels).mean()
        kl = distributions.gaussian_kl(mean, log_var, 0.0, 0.0).sum(1).mean()
        loss = self.params.training.beta * kl - reconstruction
        update("model", loss / self.spec.dimensions)
        return {
            "model/loss": loss.detach(),
            "model/kl": kl.detach(),
            "model/reconstruction": -reconstruction.detach(),
        }

    def _reconstruction(self, images: Tensor, codes: Tensor, labels: Tensor | None) -> Tensor:
        """log p(x|z,y) in nats [B]."""
        return self.decode(codes, labels).log_prob(images).flatten(1).sum(1)

    def _pixels(self, decoded: distributions.PixelMixture) -> Tensor:
        """The mean of p(x|z,y) as uint8 [B, C, H, W]."""
        return to_uint8(decoded.mean())

    @torch.no_grad()
    def finish(self, batches: Iterator[Batch], rng: torch.Generator) -> None:
        """Fit the prior, if it is a mixture or one for each label, to draws from q(z|x,y)."""
        if self.prior is None:
            return
        codes: list[list[np.ndarray]] = [[] for _ in range(len(self.prior.means))]
        seen = 0
        for batch in batches:
            mean, log_var = self.encode(batch.images, batch.labels)
            for _ in range(PRIOR_DRAWS):
                noise = BatchNoise(rng).normal(*mean.shape)
                drawn = (mean + noise * torch.exp(0.5 * log_var)).cpu().numpy()
                for code, label in zip(drawn, batch.labels.tolist(), strict=True):
                    codes[label if self.by_label else 0].append(code)
            seen += len(mean)
            if seen >= PRIOR_IMAGES:
                break
        self.prior.fit([np.array(each) for each in codes], PRIOR_FLOOR, self.params.name)

    def _log_prior(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """log p(z|y) in nats [B]."""
        if self.prior is None:
            return distributions.gaussian_log_density(codes, 0.0, 0.0).sum(1)
        return self.prior.log_density(codes, labels if self.by_label else None)

    def _draw_codes(self, noise: ImageNoise, labels: Tensor | None) -> Tensor:
        """Codes [n, latent] from p(z|y)."""
        if self.prior is None:
            return noise.normal(self.params.network.latent)
        return self.prior.draw(noise, labels if self.by_label else None)

    def facts(self) -> dict[str, str]:
        """The prior, where it is no standard normal."""
        if self.prior is None:
            return {}
        each = "for each label a " if self.by_label else ""
        return {"prior": f"{each}{self.prior}"}

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """z from the prior, then x as ``sampling.pixels`` says; see `core.contract.Samples`."""
        noise = ImageNoise(seeds, self.device)
        codes = self._draw_codes(noise, labels)
        decoded = self.decode(codes, labels)
        if self.params.sampling.pixels == "mean":
            return self._pixels(decoded)
        return decoded.sample(*noise.uniform(2, *self.spec.shape).unbind(dim=1))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean of p(x|z,y) at the posterior mean; see `core.contract.Reconstructs`."""
        mean, _ = self.encode(images, labels)
        return self._pixels(self.decode(mean, labels))

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """The ELBO (Kingma & Welling, equation 3) and the IWAE bound (Burda et al., equation 8).

        Whatever ``training.beta`` weighted; of log p(x|y) where the model is given labels. The
        ELBO takes the KL divergence in closed form where there is one; see
        `core.contract.HasLikelihood`.
        """
        mean, log_var = self.encode(images, labels)
        draws = self.params.scoring.posterior_samples
        noise = ImageNoise(seeds, self.device).normal(draws, mean.shape[1])
        reconstructions, differences, weights = [], [], []
        for i in range(draws):
            codes = mean + noise[:, i] * torch.exp(0.5 * log_var)
            log_p = self._reconstruction(images, codes, labels).double()
            log_q = distributions.gaussian_log_density(codes, mean, log_var).double().sum(1)
            difference = log_q - self._log_prior(codes, labels).double()
            reconstructions.append(log_p)
            differences.append(difference)
            weights.append(log_p - difference)
        reconstruction = torch.stack(reconstructions).mean(dim=0)
        if self.prior is None:
            kl = distributions.gaussian_kl(mean, log_var, 0.0, 0.0).sum(1).double()
        else:
            kl = torch.stack(differences).mean(dim=0)
        return Likelihood(
            nats=reconstruction - kl,
            bound="elbo",
            terms={"reconstruction": reconstruction, "kl": -kl},
            iwae=torch.logsumexp(torch.stack(weights), dim=0) - math.log(draws),
            iwae_samples=draws,
        )

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Traversals and interpolations of the latent space; see `core.contract.Illustrates`.

        ``traversals``: a row for each of the dimensions that hold most of what the encoder says of
        these images, along which the code of the first image moves, all others fixed.
        ``interpolations``: from the code of an image to that of the next. A conditional model
        shows ``styles`` instead: a row for each draw from the prior, a column for each class.
        """
        labels = batch.labels if self.conditional else None
        mean, log_var = self.encode(batch.images, labels)
        steps = torch.linspace(0, 1, TRAVERSED, device=self.device)
        if self.conditional:
            n = min(self.spec.classes, PICTURED_CLASSES)
            every = torch.arange(n, device=self.device)
            rows = []
            for seed in seeds[: max(1, TRAVERSED * len(seeds) // n)]:
                codes = self._draw_codes(ImageNoise(seed.repeat(n), self.device), every)
                rows.append(self._pixels(self.decode(codes, every)))
            return {"styles": torch.stack(rows)}
        informative = distributions.gaussian_kl(mean, log_var, 0.0, 0.0).mean(0)
        order = informative.argsort(descending=True, stable=True)[:TRAVERSED]
        traversals = []
        for dimension in order.tolist():
            codes = mean[:1].repeat(TRAVERSED, 1)
            codes[:, dimension] = REACH * (2 * steps - 1)
            traversals.append(self._pixels(self.decode(codes, None)))
        following = mean.roll(-1, dims=0)
        interpolations = [
            self._pixels(self.decode(torch.lerp(one, other, steps[:, None]), None))
            for one, other in zip(mean, following, strict=True)
        ]
        return {
            "traversals": torch.stack(traversals),
            "interpolations": torch.stack(interpolations),
        }


FAMILY = Vae
