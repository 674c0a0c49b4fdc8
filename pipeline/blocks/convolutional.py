"""Encoders and decoders of images, for the families that have one."""

import torch.nn as nn
from torch import Tensor

from pipeline.blocks.nets import quarter
from pipeline.core.images import ImageSpec


class Encoder(nn.Module):
    """Images in -1..1, [B, inputs, H, W], to values [B, outputs]."""

    def __init__(
        self, spec: ImageSpec, *, inputs: int, channels: int, hidden: int | None, outputs: int
    ) -> None:
        """Two strided convolutions and one or two dense layers.

        Args:
            spec: the images.
            inputs: channels of the input: the images' own, and what is laid beside them.
            channels: of the first convolution; doubled at the second.
            hidden: width between the dense layers, or None for one layer in place of two.
            outputs: values per image.
        """
        super().__init__()
        height, breadth = quarter(spec.height), quarter(spec.width)
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            *dense(2 * channels * height * breadth, hidden, outputs),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Decoder(nn.Module):
    """Codes [B, inputs] to values [B, outputs, H, W]."""

    def __init__(
        self, spec: ImageSpec, *, inputs: int, channels: int, hidden: int | None, outputs: int
    ) -> None:
        """The mirror image of `Encoder`; see there."""
        super().__init__()
        self.spec = spec
        height, breadth = quarter(spec.height), quarter(spec.width)
        self.layers = nn.Sequential(
            *dense(inputs, hidden, 2 * channels * height * breadth),
            nn.SiLU(),
            nn.Unflatten(1, (2 * channels, height, breadth)),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.SiLU(),
            # Four pixels per position: cheaper than a layer at the full resolution.
            nn.Conv2d(channels, 4 * outputs, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)[:, :, : self.spec.height, : self.spec.width]


def dense(inputs: int, hidden: int | None, outputs: int) -> list[nn.Module]:
    """Dense layers from ``inputs`` to ``outputs`` values, by way of ``hidden`` if that is given."""
    if hidden is None:
        return [nn.Linear(inputs, outputs)]
    return [nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs)]
