"""PixelCNN: exact autoregressive likelihood by causal convolutions.

- pixelcnn: van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders",
  arXiv:1606.05328: two stacks, which together have no blind spot.

Pixels are generated row by row, and the channels of a pixel one after the other. At row r the
vertical stack has seen the rows above r; the horizontal stack adds the pixels to the left. Four
departures make it fit for processors: residual ReLU layers instead of gated ones; dilated
convolutions after a first layer with a wide reach; the place in the image as an input; and a head
that gives a level in two steps, its upper four bits and then its lower four given the upper (as
Menick & Kalchbrenner 2019, arXiv:1812.01608, order the bits), which is exact like a softmax over
256 levels and eight times smaller.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks.autoregressive import (
    REACH,
    Autoregressive,
    Canvas,
    Head,
    Memory,
    dilations,
    features,
    places,
    row_so_far,
)
from pipeline.core.contract import to_signed
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams, Section


class PixelCnnNetwork(Section):
    """Size of the two stacks and of the head."""

    channels: int = Field(32, ge=4, le=4096)
    layers: int = Field(6, ge=1, le=256)
    hidden: int = Field(64, ge=4, le=65_536)


class Layer(nn.Module):
    """One residual layer of both stacks."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        # Padding on both sides and cropping is several times faster than padding on one side.
        self.vertical = nn.Conv2d(width, width, (2, 3), padding=dilation, dilation=dilation)
        self.horizontal = nn.Conv2d(
            width, width, (1, 2), padding=(0, dilation), dilation=(1, dilation)
        )
        self.down = nn.Conv2d(width, width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        height, width = v.shape[2:]
        v = v + self.vertical(F.relu(v))[:, :, :height]
        inner = self.horizontal(F.relu(h))[..., :width] + self.down(v)
        return v, h + self.out(F.relu(inner))

    def vertical_row(self, above: Tensor, here: Tensor) -> Tensor:
        """The vertical stack's next row [B, width, 1, W] from its rows r - dilation and r."""
        both = F.relu(torch.cat([above, here], dim=2))
        reach = (1, self.dilation)
        weight, bias = self.vertical.weight, self.vertical.bias
        return here + F.conv2d(both, weight, bias, padding=(0, self.dilation), dilation=reach)

    def horizontal_pixel(self, left: Tensor, here: Tensor, down: Tensor) -> Tensor:
        """The horizontal stack's next pixel [B, width] from its pixels c - dilation and c."""
        weight = self.horizontal.weight[:, :, 0]
        inner = (
            F.relu(left) @ weight[:, :, 0].T
            + torch.addmm(self.horizontal.bias, F.relu(here), weight[:, :, 1].T)
            + down
        )
        return here + F.linear(F.relu(inner), self.out.weight[:, :, 0, 0], self.out.bias)


class PixelCnn(Autoregressive):
    """Two causal stacks and a head for each channel."""

    Network: ClassVar = PixelCnnNetwork

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        width = params.network.channels
        self.register_buffer("place", places(spec.height, spec.width), persistent=False)
        seen = 2 * spec.channels + self.place.shape[1]
        self.first_vertical = nn.Conv2d(
            seen, width, (REACH + 1, 2 * REACH + 1), padding=(REACH + 1, REACH)
        )
        self.first_horizontal = nn.Conv2d(seen, width, (1, REACH + 1), padding=(0, REACH + 1))
        # A first layer sees one column less to either side than it sees rows.
        extent = max(spec.height, spec.width + 1)
        self.layers = nn.ModuleList(
            Layer(width, dilation) for dilation in dilations(params.network.layers, extent)
        )
        self.heads = nn.ModuleList(
            Head(width, earlier, params.network.hidden) for earlier in range(spec.channels)
        )

    def facts(self) -> dict[str, str]:
        """What a pixel is given, by the dilations of the layers."""
        reach = REACH + 1 + sum(layer.dilation for layer in self.layers)
        height, width = self.spec.height, self.spec.width
        all_rows, all_columns = reach >= height - 1, reach - 1 >= width - 1
        if all_rows and all_columns:
            return {"sees": "every earlier pixel"}
        rows = "all rows above" if all_rows else f"the {reach} rows above"
        columns = "" if all_columns else f" and {reach - 1} columns to either side there"
        return {"sees": f"{rows}{columns}, and {row_so_far(reach, width)}"}

    def context(self, x: Tensor) -> Tensor:
        """What is known at each pixel before it, [B, width, H, W], of images in -1..1."""
        seen = features(x, self.place)
        height, width = x.shape[2:]
        v = self.first_vertical(seen)[:, :, :height]
        h = self.first_horizontal(seen)[..., :width]
        for layer in self.layers:
            v, h = layer(v, h)
        return h

    def log_prob(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Autoregressive.log_prob`."""
        x = to_signed(images)
        context, levels = self.context(x), images.long()
        return torch.stack(
            [
                head.log_prob(context, x[:, :channel], levels[:, channel])
                for channel, head in enumerate(self.heads)
            ],
            dim=1,
        )

    def fill(
        self,
        canvas: Tensor,
        uniform: Tensor,
        labels: Tensor | None = None,
        start_row: int = 0,
    ) -> Tensor:
        """See `Autoregressive.fill`.

        Nothing is computed twice: each layer keeps its last rows and pixels, as many as its
        dilation.
        """
        n, _, height, width = canvas.shape
        wide = self.params.network.channels
        reaches = [layer.dilation for layer in self.layers]
        rows = Memory(reaches, torch.zeros(n, wide, 1, width, device=self.device))
        drawing = Canvas(canvas, self.place)
        for row in range(height):
            v = F.conv2d(drawing.above(row), self.first_vertical.weight, self.first_vertical.bias)
            down = []
            for i, layer in enumerate(self.layers):
                v = layer.vertical_row(rows.shift(i, v), v)
                down.append(layer.down(v)[:, :, 0])
            if row < start_row:
                drawing.keep_row(row)
                continue
            pixels = Memory(reaches, torch.zeros(n, wide, device=self.device))

            def context(
                left: Tensor, column: int, down: list[Tensor] = down, pixels: Memory = pixels
            ) -> Tensor:
                h = F.linear(
                    left, self.first_horizontal.weight.flatten(1), self.first_horizontal.bias
                )
                for i, layer in enumerate(self.layers):
                    h = layer.horizontal_pixel(pixels.shift(i, h), h, down[i][..., column])
                return h

            drawing.draw_row(row, uniform, self.heads, context)
        return canvas


FAMILY = PixelCnn
