"""The convolutions that both kinds of judges begin with; what they learn from is their own.

Depth follows the size of the images, so that what comes after sees as small a map at 128 pixels as
at 28, and costs as little.
"""

from itertools import pairwise

from torch import nn

from pipeline.core.images import ImageSpec

LARGEST_MAP = 7
"""Images are halved until their longer side is this small; a dense layer sees the rest."""
LARGEST_FULL = 40
"""Where the longer side is above this, no layer works at full resolution: it would take the most
time of all, and the first one still sees every pixel."""
WIDTH = 8
"""Channels at full resolution; doubled with each halving."""
WIDEST = 64


def trunk(spec: ImageSpec) -> tuple[nn.Sequential, int]:
    """Convolutions with BatchNorm, each but perhaps the first of which halves the images.

    Returns:
        The layers, from images float [B, C, H, W] to flat maps [B, F], and F.
    """
    height, width = spec.height, spec.width
    layers: list[nn.Module] = []

    def convolve(wide_in: int, wide_out: int, kernel: int, stride: int) -> None:
        layers.extend(
            [
                nn.Conv2d(wide_in, wide_out, kernel, stride, padding=1),
                nn.BatchNorm2d(wide_out),
                nn.ReLU(),
            ]
        )

    widths = [WIDTH]
    if max(height, width) > LARGEST_FULL:
        height, width = height // 2, width // 2
        widths = [2 * WIDTH]
        convolve(spec.channels, widths[0], kernel=4, stride=2)
    else:
        convolve(spec.channels, widths[0], kernel=3, stride=1)
    while max(height, width) > LARGEST_MAP:
        height, width = -(-height // 2), -(-width // 2)
        widths.append(min(2 * widths[-1], WIDEST))
    for wide_in, wide_out in pairwise(widths):
        convolve(wide_in, wide_out, kernel=3, stride=2)
    return nn.Sequential(*layers, nn.Flatten()), widths[-1] * height * width


RECIPE = (trunk,)
CONSTANTS = ("LARGEST_MAP", "LARGEST_FULL", "WIDTH", "WIDEST")
"""What decides what the convolutions are; see `pipeline.evaluation.judge.recipe`."""
