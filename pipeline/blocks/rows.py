"""Autoregressive families whose tokens are rows of pixels.

A wide model reads the rows so far, and a small one inside of a row says how its pixels depend on
each other and on what is near: the split of Yu et al. 2023, "MEGABYTE", arXiv:2305.07185.
"""

from abc import abstractmethod
from typing import Any

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


class RowNetwork(Section):
    """Size of the part that is inside a row, which the families with rows as tokens share."""

    channels: int = Field(32, ge=4, le=4096)
    layers: int = Field(3, ge=0, le=256)
    hidden: int = Field(64, ge=4, le=65_536)


class RowLayer(nn.Module):
    """One residual layer that sees a pixel and another one to its left."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        # Padding on both sides and cropping is several times faster than padding on one side.
        self.left = nn.Conv2d(width, width, (1, 2), padding=(0, dilation), dilation=(1, dilation))
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """[B, width, H, W] to the same."""
        return h + self.out(F.relu(self.left(F.relu(h))[..., : h.shape[3]]))

    def pixel(self, left: Tensor, here: Tensor) -> Tensor:
        """The next pixel [B, width] from the layer's inputs at c - dilation and c."""
        inner = F.linear(
            F.relu(torch.cat([left, here], dim=1)),
            self.left.weight[:, :, 0].movedim(2, 1).flatten(1),
            self.left.bias,
        )
        return here + F.linear(F.relu(inner), self.out.weight[:, :, 0, 0], self.out.bias)


class RowDecoder(nn.Module):
    """Pixels of a row, given what a model of whole rows says and the pixels that are near."""

    def __init__(self, spec: ImageSpec, network: RowNetwork) -> None:
        super().__init__()
        width = network.channels
        self.register_buffer("place", places(spec.height, spec.width), persistent=False)
        seen = 2 * spec.channels + self.place.shape[1]
        self.above = nn.Conv2d(seen, width, (REACH + 1, 2 * REACH + 1), padding=(REACH + 1, REACH))
        self.left = nn.Conv2d(seen, width, (1, REACH + 1), padding=(0, REACH + 1))
        self.layers = nn.ModuleList(
            RowLayer(width, dilation) for dilation in dilations(network.layers, spec.width)
        )
        self.heads = nn.ModuleList(
            Head(width, earlier, network.hidden) for earlier in range(spec.channels)
        )

    def context(self, x: Tensor, rows: Tensor) -> Tensor:
        """What is known at each pixel before it, [B, width, H, W].

        Args:
            x: images in -1..1.
            rows: what the rows above say, [B, width, H, W].
        """
        seen = features(x, self.place)
        height, width = x.shape[2:]
        h = rows + self.above(seen)[:, :, :height] + self.left(seen)[..., :width]
        for layer in self.layers:
            h = layer(h)
        return h

    def log_prob(self, context: Tensor, images: Tensor) -> Tensor:
        """log P of each value in nats, float32 [B, C, H, W]; ``context`` as `context` gives it."""
        x, levels = to_signed(images), images.long()
        return torch.stack(
            [
                head.log_prob(context, x[:, :channel], levels[:, channel])
                for channel, head in enumerate(self.heads)
            ],
            dim=1,
        )

    def draw_row(self, canvas: Canvas, rows: Tensor, uniform: Tensor, row: int) -> None:
        """Draw one row, given what the rows above say, [n, width, 1, W]."""
        start = rows + F.conv2d(canvas.above(row), self.above.weight, self.above.bias)
        memory = Memory(
            [layer.dilation for layer in self.layers], torch.zeros_like(start[:, :, 0, 0])
        )
        weight, bias = self.left.weight.flatten(1), self.left.bias

        def context(left: Tensor, column: int) -> Tensor:
            h = start[:, :, 0, column] + F.linear(left, weight, bias)
            for i, layer in enumerate(self.layers):
                h = layer.pixel(memory.shift(i, h), h)
            return h

        canvas.draw_row(row, uniform, self.heads, context)


class RowTokens(Autoregressive):
    """A family whose tokens are rows: a subclass reads them, a `RowDecoder` draws the next."""

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        self.token = 2 * spec.channels * spec.width
        """Values in a token: levels, and whether they are above 0."""
        self.outputs = params.network.channels * spec.width
        """Values in what is known of a row: so many channels for each pixel."""
        self.decoder = RowDecoder(spec, params.network)

    @abstractmethod
    def read(self, tokens: Tensor, labels: Tensor | None, state: Any = None) -> tuple[Tensor, Any]:
        """What is known of the rows that follow each token, [B, T, outputs], and the new state.

        Args:
            tokens: [B, T, token], the next T; the very first one is 0, what is above an image.
            labels: int64 [B], where the model is conditional.
            state: what reading the tokens before has left, None at the start.
        """

    def facts(self) -> dict[str, str]:
        """What a pixel is given, by the tokens and by the dilations of the `RowDecoder`."""
        left = REACH + 1 + sum(layer.dilation for layer in self.decoder.layers)
        near = f"the {REACH + 1} nearest also pixel by pixel"
        return {
            "sees": f"all rows above as tokens, {near}, and {row_so_far(left, self.spec.width)}"
        }

    def context(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """What is known at each pixel before it, [B, width, H, W], of images in -1..1."""
        above = F.pad(self._tokens(x)[:, :-1], [0, 0, 1, 0])
        return self.decoder.context(x, self._spread(self.read(above, labels)[0]))

    def log_prob(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Autoregressive.log_prob`."""
        return self.decoder.log_prob(self.context(to_signed(images), labels), images)

    def fill(
        self,
        canvas: Tensor,
        uniform: Tensor,
        labels: Tensor | None = None,
        start_row: int = 0,
    ) -> Tensor:
        """See `Autoregressive.fill`. Nothing is computed twice: the reader keeps its state."""
        drawing = Canvas(canvas, self.decoder.place)
        token = torch.zeros(len(canvas), 1, self.token, device=self.device)
        state = None
        for row in range(self.spec.height):
            known, state = self.read(token, labels, state)
            if row < start_row:
                drawing.keep_row(row)
            else:
                self.decoder.draw_row(drawing, self._spread(known), uniform, row)
            token = self._tokens(to_signed(canvas[:, :, row : row + 1]))
        return canvas

    def _tokens(self, x: Tensor) -> Tensor:
        """[B, rows, token] of rows [B, C, rows, W] in -1..1."""
        nowhere = torch.zeros(1, 0, *x.shape[2:], device=x.device)
        return features(x, nowhere).movedim(2, 1).flatten(2)

    def _spread(self, known: Tensor) -> Tensor:
        """[B, width, T, W] of what is known of T rows [B, T, outputs]."""
        return known.unflatten(2, (self.spec.width, -1)).movedim(3, 1)
