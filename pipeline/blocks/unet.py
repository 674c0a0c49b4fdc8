"""The U-Net of families that take noise off images in many steps.

Ronneberger et al. 2015, "U-Net", arXiv:1505.04597, with the time's scale and shift in each block
(Dhariwal & Nichol 2021, "Diffusion Models Beat GANs", arXiv:2105.05233) and attention at the lowest
resolution (Ho et al. 2020, arXiv:2006.11239), over patches of pixels in place of pixels.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import nets
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams, Section

LOWEST = 4
"""Positions per side at the lowest resolution, at most."""


class UNetNetwork(Section):
    """Its size, and whether it is given labels.

    ``attention_heads`` at the lowest resolution; 0 leaves attention out, which on 4x4 positions of
    small images convolutions do without.
    """

    channels: int = Field(32, ge=8, le=4096)
    patch: int = Field(2, ge=1, le=64)
    attention_heads: int = Field(0, ge=0, le=1024)
    time_features: int = Field(64, ge=4, le=4096, multiple_of=2)
    conditional: bool = False


def check(spec: ImageSpec, params: ModelParams) -> None:
    """Whether there is such a network for images of this shape.

    Raises:
        PipelineError: if not.
    """
    network, where = params.network, f"{paths.PARAMS}: models.{params.name}.network"
    patch, heads = network.patch, network.attention_heads
    if spec.height % patch or spec.width % patch:
        raise PipelineError(
            f"{where}.patch = {patch}: does not divide images of {spec.height}x{spec.width}; 1 "
            "always does"
        )
    if heads and 2 * network.channels % heads:
        raise PipelineError(
            f"{where}.attention_heads = {heads}: must divide twice the channels, "
            f"{2 * network.channels}"
        )


class ResidualBlock(nn.Module):
    """Two convolutions, the second normalisation scaled and shifted by the time."""

    def __init__(self, wide_in: int, wide_out: int, time_width: int) -> None:
        super().__init__()
        self.norm1 = nets.ChannelNorm(wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * wide_out)
        self.norm2 = nets.ChannelNorm(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)
        self.skip = nn.Conv2d(wide_in, wide_out, 1) if wide_in != wide_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention between all positions, added to what it is given; at first it adds nothing."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nets.ChannelNorm(channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        split = self.queries_keys_values(self.norm(x)).flatten(2).transpose(1, 2)
        queries, keys, values = split.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out: the fused kernels have no deterministic gradient on GPUs.
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        found = (scores.softmax(dim=3) @ values).transpose(1, 2).flatten(2)
        return x + self.out(found.transpose(1, 2).unflatten(2, x.shape[2:]))


class UNet(nn.Module):
    """Resolutions of patches of ``network.patch`` pixels, halved down to 4 positions a side.

    The highest has ``network.channels``, all others twice as many. The lowest has two residual
    blocks, with attention between them.
    """

    def __init__(
        self,
        spec: ImageSpec,
        network: UNetNetwork,
        inputs: int | None = None,
        outputs: int | None = None,
    ) -> None:
        """``inputs`` and ``outputs`` are numbers for each pixel; those of an image unless given."""
        super().__init__()
        self.patch, self.time_features = network.patch, network.time_features
        width, time = network.channels, 4 * network.channels
        values_in, values_out = (
            (spec.channels if each is None else each) * self.patch**2 for each in (inputs, outputs)
        )
        self.time = nn.Sequential(
            nn.Linear(self.time_features, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU()
        )
        # One row more than there are classes: what is known when no label is told.
        self.label = nn.Embedding(spec.classes + 1, time) if network.conditional else None
        self.stem = nn.Conv2d(values_in, width, 3, padding=1)
        side = max(spec.height, spec.width) / self.patch
        halvings = max(1, math.ceil(math.log2(side / LOWEST)))
        widths = [width, *[2 * width] * halvings]
        # A block and a convolution to the next resolution for each; on the way up likewise.
        self.down = nn.ModuleList()
        for wide, below in pairwise(widths):
            self.down.append(ResidualBlock(wide, wide, time))
            self.down.append(nn.Conv2d(wide, below, 3, stride=2, padding=1))
        self.low = nn.ModuleList(ResidualBlock(2 * width, 2 * width, time) for _ in range(2))
        heads = network.attention_heads
        self.attention = Attention(2 * width, heads) if heads else nn.Identity()
        self.up = nn.ModuleList()
        for below, wide in pairwise(reversed(widths)):
            self.up.append(nn.Conv2d(below, wide, 3, padding=1))
            self.up.append(ResidualBlock(2 * wide, wide, time))
        self.norm = nets.ChannelNorm(width)
        self.output = nn.Conv2d(width, values_out, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, outputs, H, W] of [B, inputs, H, W] at times t [B].

        A label of ``classes`` is none at all.
        """
        time = self.time(nets.sinusoidal(t, self.time_features))
        if self.label is not None:
            time = time + self.label(labels)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skipped = []
        for block, to_lower in zip(self.down[::2], self.down[1::2], strict=True):
            skipped.append(block(h, time))
            h = to_lower(skipped[-1])
        first, second = self.low
        h = second(self.attention(first(h, time)), time)
        for from_lower, block in zip(self.up[::2], self.up[1::2], strict=True):
            skip = skipped.pop()
            h = from_lower(F.interpolate(h, size=skip.shape[2:], mode="nearest"))
            h = block(torch.cat([h, skip], dim=1), time)
        h = self.output(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.patch).float()
