"""Wasserstein generative adversarial networks.

- wgan: Arjovsky et al. 2017, "Wasserstein GAN", arXiv:1701.07875.
- wgan_gp: Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", arXiv:1704.00028.

The networks are DCGAN's (`pipeline.blocks.adversarial`). WGAN's critic has its BatchNorm, as in the
authors' code: without, weights so small let little through, and deep critics learn next to nothing.
WGAN-GP's has none, since its penalty is on each image's own gradient (Gulrajani et al., section 4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks.adversarial import (
    Adversarial,
    ConvolutionalFeatures,
    ConvolutionalGenerator,
    Opponent,
)
from pipeline.blocks.augmentation import AugmentedTraining, augmented
from pipeline.blocks.nets import HostCount
from pipeline.core import precision
from pipeline.core.contract import (
    Batch,
    Group,
    TrainingImages,
    Update,
    to_signed,
)
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Rate, Section
from pipeline.core.seeds import BatchNoise


class WganNetwork(Section):
    """Sizes: noise, and both players' channels at half the images' height and width.

    ``critic_batch_norm`` is for ``constraint: clip`` alone.
    """

    latent: int = Field(32, ge=1, le=4096)
    channels: int = Field(32, ge=4, le=4096)
    critic_batch_norm: bool = False


class WganTraining(AugmentedTraining):
    """The constraint on the critic, how often each player moves, and Adam for both.

    A training step is one of the critic's, with images and noise of its own; every ``n_critic``-th
    is followed by one of the generator's. With ``beta1`` 0, Adam is RMSprop (the choice of Arjovsky
    et al.) with its start corrected.
    """

    constraint: Literal["clip", "penalty"] = "penalty"
    clip_bound: float = Field(0.05, gt=0, le=100)
    penalty_weight: float = Field(10.0, gt=0, le=1e6)
    n_critic: int = Field(2, ge=1, le=1000)
    learning_rate: Rate = 4e-3
    critic_learning_rate: Rate = 2e-3
    beta1: Decay = 0.0
    beta2: Decay = 0.99
    ema: Decay = 0.99


class Constraint(Protocol):
    """What keeps the critic's slopes bounded."""

    def penalties(
        self, critic: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Named scalars whose sum, times ``penalty_weight``, is added to the critic's loss."""
        ...

    def enforce(self, critic: nn.Module) -> None:
        """Called after each of the critic's updates."""
        ...


@dataclass(frozen=True)
class Clip:
    """Every weight of the critic lies in -bound..bound (algorithm 1 of Arjovsky et al.)."""

    bound: float

    def penalties(
        self, critic: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        return {}

    @torch.no_grad()
    def enforce(self, critic: nn.Module) -> None:
        for parameter in critic.parameters():
            parameter.clamp_(-self.bound, self.bound)


class GradientPenalty:
    """Slopes near 1 between real and fake images (equation 3 of Gulrajani et al.)."""

    def penalties(
        self, critic: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Mean of (|gradient| - 1)^2, each image having a place between real and fake of its own.

        In float32 whatever the precision: its gradient is a second derivative.
        """
        place = BatchNoise(rng).uniform(len(real), 1, 1, 1)
        with precision.autocast(real.device, "fp32"):
            between = (place * real + (1 - place) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            # The square root has no derivative at 0.
            length = (slope.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
            return {"penalty": (length - 1).square().mean()}

    def enforce(self, critic: nn.Module) -> None:
        """Nothing: the penalty does it."""


CONSTRAINTS: dict[str, Callable[[WganTraining], Constraint]] = {
    "clip": lambda training: Clip(training.clip_bound),
    "penalty": lambda training: GradientPenalty(),
}


class Wgan(Adversarial):
    """A generator against a critic, whose outputs differ by the Wasserstein-1 distance."""

    Network: ClassVar = WganNetwork
    Training: ClassVar = WganTraining

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        latent, channels = params.network.latent, params.network.channels
        self.generator = ConvolutionalGenerator(spec, inputs=latent, channels=channels)
        self.critic = Opponent(
            ConvolutionalFeatures(
                spec, channels=channels, normalise=params.network.critic_batch_norm
            )
        )
        # In the checkpoint, so that a resumed training goes on with the right player.
        self.steps = HostCount(self, "critic_steps")

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: the generator has to be trained, too."""
        training, network = params.training, params.network
        normalised = network is not None and network.critic_batch_norm
        if training is not None and training.constraint == "penalty" and normalised:
            return (
                "network.critic_batch_norm: the penalty is on each image's own gradient, and "
                "BatchNorm mixes images; should be false, or training.constraint clip"
            )
        if training is not None and training.n_critic > training.steps:
            return (
                f"training.n_critic = {training.n_critic}: the critic has only {training.steps} "
                "steps (training.images times train.budget, in batches), and the generator is "
                "never trained; lower it, or raise train.budget"
            )
        return super().unsupported(params, device, images)

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        constraint = CONSTRAINTS[training.constraint](training)
        betas = (training.beta1, training.beta2)
        return {
            "generator": Group(
                list(self.generator.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.learning_rate, betas=betas, fused=True),
                ema=training.ema,
            ),
            "critic": Group(
                list(self.critic.parameters()),
                lambda p: torch.optim.Adam(
                    p, lr=training.critic_learning_rate, betas=betas, fused=True
                ),
                after_step=lambda: constraint.enforce(self.critic),
            ),
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """A step of the critic, and of the generator after every ``n_critic``-th."""
        training = self.params.training
        constraint = CONSTRAINTS[training.constraint](training)
        real = augmented(to_signed(batch.images), training, rng)
        with torch.no_grad():
            fake = augmented(self.generate(self.noise(len(real), rng), None), training, rng)
        wasserstein = self.critic(real).float().mean() - self.critic(fake).float().mean()
        penalties = constraint.penalties(self.critic, real, fake, rng)
        critic_loss = training.penalty_weight * sum(penalties.values()) - wasserstein
        update("critic", critic_loss)
        terms = {"critic/loss": critic_loss, "critic/wasserstein": wasserstein}
        terms |= {f"critic/{name}": value for name, value in penalties.items()}
        self.steps.add(1)
        if self.steps.value % training.n_critic == 0:
            fake = augmented(self.generate(self.noise(len(real), rng), None), training, rng)
            terms["generator/loss"] = -self.critic(fake).float().mean()
            update("generator", terms["generator/loss"])
        return {name: value.detach() for name, value in terms.items()}


FAMILY = Wgan
