"""Generative adversarial networks.

- gan: Goodfellow et al. 2014, "Generative Adversarial Networks", arXiv:1406.2661.
- dcgan: Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional
  Generative Adversarial Networks", arXiv:1511.06434.
- cgan: Mirza & Osindero 2014, "Conditional Generative Adversarial Nets", arXiv:1411.1784, with
  convolutional networks and the projection discriminator of arXiv:1802.05637.
- lsgan: Mao et al. 2017, "Least Squares Generative Adversarial Networks", arXiv:1611.04076.
"""

from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks.adversarial import (
    Adversarial,
    ConvolutionalFeatures,
    ConvolutionalGenerator,
    Opponent,
)
from pipeline.blocks.augmentation import AugmentedTraining, adapted, augment
from pipeline.core.contract import Batch, Group, TrainingImages, Update, to_signed
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Rate, Section


class GanNetwork(Section):
    """Architecture of both players: gan is dense, dcgan convolutional, cgan conditional."""

    architecture: Literal["dense", "convolutional"] = "convolutional"
    conditional: bool = False
    latent: int = Field(32, ge=1, le=4096)
    channels: int = Field(32, ge=4, le=4096)
    hidden: int = Field(256, ge=4, le=65_536)
    dropout: float = Field(0.3, ge=0, lt=1)


class GanTraining(AugmentedTraining):
    """The loss, and the optimisers: Adam for both players.

    With ``augment_target`` above 0 the probability of changes is not ``augment_p``: it starts at 0
    and goes where the discriminator is as sure of training images as that (`blocks.augmentation`),
    from 0 to 1 in ``augment_images`` training images at the fastest, a share of ``images`` that
    ``train.budget`` does not change.
    """

    counts: ClassVar = ("augment_images",)

    augment_target: float = Field(0.0, ge=0, lt=1)
    augment_images: int = Field(20_000, ge=1, le=10**9)
    loss: Literal["non_saturating", "least_squares"] = "non_saturating"
    learning_rate: Rate = 2e-3
    discriminator_learning_rate: Rate = 1e-3
    beta1: Decay = 0.5
    ema: Decay = 0.99


class DenseGenerator(nn.Sequential):
    """Values [B, inputs] to images in -1..1, [B, C, H, W]: two hidden layers."""

    def __init__(self, spec: ImageSpec, *, inputs: int, hidden: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, spec.dimensions),
            nn.Tanh(),
            nn.Unflatten(1, spec.shape),
        )


class DenseFeatures(nn.Sequential):
    """Images in -1..1, [B, C, H, W], to features [B, size]: two hidden layers with dropout."""

    def __init__(self, spec: ImageSpec, *, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(spec.dimensions, hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
        )
        self.size = hidden


def dense(spec: ImageSpec, network: GanNetwork, inputs: int) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator's features, as multilayer perceptrons."""
    return (
        DenseGenerator(spec, inputs=inputs, hidden=network.hidden),
        DenseFeatures(spec, hidden=network.hidden, dropout=network.dropout),
    )


def convolutional(spec: ImageSpec, network: GanNetwork, inputs: int) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator's features, as in DCGAN."""
    return (
        ConvolutionalGenerator(spec, inputs=inputs, channels=network.channels),
        ConvolutionalFeatures(spec, channels=network.channels, normalise=True),
    )


ARCHITECTURES = {"dense": dense, "convolutional": convolutional}


class Loss(Protocol):
    """What the players minimise, given the discriminator's outputs [B], which have no bounds."""

    def discriminator(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The discriminator's loss, a scalar."""
        ...

    def generator(self, on_fake: Tensor) -> Tensor:
        """The generator's loss, a scalar."""
        ...

    def verdict(self, outputs: Tensor) -> Tensor:
        """How real it holds the images to be, [B], where 0 is its target for fake ones and 1 for
        real ones."""
        ...


class NonSaturating:
    """Cross-entropies of logits; the generator maximises log D(G(z)) (section 3 of Goodfellow)."""

    def discriminator(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()

    def generator(self, on_fake: Tensor) -> Tensor:
        return F.softplus(-on_fake).mean()

    def verdict(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(outputs)


class LeastSquares:
    """Squared distances from 1 for real and 0 for fake images: equation 9 of Mao et al."""

    def discriminator(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        return 0.5 * (on_real - 1).square().mean() + 0.5 * on_fake.square().mean()

    def generator(self, on_fake: Tensor) -> Tensor:
        return 0.5 * (on_fake - 1).square().mean()

    def verdict(self, outputs: Tensor) -> Tensor:
        return outputs


LOSSES: dict[str, Loss] = {"non_saturating": NonSaturating(), "least_squares": LeastSquares()}


class Gan(Adversarial):
    """A generator against a discriminator."""

    Network: ClassVar = GanNetwork
    Training: ClassVar = GanTraining

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        self.conditional = network.conditional
        classes = spec.classes if network.conditional else 0
        build = ARCHITECTURES[network.architecture]
        self.generator, features = build(spec, network, network.latent + classes)
        self.discriminator = Opponent(features, classes=classes)
        # With the weights, so that a resumed training goes on with it.
        self.register_buffer("augment_p", torch.zeros(()))

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: a probability of nothing cannot be adapted."""
        training = params.training
        if training is not None and training.augment_target > 0 and not training.changes:
            return (
                f"training.augment_target = {training.augment_target:g}: it is for a share of "
                "changed images, and training.augment names no changes; make it 0, or name some"
            )
        return super().unsupported(params, device, images)

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

        Real and fake images go through the discriminator's BatchNorm as two batches, as in
        DCGAN's own code. Fake images have the labels of the real ones, and so their frequencies.
        """
        training = self.params.training
        loss, adaptive = LOSSES[training.loss], training.augment_target > 0
        p = self.augment_p.clone() if adaptive else training.augment_p

        def judged(images: Tensor) -> Tensor:
            return self.discriminator(augment(images, training.changes, p, rng), labels).float()

        real, labels = to_signed(batch.images), self.one_hot(batch.labels)
        fake = self.generate(self.noise(len(real), rng), labels)
        on_real, on_fake = judged(real), judged(fake.detach())
        discriminator_loss = loss.discriminator(on_real, on_fake)
        update("discriminator", discriminator_loss)
        generator_loss = loss.generator(judged(fake))
        update("generator", generator_loss)
        terms = {}
        if adaptive:
            terms["discriminator/augment_p"] = p
            held_real = loss.verdict(on_real.detach()) > 0.5
            self.augment_p.copy_(
                adapted(p, held_real, training.augment_target, training.augment_images)
            )
        return {
            **terms,
            "generator/loss": generator_loss.detach(),
            "discriminator/loss": discriminator_loss.detach(),
            "discriminator/real": loss.verdict(on_real).mean().detach(),
            "discriminator/fake": loss.verdict(on_fake).mean().detach(),
        }


FAMILY = Gan
