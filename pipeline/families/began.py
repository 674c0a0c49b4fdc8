"""Boundary equilibrium generative adversarial networks.

- began: Berthelot et al. 2017, "BEGAN: Boundary Equilibrium Generative Adversarial Networks",
  arXiv:1703.10717.

The discriminator is an autoencoder, and what it says about an image is how badly it reconstructs
it. As in the paper: uniform noise as large as the discriminator's code, one architecture for the
generator and the discriminator's decoder, no batch normalisation, both players updated from one and
the same state, k steered by the two errors.

Other than in the paper, where millions of images are seen: the discriminator learns ``alone`` at
first, and the generator starts as a copy of its decoder. A generator that starts anywhere else
collapses on digits to bars and blanks, which every autoencoder reconstructs well, and a short
training does not bring it back. For that start to mean something a code is scaled to the length
that noise has. Also, the networks are smaller and have SiLUs for ELUs; one draw of noise serves
both players; Adam's learning rate falls along a cosine, not in halvings chosen by eye; the
generator's weights are averaged.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import inversion
from pipeline.blocks.augmentation import AugmentedTraining, augmented
from pipeline.blocks.convolutional import Decoder, Encoder
from pipeline.blocks.nets import HostCount, warm_cosine
from pipeline.core import collectives, ranks
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    TrainingImages,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Rate, Section
from pipeline.core.seeds import BatchNoise, ImageNoise

INTERPOLATIONS = 12


class BeganNetwork(Section):
    """Sizes: noise and code, and the channels next to the images."""

    latent: int = Field(16, ge=2, le=4096)
    channels: int = Field(16, ge=4, le=4096)


class BeganTraining(AugmentedTraining):
    """Optimisers: Adam for both players; and the equilibrium between them.

    ``alone`` counts the training images, out of ``images``, that the discriminator sees before the
    generator starts, and is a share of them that ``train.budget`` does not change. ``gamma`` is the
    ratio of errors on fake and real images that k is steered to, the diversity ratio; ``gain`` is
    the paper's lambda_k, how fast k follows; ``eta`` the power of the absolute error.
    """

    counts: ClassVar = ("alone",)

    alone: int = Field(20_000, ge=0, le=10**9)
    discriminator_learning_rate: Rate = 4e-3
    beta1: Decay = 0.9
    ema: Decay = 0.99
    gamma: float = Field(0.7, ge=0, le=1)
    gain: float = Field(0.02, gt=0, le=1000)
    eta: int = Field(2, ge=1, le=2)


class Autoencoder(nn.Module):
    """Images in -1..1 to reconstructions, float [B, C, H, W], through a code like the noise."""

    def __init__(self, spec: ImageSpec, network: BeganNetwork) -> None:
        super().__init__()
        size = {"channels": network.channels, "hidden": None}
        self.encoder = Encoder(spec, inputs=spec.channels, outputs=network.latent, **size)
        self.decoder = Decoder(spec, inputs=network.latent, outputs=spec.channels, **size)

    def code(self, images: Tensor) -> Tensor:
        """float [B, latent] with mean 0 and variance 1/3, as uniform noise on -1..1 has."""
        raw = self.encoder(images)
        return F.layer_norm(raw, raw.shape[1:]) / math.sqrt(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.code(images))


def autoencoding_errors(images: Tensor, decoded: Tensor, eta: int) -> Tensor:
    """The paper's L (section 3.1) on the scale -1..1, a mean over pixels, float32 [B]."""
    return (decoded.float() - images).abs().pow(eta).flatten(1).mean(1)


