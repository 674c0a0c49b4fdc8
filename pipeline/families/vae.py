"""Variational autoencoders.

- vae: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.

The decoder is a mixture of discretised logistics over the 256 levels (Salimans et al. 2017,
arXiv:1701.05517), so the ELBO bounds the log-probability of the image as it is stored and can stand
beside the exact values of autoregressive models.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline import likelihoods
from pipeline.family import (
    Batch,
    Family,
    Group,
    ImageSpec,
    Likelihood,
    TrainingParams,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.nets import quarter, warm_cosine
from pipeline.params import ModelParams, Section
from pipeline.seeds import ImageNoise

LOG_VARIANCES = (-12.0, 6.0)
"""Range of the posterior's log-variance: an early outlier must not overflow its exponential."""


class VaeNetwork(Section):
    """Size of the encoder and decoder."""

    latent: int = Field(24, ge=1)
    channels: int = Field(16, ge=4)
    hidden: int = Field(256, ge=4)
    mixtures: int = Field(4, ge=1)


class VaeTraining(TrainingParams):
    """Optimiser: Adam with a warm-up, a cosine schedule and averaged weights."""

    clip: float = Field(10.0, gt=0)
    ema: float = Field(0.99, ge=0, lt=1)


class VaeSampling(Section):
    """What is drawn from p(x|z): its mean, or a sample with its pixel noise."""

    pixels: Literal["mean", "sample"] = "mean"


class VaeScoring(Section):
    """Draws from q(z|x) that the ELBO of an image averages over."""

    posterior_samples: int = Field(16, ge=1)


class Encoder(nn.Module):
    """Images, uint8, to the mean and log-variance of q(z|x), float32 [B, latent] each."""

    def __init__(self, spec: ImageSpec, network: VaeNetwork) -> None:
        super().__init__()
        width = network.channels
        height, breadth = quarter(spec.height), quarter(spec.width)
        self.layers = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * width * height * breadth, network.hidden),
            nn.SiLU(),
            nn.Linear(network.hidden, 2 * network.latent),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.layers(to_signed(images)).float().chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VARIANCES)


class Decoder(nn.Module):
    """Codes [B, latent] to mixture parameters [B, 3K, C, H, W]."""

    def __init__(self, spec: ImageSpec, network: VaeNetwork) -> None:
        super().__init__()
        self.spec = spec
        width = network.channels
        height, breadth = quarter(spec.height), quarter(spec.width)
        outputs = spec.channels * 3 * network.mixtures
        self.layers = nn.Sequential(
            nn.Linear(network.latent, network.hidden),
            nn.SiLU(),
            nn.Linear(network.hidden, 2 * width * height * breadth),
            nn.SiLU(),
            nn.Unflatten(1, (2 * width, height, breadth)),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            # Four pixels per position: cheaper than a layer at the full resolution.
            nn.Conv2d(width, 4 * outputs, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, codes: Tensor) -> Tensor:
        params = self.layers(codes)[:, :, : self.spec.height, : self.spec.width]
        return params.unflatten(1, (-1, self.spec.channels))


class Vae(Family):
    """Gaussian prior and posterior, convolutional encoder and decoder."""

    Network: ClassVar = VaeNetwork
    Training: ClassVar = VaeTraining
    Sampling: ClassVar = VaeSampling
    Scoring: ClassVar = VaeScoring

    reconstruction_kind = "posterior mean"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        self.encoder = Encoder(spec, params.network)
        self.decoder = Decoder(spec, params.network)

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": Group(
                list(self.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.learning_rate, fused=True),
                schedule=warm_cosine(0.02),
                clip=training.clip,
                ema=training.ema,
            )
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the negative ELBO with one draw from q(z|x); terms in nats per image."""
        mean, log_var = self.encoder(batch.images)
        noise = torch.randn(mean.shape, generator=rng, device=self.device)
        reconstruction = self._reconstruction(batch.images, mean, log_var, noise).mean()
        kl = self._kl(mean, log_var).mean()
        loss = kl - reconstruction
        update("model", loss / self.spec.dimensions)
        return {
            "model/loss": loss.detach(),
            "model/kl": kl.detach(),
            "model/reconstruction": -reconstruction.detach(),
        }

    def _reconstruction(
        self, images: Tensor, mean: Tensor, log_var: Tensor, noise: Tensor
    ) -> Tensor:
        """log p(x|z) in nats [B] at z = mean + noise * standard deviation."""
        params = self.decoder(mean + noise * torch.exp(0.5 * log_var))
        return likelihoods.logistic_mixture_log_prob(images, params).flatten(1).sum(1)

    def _kl(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """KL(q(z|x) || p(z)) in nats [B]."""
        return likelihoods.gaussian_kl(mean, log_var, 0.0, 0.0).sum(1)

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """z from the prior, then x as ``sampling.pixels`` says; see `pipeline.family.Samples`."""
        noise = ImageNoise(seeds, self.device)
        params = self.decoder(noise.normal(self.params.network.latent))
        if self.params.sampling.pixels == "mean":
            return to_uint8(likelihoods.logistic_mixture_mean(params))
        choice, position = noise.uniform(2, *self.spec.shape).unbind(dim=1)
        return likelihoods.logistic_mixture_sample(params, choice, position)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean of p(x|z) at the posterior mean; see `pipeline.family.Reconstructs`."""
        mean, _ = self.encoder(images)
        return to_uint8(likelihoods.logistic_mixture_mean(self.decoder(mean)))

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """The ELBO (equation 3), whatever the training objective weighted; see the protocol."""
        mean, log_var = self.encoder(images)
        draws = self.params.scoring.posterior_samples
        noise = ImageNoise(seeds, self.device).normal(draws, mean.shape[1])
        reconstruction = torch.stack(
            [
                self._reconstruction(images, mean, log_var, noise[:, i]).double()
                for i in range(draws)
            ]
        ).mean(dim=0)
        kl = self._kl(mean, log_var).double()
        return Likelihood(
            nats=reconstruction - kl,
            bound="elbo",
            terms={"reconstruction": reconstruction, "kl": -kl},
        )


FAMILY = Vae
