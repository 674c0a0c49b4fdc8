"""Encoders and decoders of images, for the families that have one.

`Encoder` and `Decoder` have a vector for an image. They grow with the images: down to maps of 4x4
to 7x7 positions (`blocks.nets.halvings`), which is all that dense layers see. `MapEncoder` and
`MapDecoder` have a map of vectors, as much smaller than the image as they are told.
"""

import math
from itertools import pairwise

import torch.nn as nn
from torch import Tensor

from pipeline.blocks.nets import doubled, halved, halvings
from pipeline.core.images import ImageSpec

SILU_GAIN = 1.68
"""One over the root mean square of SiLU of a standard normal variate."""


class Encoder(nn.Module):
    """Images in -1..1, [B, inputs, H, W], to values [B, outputs]."""

    def __init__(
        self, spec: ImageSpec, *, inputs: int, channels: int, hidden: int | None, outputs: int
    ) -> None:
        """Strided convolutions, as many as `halvings` says, and one or two dense layers.

        Args:
            spec: the images.
            inputs: channels of the input: the images' own, and what is laid beside them.
            channels: of the first convolution; doubled at each that follows (`doubled`).
            hidden: width between the dense layers, or None for one layer in place of two.
            outputs: values per image.
        """
        super().__init__()
        widths, height, breadth = maps(spec, channels)
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise([inputs, *widths]):
            layers += [nn.Conv2d(wide_in, wide_out, 3, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), *dense(widths[-1] * height * breadth, hidden, outputs)
        )
        init_deep(self.layers, len(widths))

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
        widths, height, breadth = maps(spec, channels)
        layers = [
            *dense(inputs, hidden, widths[-1] * height * breadth),
            nn.SiLU(),
            nn.Unflatten(1, (widths[-1], height, breadth)),
        ]
        for wide_in, wide_out in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(wide_in, wide_out, 4, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(
            *layers,
            # Four pixels per position: cheaper than a layer at the full resolution.
            nn.Conv2d(channels, 4 * outputs, 3, padding=1),
            nn.PixelShuffle(2),
        )
        init_deep(self.layers, len(widths))

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)[:, :, : self.spec.height, : self.spec.width]


class Residual(nn.Module):
    """SiLU, 3x3 convolution, SiLU, 1x1 convolution, added to what it was given.

    As in van den Oord et al. 2017, arXiv:1711.00937, section 4.1, which has ReLU.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] to the same."""
        return x + self.layers(x)


class MapEncoder(nn.Module):
    """Images in -1..1, [B, inputs, H, W], to maps [B, outputs, h, w]."""

    def __init__(
        self, *, inputs: int, channels: int, halvings: int, residual: int, outputs: int
    ) -> None:
        """So many strided convolutions as ``halvings``, then as many `Residual` as said.

        Args:
            inputs: channels of the images.
            channels: of the first convolution; doubled at each that follows (`doubled`).
            halvings: of height and width, each rounded up (`blocks.nets.halved`).
            residual: layers at the smallest size.
            outputs: values per position.
        """
        super().__init__()
        widths = doubled(channels, halvings)
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise([inputs, *widths]):
            layers += [nn.Conv2d(wide_in, wide_out, 3, stride=2, padding=1), nn.SiLU()]
        layers = layers[:-1] + [Residual(widths[-1]) for _ in range(residual)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[-1], outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class MapDecoder(nn.Module):
    """Maps [B, inputs, h, w] to values [B, outputs, H, W]: the mirror image of `MapEncoder`."""

    def __init__(
        self,
        spec: ImageSpec,
        *,
        inputs: int,
        channels: int,
        halvings: int,
        residual: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.spec = spec
        widths = doubled(channels, halvings)
        layers: list[nn.Module] = [nn.Conv2d(inputs, widths[-1], 3, padding=1)]
        layers += [Residual(widths[-1]) for _ in range(residual)]
        for wide_in, wide_out in pairwise(reversed(widths)):
            layers += [nn.SiLU(), nn.ConvTranspose2d(wide_in, wide_out, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(
            *layers,
            nn.SiLU(),
            # Four pixels per position, as in `Decoder`.
            nn.Conv2d(channels, 4 * outputs, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps)[:, :, : self.spec.height, : self.spec.width]


def init_deep(layers: nn.Sequential, halvings: int) -> None:
    """Weights that keep the variance of what passes, where there are more than two halvings.

    He et al. 2015, arXiv:1502.01852, for SiLU. By torch's own, each layer weakens it to less than
    a third, so that deep networks hardly begin to learn; shallow ones learn digits faster by them.
    """
    if halvings <= 2:
        return
    weighted = [each for each in layers if isinstance(each, nn.Linear | nn.Conv2d)]
    weighted += [each for each in layers if isinstance(each, nn.ConvTranspose2d)]
    for layer in weighted:
        # A value of a transposed convolution of stride 2 is a sum over a quarter of its kernel.
        transposed = isinstance(layer, nn.ConvTranspose2d)
        fan_in = layer.weight[:, 0].numel() / 4 if transposed else layer.weight[0].numel()
        first = layer is layers[0]
        nn.init.normal_(layer.weight, 0.0, (1.0 if first else SILU_GAIN) / math.sqrt(fan_in))
        nn.init.zeros_(layer.bias)


def maps(spec: ImageSpec, channels: int) -> tuple[list[int], int, int]:
    """Channels of the maps from half the images' size down, and height and width of the last."""
    count = halvings(spec.height, spec.width)
    return doubled(channels, count), halved(spec.height, count), halved(spec.width, count)


def dense(inputs: int, hidden: int | None, outputs: int) -> list[nn.Module]:
    """Dense layers from ``inputs`` to ``outputs`` values, by way of ``hidden`` if that is given."""
    if hidden is None:
        return [nn.Linear(inputs, outputs)]
    return [nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs)]