class Began(Family):
    """A generator against an autoencoder."""

    Network: ClassVar = BeganNetwork
    Training: ClassVar = BeganTraining

    inversion_kind = inversion.KIND

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        self.generator = Decoder(
            spec,
            inputs=params.network.latent,
            outputs=spec.channels,
            channels=params.network.channels,
            hidden=None,
        )
        self.discriminator = Autoencoder(spec, params.network)
        self.register_buffer("k", torch.zeros(()))
        self.images_alone = HostCount(self, "seen")

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: the generator has to be trained, too."""
        training = params.training
        if training is not None and training.alone > training.batch * (training.steps - 1):
            remedy = (
                "lower it, to about half of them" if training.steps > 1 else "raise train.budget"
            )
            return (
                f"training.alone: the discriminator sees {training.alone:,} of the "
                f"{training.images:,} training images alone (both times train.budget), so that "
                f"the generator is never trained; {remedy}"
            )
        return super().unsupported(params, device, images)

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
        """One step of both players and of k (section 3.4), or of the discriminator alone.

        The generator is updated first, and the discriminator on images from before that update:
        so both gradients are taken at the same weights, which is the paper's simultaneous step.
        """
        training = self.params.training
        real = augmented(to_signed(batch.images), training, rng)
        if self.images_alone.value < training.alone:
            return self._alone(real, update)
        noise = 2 * BatchNoise(rng).uniform(len(real), self.params.network.latent)
        fake = augmented(self.generator(noise - 1).float(), training, rng)
        generator_loss = self._errors(fake).mean()
        on_generated = collectives.mean(generator_loss.detach())
        update("generator", generator_loss)

        fake = fake.detach()
        on_real, on_fake = self._errors(real).mean(), self._errors(fake).mean()
        k = self.k.clone()
        discriminator_loss = on_real - k * on_fake
        update("discriminator", discriminator_loss)

        # k follows the errors on the whole batch, wherever its images are.
        on_real = collectives.mean(on_real.detach())
        balance = training.gamma * on_real - on_generated
        self.k.add_(training.gain * balance).clamp_(0, 1)
        return {
            "generator/loss": on_generated,
            "discriminator/loss": discriminator_loss.detach(),
            "discriminator/real": on_real,
            "discriminator/fake": on_fake.detach(),
            "discriminator/k": k,
            "discriminator/convergence": on_real + balance.abs(),
        }

    def _alone(self, real: Tensor, update: Update) -> dict[str, Tensor]:
        """One step of the discriminator as an autoencoder; after the last the generator starts."""
        loss = self._errors(real).mean()
        update("discriminator", loss)
        self.images_alone.add(len(real) * ranks.size())
        if self.images_alone.value >= self.params.training.alone:
            self._start_generator()
        return {"discriminator/loss": loss.detach(), "discriminator/real": loss.detach()}

    @torch.no_grad()
    def _start_generator(self) -> None:
        self.generator.load_state_dict(self.discriminator.decoder.state_dict())

    def _errors(self, images: Tensor) -> Tensor:
        """What the discriminator says about images in -1..1, float32 [B]."""
        return autoencoding_errors(images, self.discriminator(images), self.params.training.eta)

    def _own_noise(self, seeds: Tensor, *shape: int) -> Tensor:
        """Uniform on -1..1, float32 [n, *shape, latent], drawn by each seed."""
        return 2 * ImageNoise(seeds, self.device).uniform(*shape, self.params.network.latent) - 1

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """One noise vector per seed; see `core.contract.Samples`."""
        return to_uint8(self.generator(self._own_noise(seeds)))

    def invert(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """A search among noise; see `core.contract.Inverts`."""
        starts = self._own_noise(seeds, inversion.STARTS).unbind(dim=1)
        return inversion.nearest(self.generator, starts, images)

    @torch.no_grad()
    def own_errors(self, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """How badly the discriminator reconstructs images: its opinion of them, and no metric.

        A mean squared error (white is 1); see `core.contract.MeasuresItself`.
        """
        real = to_signed(images)
        return {"discriminator_error": autoencoding_errors(real, self.discriminator(real), 2) / 4}

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Straight lines, which stay within the noise's cube, between the noise of seeds."""
        noise = self._own_noise(seeds)
        along = torch.linspace(0, 1, INTERPOLATIONS, device=self.device)[None, :, None]
        between = torch.lerp(noise[:, None], noise.roll(-1, dims=0)[:, None], along)
        images = to_uint8(self.generator(between.flatten(0, 1)))
        return {"interpolations": images.unflatten(0, between.shape[:2])}


FAMILY = Began
