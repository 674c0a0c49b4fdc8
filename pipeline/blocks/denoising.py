"""What families share that take noise off images in many steps, beside the network (`blocks.unet`).

Times spread over a batch (Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630),
labels that are left out in training, and the guidance that this allows (Ho & Salimans 2022,
"Classifier-Free Diffusion Guidance", arXiv:2207.12598).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.core import ranks
from pipeline.core.contract import to_uint8
from pipeline.core.seeds import BatchNoise

PICTURED = 10
"""States in a picture of how an image comes out of noise."""

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x [B, C, H, W], times [B] and labels, int64 [B], to a prediction [B, C, H, W]."""


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
    """uint8 [n, columns, C, H, W]: up to ten states [n, C, H, W], evenly spaced, as columns."""
    chosen = torch.linspace(0, len(states) - 1, min(PICTURED, len(states))).round().long()
    return torch.stack([to_uint8(states[i]) for i in chosen], dim=1)
