"""What families share that take noise off images in many steps, beside the network (`blocks.unet`).

Their optimiser, times spread over a batch (Kingma et al. 2021, "Variational Diffusion Models",
arXiv:2107.00630), labels that are left out in training, and the guidance that this allows (Ho &
Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import muon, nets
from pipeline.blocks.muon import MatrixTraining
from pipeline.core import ranks
from pipeline.core.contract import Group
from pipeline.core.params import Decay
from pipeline.core.seeds import BatchNoise

WARM_UP = 0.05
"""The share of training in which the learning rate rises."""
PICTURED = 10
"""States in a picture of how an image comes out of noise."""

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x [B, C, H, W], times [B] and labels, int64 [B], to a prediction [B, C, H, W]."""


class DenoisingTraining(MatrixTraining):
    """An optimiser with a warm-up, a cosine schedule and averaged weights."""

    clip: float = Field(1.0, gt=0, le=1e6)
    ema: Decay = 0.995


class GuidedTraining(DenoisingTraining):
    """As `DenoisingTraining`.

    ``label_dropout`` is the share of images whose label a conditional model is not told, from
    which it learns what guidance needs: the prediction without a label.
    """

    label_dropout: float = Field(0.1, ge=0, le=1)


def group(
    family: nn.Module, training: DenoisingTraining, without: Iterable[nn.Parameter] = ()
) -> Group:
    """Parameters of a family, but some, with the optimiser that the training block names."""
    others = {id(each) for each in without}
    return Group(
        [each for each in family.parameters() if id(each) not in others],
        muon.optimiser(family, training),
        schedule=nets.warm_cosine(WARM_UP),
        clip=training.clip,
        ema=training.ema,
    )


def spread_places(n: int, rng: torch.Generator) -> Tensor:
    """Places in [0, 1) for the n images that this process has of a batch, float32 [n].

    One offset for the whole batch, and even steps from there: each place is uniform, and no batch
    misses a range.
    """
    whole = n * ranks.size()
    ramp = ranks.rows(torch.arange(whole, device=rng.device) / whole)
    return (torch.rand(1, generator=rng, device=rng.device) + ramp) % 1


def partly_told(labels: Tensor, share: float, none: int, rng: torch.Generator) -> Tensor:
    """Labels, int64 [B], of which about this ``share`` is replaced by ``none``."""
    lost = BatchNoise(rng).uniform(len(labels))
    return labels.masked_fill(lost < share, none)


def guided(
    net: Net, x: Tensor, t: Tensor, labels: Tensor | None, guidance: float, none: int
) -> Tensor:
    """(1 + w) times the prediction with labels less w times that without (equation 6).

    Without labels, or for w = 0, the prediction itself. Noise, velocity and image are linear in
    each other at a given x, so that mixing the one mixes the others.
    """
    output = net(x, t, labels)
    if guidance == 0 or labels is None:
        return output
    return (1 + guidance) * output - guidance * net(x, t, torch.full_like(labels, none))


def picture(states: Sequence[Tensor]) -> Tensor:
    """Up to ten states, uint8 [n, C, H, W], evenly spaced: uint8 [n, columns, C, H, W]."""
    chosen = torch.linspace(0, len(states) - 1, min(PICTURED, len(states))).round().long()
    return torch.stack([states[i] for i in chosen], dim=1)
