"""Translation between two unpaired domains.

- cyclegan: Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
  Networks", arXiv:1703.10593, with the least-squares loss of Mao et al. 2017, arXiv:1611.04076, the
  image pool of Shrivastava et al. 2017, arXiv:1612.07828, and critics of patches as in Isola et
  al. 2017, arXiv:1611.07004.

Departures, for minutes on a processor instead of days on a GPU: the generators see patches of
pixels as one position, which makes their convolutions cheap, and have 10 to 20 positions a side
in their residual blocks; their outputs are not squashed by
tanh, which has no gradient at the blackest level, where most pixels of drawings are, and left them
black for good (images are clipped when they are made uint8); normalisation is over the channels of
each position, since the paper's instance normalisation is slow on processors; borders are padded
with zeros, since reflection has no deterministic gradient on GPUs; the batch is larger than 1; and
the final generators are averages over training. Learning rates stay constant for the first half of
training and then fall to 0 in a line, as in the paper.
"""

from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import nets
from pipeline.blocks.augmentation import AugmentedTraining, augmented
from pipeline.blocks.nets import ChannelNorm, HostCount, doubled
from pipeline.core import collectives, ranks
from pipeline.core.contract import Batch, Family, Group, Update, to_signed, to_uint8
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Rate, Section

Direction = Literal["ab", "ba"]

LOWEST = 20
"""Positions a side from which on a generator's residual blocks would see too little."""


class CycleGanNetwork(Section):
    """Sizes of the generators and critics, and how many images each pool holds.

    The pools are saved with the weights, so their size belongs here.
    """

    channels: int = Field(32, ge=1, le=4096)
    blocks: int = Field(3, ge=0, le=256)
    patch: int = Field(2, ge=1, le=64)
    critic_channels: int = Field(32, ge=1, le=4096)
    pool: int = Field(50, ge=0, le=1_000_000)


class CycleGanTraining(AugmentedTraining):
    """Weights of the losses (the adversarial one counts once) and Adam for both players."""

    cycle: float = Field(10.0, ge=0, le=1e6)
    identity: float = Field(5.0, ge=0, le=1e6)
    discriminator_learning_rate: Rate = 2e-4
    beta1: Decay = 0.5
    ema: Decay = 0.99


class ResidualBlock(nn.Module):
    """Two convolutions, each after a normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelNorm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Generator(nn.Module):
    """Images in -1..1 of one domain to images of the other, float32 [B, C, H, W], not clipped.

    Convolutions over patches of pixels that halve the height and width, as often as `halvings`
    says, a residual network, and convolutions that double them again, as in the appendix of the
    paper; images are padded with black to what divides so.
    """

    def __init__(self, spec: ImageSpec, network: CycleGanNetwork) -> None:
        super().__init__()
        self.patch, self.spec = network.patch, spec
        values = spec.channels * self.patch**2
        widths = doubled(network.channels, 1 + halvings(spec, self.patch))
        self.multiple = self.patch << (len(widths) - 1)
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(self.patch),
            nn.Conv2d(values, network.channels, 3, padding=1),
        ]
        for wide, below in pairwise(widths):
            layers += [ChannelNorm(wide), nn.ReLU()]
            layers.append(nn.Conv2d(wide, below, 3, stride=2, padding=1))
        layers += [ResidualBlock(widths[-1]) for _ in range(network.blocks)]
        for below, wide in pairwise(reversed(widths)):
            layers += [ChannelNorm(below), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(below, wide, 4, stride=2, padding=1))
        self.layers = nn.Sequential(
            *layers,
            ChannelNorm(network.channels),
            nn.ReLU(),
            nn.Conv2d(network.channels, values, 3, padding=1),
            nn.PixelShuffle(self.patch),
        )

    def forward(self, images: Tensor) -> Tensor:
        right, below = -self.spec.width % self.multiple, -self.spec.height % self.multiple
        found = self.layers(F.pad(images, (0, right, 0, below), value=-1.0))
        return found[:, :, : self.spec.height, : self.spec.width].float()


class Critic(nn.Module):
    """Images in -1..1 to one score per patch, float32 [B, 1, h, w]: 1 is real and 0 is fake.

    A PatchGAN of Isola et al. whose scores see about half of the image: 18x18 pixels up to 32x32,
    38x38 of 64x64 and 78x78 of 128x128, by 2, 3 and 4 halvings.
    """

    def __init__(self, spec: ImageSpec, network: CycleGanNetwork) -> None:
        super().__init__()
        count = max(2, nets.halvings(spec.height, spec.width) - 1)
        widths = doubled(network.critic_channels, count)
        layers: list[nn.Module] = [
            nn.Conv2d(spec.channels, widths[0], 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for wide_in, wide_out in pairwise(widths):
            layers.append(nn.Conv2d(wide_in, wide_out, 4, stride=2, padding=1))
            layers += [ChannelNorm(wide_out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).float()


class ImagePool(nn.Module):
    """Fakes of earlier steps, which a critic is shown in place of some of the newest.

    Section 4 of the paper: until it is full, each image is stored and given back; then, with
    probability 1/2, an image takes the place of a stored one, which is given back instead.
    """

    images: Tensor

    def __init__(self, size: int, spec: ImageSpec) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *spec.shape))
        self.held = HostCount(self, "count")

    @torch.no_grad()
    def exchange(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Float32 [B, C, H, W], detached, for as many new images, one after the other.

        Those of all ranks, each of which has the same pool. What is swapped is chosen where the
        images are: the host waits for no draw.
        """
        size = len(self.images)
        images = collectives.gathered(images.detach())
        draws = torch.rand(2, len(images), generator=rng, device=images.device)
        swaps, places = draws[0] < 0.5, (draws[1] * size).long()
        given = images.clone()
        stored = min(len(given), size - self.held.value)
        self.images[self.held.value : self.held.value + stored] = given[:stored]
        self.held.add(stored)
        for i in range(stored, len(given) if size else stored):
            new, swap, place = given[i : i + 1].clone(), swaps[i], places[i : i + 1]
            old = self.images.index_select(0, place)
            self.images.index_copy_(0, place, torch.where(swap, new, old))
            given[i : i + 1] = torch.where(swap, old, new)
        return ranks.rows(given)


