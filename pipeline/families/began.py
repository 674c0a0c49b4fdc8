"""Boundary equilibrium generative adversarial networks.

- began: Berthelot et al. 2017, "BEGAN: Boundary Equilibrium Generative Adversarial Networks",
  arXiv:1703.10717.

The discriminator is an autoencoder, and what it says about an image is how badly it reconstructs
it. As in the paper: the absolute error, uniform noise as large as the discriminator's code, one
architecture for the generator and the discriminator's decoder, no normalisation layers, both
players updated from one and the same state. Other than in the paper: the autoencoder is smaller
(strided convolutions, one at each resolution) and has SiLUs for ELUs; one draw of noise serves both
players; Adam's learning rate falls along a cosine, not in halvings chosen by eye; the generator's
weights are averaged.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.convolutional import Decoder, Encoder
from pipeline.family import (
    Batch,
    Family,
    Group,
    ImageSpec,
    TrainingParams,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.nets import warm_cosine
from pipeline.params import ModelParams, Section
from pipeline.seeds import ImageNoise

INTERPOLATIONS = 12


class BeganNetwork(Section):
    """Sizes: noise and code, and the channels next to the images."""

    latent: int = Field(32, ge=1)
    channels: int = Field(16, ge=4)


class BeganTraining(TrainingParams):
    """Optimisers: Adam for both players; and the equilibrium between them.

    ``gamma`` is the ratio of errors on fake and real images that k is steered to, the diversity
    ratio; ``gain`` is the paper's lambda_k, how fast k follows.
    """

    discriminator_learning_rate: float = Field(1e-3, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    ema: float = Field(0.99, ge=0, lt=1)
    gamma: float = Field(0.5, ge=0, le=1)
    gain: float = Field(0.001, gt=0)


def autoencoding_errors(images: Tensor, decoded: Tensor) -> Tensor:
    """The mean absolute error of each image, float32 [B]: the paper's L (equation 1, eta = 1)."""
    return (decoded.float() - images).abs().flatten(1).mean(1)


class Began(Family):
    """A generator against an autoencoder."""

    Network: ClassVar = BeganNetwork
    Training: ClassVar = BeganTraining

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        size = {"channels": network.channels, "hidden": None}
        self.generator = Decoder(spec, inputs=network.latent, outputs=spec.channels, **size)
        self.discriminator = nn.Sequential(
            Encoder(spec, inputs=spec.channels, outputs=network.latent, **size),
            Decoder(spec, inputs=network.latent, outputs=spec.channels, **size),
        )
        self.register_buffer("k", torch.zeros(()))

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        betas = (training.beta1, 0.999)
        return {
            "generator": Group(
                list(self.generator.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.learning_rate, betas=betas, fused=True),
                schedule=warm_cosine(0.02),
                ema=training.ema,
            ),
            "discriminator": Group(
                list(self.discriminator.parameters()),
                lambda p: torch.optim.Adam(
                    p, lr=training.discriminator_learning_rate, betas=betas, fused=True
                ),
                schedule=warm_cosine(0.02),
            ),
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step of both players and of k (section 3.4).

        The generator is updated first, and the discriminator on images from before that update:
        so both gradients are taken at the same weights, which is the paper's simultaneous step.
        """
        training = self.params.training
        real = to_signed(batch.images)
        fake = self.generator(self._noise(len(real), rng)).float()
        generator_loss = autoencoding_errors(fake, self.discriminator(fake)).mean()
        update("generator", generator_loss)

        fake = fake.detach()
        on_real = autoencoding_errors(real, self.discriminator(real)).mean()
        on_fake = autoencoding_errors(fake, self.discriminator(fake)).mean()
        k = self.k.clone()
        discriminator_loss = on_real - k * on_fake
        update("discriminator", discriminator_loss)

        balance = training.gamma * on_real.detach() - generator_loss.detach()
        self.k.add_(training.gain * balance).clamp_(0, 1)
        return {
            "generator/loss": generator_loss.detach(),
            "discriminator/loss": discriminator_loss.detach(),
            "discriminator/real": on_real.detach(),
            "discriminator/fake": on_fake.detach(),
            "discriminator/k": k,
            "discriminator/convergence": on_real.detach() + balance.abs(),
        }

    def _noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Uniform on [-1, 1), float32 [n, latent]."""
        latent = self.params.network.latent
        return 2 * torch.rand(n, latent, generator=rng, device=self.device) - 1

    def _own_noise(self, seeds: Tensor) -> Tensor:
        """The same, one row per seed."""
        return 2 * ImageNoise(seeds, self.device).uniform(self.params.network.latent) - 1

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """One noise vector per seed; see `pipeline.family.Samples`."""
        return to_uint8(self.generator(self._own_noise(seeds)))

    @torch.no_grad()
    def own_errors(self, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """How badly the discriminator reconstructs images: its opinion of them, and no metric.

        It is a mean absolute error on the scale -1..1; see `pipeline.family.MeasuresItself`.
        """
        real = to_signed(images)
        return {"discriminator_error": autoencoding_errors(real, self.discriminator(real))}

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Straight lines, which stay within the noise's cube, between the noise of seeds."""
        noise = self._own_noise(seeds)
        along = torch.linspace(0, 1, INTERPOLATIONS, device=self.device)[None, :, None]
        between = torch.lerp(noise[:, None], noise.roll(-1, dims=0)[:, None], along)
        images = to_uint8(self.generator(between.flatten(0, 1)))
        return {"interpolations": images.unflatten(0, between.shape[:2])}


FAMILY = Began
