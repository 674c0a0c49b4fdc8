"""Generative adversarial networks.

- dcgan: Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional
  Generative Adversarial Networks", arXiv:1511.06434, with the non-saturating loss of Goodfellow
  et al. 2014, arXiv:1406.2661.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

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
from pipeline.nets import quarter
from pipeline.params import ModelParams, Section
from pipeline.seeds import ImageNoise

NORMALISATION_BATCHES = 50


class GanNetwork(Section):
    """Sizes: noise, and the channels next to the images."""

    latent: int = Field(64, ge=1)
    channels: int = Field(32, ge=4)


class GanTraining(TrainingParams):
    """Optimisers: Adam for both players."""

    discriminator_learning_rate: float = Field(2e-4, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    ema: float = Field(0.99, ge=0, lt=1)


class Generator(nn.Module):
    """Noise [B, latent] to images in -1..1: a dense layer and two transposed convolutions."""

    def __init__(self, spec: ImageSpec, network: GanNetwork) -> None:
        super().__init__()
        self.spec = spec
        width = network.channels
        height, breadth = quarter(spec.height), quarter(spec.width)
        self.layers = nn.Sequential(
            nn.Linear(network.latent, 4 * width * height * breadth, bias=False),
            nn.Unflatten(1, (4 * width, height, breadth)),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, spec.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise)[:, :, : self.spec.height, : self.spec.width]


class Discriminator(nn.Module):
    """Images in -1..1 to logits [B]: two strided convolutions and a dense layer."""

    def __init__(self, spec: ImageSpec, network: GanNetwork) -> None:
        super().__init__()
        width = network.channels
        height, breadth = quarter(spec.height), quarter(spec.width)
        self.layers = nn.Sequential(
            nn.Conv2d(spec.channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * height * breadth, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


def init_dcgan(module: nn.Module) -> None:
    """Weights from N(0, 0.02) as in section 4 of the paper."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class Gan(Family):
    """A generator against a discriminator."""

    Network: ClassVar = GanNetwork
    Training: ClassVar = GanTraining

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        self.generator = Generator(spec, params.network)
        self.discriminator = Discriminator(spec, params.network)
        self.apply(init_dcgan)

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        betas = (training.beta1, 0.999)
        return {
            "generator": Group(
                list(self.generator.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.learning_rate, betas=betas, fused=True),
                ema=training.ema,
            ),
            "discriminator": Group(
                list(self.discriminator.parameters()),
                lambda p: torch.optim.Adam(
                    p, lr=training.discriminator_learning_rate, betas=betas, fused=True
                ),
            ),
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """The discriminator's step, then the generator's against the discriminator it left.

        Real and fake images go through the discriminator's BatchNorm as two batches, as in the
        paper's own code.
        """
        real = to_signed(batch.images)
        fake = self.generator(self._noise(len(real), rng))
        on_real = self.discriminator(real).float()
        on_fake = self.discriminator(fake.detach()).float()
        discriminator_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        update("discriminator", discriminator_loss)
        generator_loss = F.softplus(-self.discriminator(fake).float()).mean()
        update("generator", generator_loss)
        return {
            "generator/loss": generator_loss.detach(),
            "discriminator/loss": discriminator_loss.detach(),
            "discriminator/real": torch.sigmoid(on_real).mean().detach(),
            "discriminator/fake": torch.sigmoid(on_fake).mean().detach(),
        }

    def _noise(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.params.network.latent, generator=rng, device=self.device)

    @torch.no_grad()
    def finish(self, batches: Iterator[Batch], rng: torch.Generator) -> None:
        """Measure BatchNorm's statistics for the averaged weights, which were never run before."""
        norms = [each for each in self.generator.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        self.generator.train()
        for _ in range(NORMALISATION_BATCHES):
            self.generator(self._noise(self.params.training.batch, rng))
        self.generator.eval()

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """One noise vector per seed; see `pipeline.family.Samples`."""
        noise = ImageNoise(seeds, self.device).normal(self.params.network.latent)
        return to_uint8(self.generator(noise))


FAMILY = Gan