class CycleGan(Family):
    """A generator and a critic for each direction."""

    Network: ClassVar = CycleGanNetwork
    Training: ClassVar = CycleGanTraining
    data: ClassVar = "domains"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        self.generators = nn.ModuleDict({d: Generator(spec, network) for d in ("ab", "ba")})
        self.critics = nn.ModuleDict({d: Critic(spec, network) for d in ("ab", "ba")})
        self.pools = nn.ModuleDict({d: ImagePool(network.pool, spec) for d in ("ab", "ba")})

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        betas = (training.beta1, 0.999)
        return {
            "generator": Group(
                list(self.generators.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.learning_rate, betas=betas, fused=True),
                schedule=half_constant,
                ema=training.ema,
            ),
            "discriminator": Group(
                list(self.critics.parameters()),
                lambda p: torch.optim.Adam(
                    p, lr=training.discriminator_learning_rate, betas=betas, fused=True
                ),
                schedule=half_constant,
            ),
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Both generators' step (equation 3 and the identity loss), then both critics'.

        The critics see fakes from before the generators' step, through the pools.
        """
        training = self.params.training
        real = {"ab": to_signed(batch.others), "ba": to_signed(batch.images)}
        source = {"ab": real["ba"], "ba": real["ab"]}
        fake, adversarial, cycle, identity = {}, 0.0, 0.0, 0.0
        for d, generator in self.generators.items():
            # What a generator should leave as it is goes with what it translates in one call.
            fake[d], kept = generator(torch.cat([source[d], real[d]])).chunk(2)
            scores = self.critics[d](augmented(fake[d], training, rng))
            adversarial = adversarial + least_squares(scores, 1.0)
            identity = identity + F.l1_loss(kept, real[d])
        for d, back in (("ab", "ba"), ("ba", "ab")):
            cycle = cycle + F.l1_loss(self.generators[back](fake[d]), source[d])
        loss = adversarial + training.cycle * cycle + training.identity * identity
        update("generator", loss)

        on_real, on_fake = [], []
        for d, critic in self.critics.items():
            shown = self.pools[d].exchange(fake[d], rng)
            both = [augmented(each, training, rng) for each in (real[d], shown)]
            seen = critic(torch.cat(both)).chunk(2)
            on_real.append(seen[0])
            on_fake.append(seen[1])
        # Each critic's loss counts half, as in the paper: the mean over both is half their sum.
        real_scores, fake_scores = torch.stack(on_real), torch.stack(on_fake)
        critics = least_squares(real_scores, 1.0) + least_squares(fake_scores, 0.0)
        update("discriminator", critics)
        return {
            "generator/loss": loss.detach(),
            "generator/adversarial": adversarial.detach(),
            "generator/cycle": cycle.detach(),
            "generator/identity": identity.detach(),
            "discriminator/loss": critics.detach(),
            "discriminator/real": real_scores.mean().detach(),
            "discriminator/fake": fake_scores.mean().detach(),
        }

    @torch.no_grad()
    def translate(self, images: Tensor, direction: Direction) -> Tensor:
        """From domain A to B ('ab') or back ('ba'); see `core.contract.Translates`."""
        return to_uint8(self.generators[direction](to_signed(images)))

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Images, their translations and these translated back; see `Illustrates`."""

        def there_and_back(images: Tensor, there: Direction, back: Direction) -> Tensor:
            translated = self.translate(images, there)
            return torch.stack([images, translated, self.translate(translated, back)])

        return {
            "a_to_b_to_a": there_and_back(batch.images, "ab", "ba"),
            "b_to_a_to_b": there_and_back(batch.others, "ba", "ab"),
        }


def halvings(spec: ImageSpec, patch: int) -> int:
    """How often a generator halves patches: until less than `LOWEST` are left of the shorter side.

    So residual blocks see far, and what they say of a position is of few pixels still.
    """
    side = min(spec.height, spec.width) // patch
    return max(0, (side // LOWEST).bit_length())


def least_squares(scores: Tensor, target: float) -> Tensor:
    """Mean squared distance of a critic's scores from 1 (real) or 0 (fake)."""
    return (scores - target).square().mean()


def half_constant(done: float) -> float:
    """Learning-rate factor: 1 for the first half of training, then down to 0 in a line."""
    return min(1.0, 2 * (1 - done))


FAMILY = CycleGan
