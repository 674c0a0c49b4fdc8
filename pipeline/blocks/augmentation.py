"""Differentiable augmentation: a discriminator is shown changed images, real and generated alike.

Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", arXiv:2006.10738:
with few images a discriminator learns them by heart; one that sees every image in many versions
cannot. Both players see generated images through the same changes, and the generator's gradient
goes through them, so that what it makes is like the images and not like their versions.

An image is changed with a probability, which may be adapted to how well the discriminator knows
the training images (Karras et al. 2020, "Training Generative Adversarial Networks with Limited
Data", arXiv:2006.06676).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from pipeline.core import collectives, precision, ranks
from pipeline.core.contract import TrainingParams
from pipeline.core.seeds import BatchNoise

SHIFT = 1 / 8
"""Of the height and width: how far images are moved at most."""
HOLE = 1 / 2
"""Of the height and width: how large the square is that is cut out."""

NONE = "none"


class AugmentedTraining(TrainingParams):
    """What families with a discriminator or critic have beside `TrainingParams`.

    ``augment`` names the changes, with commas between them, as the authors' own code does; each is
    made to a share ``augment_p`` of the images.
    """

    augment: str = Field(NONE, max_length=100)
    augment_p: float = Field(1.0, ge=0, le=1)

    @field_validator("augment")
    @classmethod
    def _known(cls, text: str) -> str:
        kinds = text.split(",")
        if text != NONE and (not {*kinds} <= CHANGES.keys() or len({*kinds}) < len(kinds)):
            raise ValueError(f"must be {NONE}, or some of {','.join(CHANGES)}")
        return text

    @property
    def changes(self) -> list[str]:
        """The changes that ``augment`` names, in their order."""
        return [] if self.augment == NONE else self.augment.split(",")


def augment(
    images: Tensor, kinds: Sequence[str], p: float | Tensor, rng: torch.Generator
) -> Tensor:
    """Change each image by each of some kinds with probability p.

    Args:
        images: -1..1, [B, C, H, W]; those of this rank.
        kinds: in their order.
        p: 0..1; of a Tensor, a scalar, the device alone knows the value.
        rng: of the training step. Without kinds, or with p the number 0, nothing is drawn from it.
    """
    if not isinstance(p, Tensor) and p == 0:
        return images
    for kind in kinds:
        change, draws = CHANGES[kind]
        drawn = BatchNoise(rng).uniform(len(images), 1 + draws)
        chosen = (drawn[:, 0] < p)[:, None, None, None]
        with precision.autocast(images.device, "fp32"):
            images = torch.where(chosen, change(images, drawn[:, 1:].unbind(dim=1)), images)
    return images


def augmented(images: Tensor, training: AugmentedTraining, rng: torch.Generator) -> Tensor:
    """What a discriminator or critic is shown of images; see `augment`."""
    return augment(images, training.changes, training.augment_p, rng)


def adapted(p: Tensor, real: Tensor, target: float, images: int) -> Tensor:
    """The probability after a step, by how often the discriminator says that real images are real.

    r_t of arXiv:2006.06676, equation 1: the mean sign of the discriminator's logits on real images,
    0 where it is at a loss and 1 where it knows all of them. p rises where that is above a target,
    and falls where it is below. The paper's is a mean over four batches; here each has a step of
    its own, a fourth as long.

    Args:
        p: 0..1, a scalar.
        real: whether the discriminator holds each real image of this rank to be real, bool [B].
        target: of r_t; the paper takes 0.6.
        images: in how many p goes from 0 to 1, if it always rises.
    """
    signs = collectives.mean(2 * real.float().mean() - 1)
    step = len(real) * ranks.size() / images
    return (p + torch.sign(signs - target) * step).clamp(0, 1)


def colour(images: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """Brightness by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5.

    Of grey images the saturation stays as it is. ``draws`` are three, each 0..1 [B].
    """
    bright, saturate, contrast = (each[:, None, None, None] for each in draws)
    images = images + (bright - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturate)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return middle + (images - middle) * (0.5 + contrast)


def translation(images: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """Moved by whole pixels, by up to an eighth of the height and width.

    What comes in from outside is 0, which in images of -1..1 is grey: a discriminator sees how far
    an image was moved. Black there would make digits, whose background is black, look as if they
    had been written elsewhere, and a generator might learn to write them there.

    Written as products with matrices that hold a 1 in each row: gathering has no deterministic
    gradient on GPUs. ``draws`` are two, each 0..1 [B].
    """
    down, right = (
        _moved(size, draw).to(images.dtype)
        for size, draw in zip(images.shape[2:], draws, strict=True)
    )
    return down @ images @ right.transpose(2, 3)


def _moved(size: int, draw: Tensor) -> Tensor:
    """Matrices of 0 and 1, bool [B, 1, size, size], that move a column of pixels."""
    most = max(1, round(SHIFT * size))
    by = (draw * (2 * most + 1)).floor() - most
    here = torch.arange(size, device=draw.device)
    from_where = here[:, None] - by[:, None, None]
    return (from_where == here)[:, None]


def cutout(images: Tensor, draws: Sequence[Tensor]) -> Tensor:
    """A rectangle of half the height and width is 0; its centre is any pixel.

    ``draws`` are two, each 0..1 [B].
    """
    rows, columns = (
        _within(size, draw) for size, draw in zip(images.shape[2:], draws, strict=True)
    )
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole, 0)


def _within(size: int, draw: Tensor) -> Tensor:
    """Which of ``size`` positions are within the hole, bool [B, size]."""
    hole = round(HOLE * size)
    start = (draw * size).floor() - hole // 2
    here = torch.arange(size, device=draw.device)
    return (here >= start[:, None]) & (here < start[:, None] + hole)


class Change(NamedTuple):
    """How images are changed, and by how many draws for each."""

    make: Callable[[Tensor, Sequence[Tensor]], Tensor]
    draws: int


CHANGES: dict[str, Change] = {
    "colour": Change(colour, 3),
    "translation": Change(translation, 2),
    "cutout": Change(cutout, 2),
}
