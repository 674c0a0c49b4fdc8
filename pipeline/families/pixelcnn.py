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

from collections import deque
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.family import (
    Batch,
    Family,
    Group,
    ImageSpec,
    Likelihood,
    TrainingParams,
    Update,
    to_signed,
)
from pipeline.likelihoods import categorical_sample
from pipeline.nets import warm_cosine
from pipeline.params import ModelParams, Section
from pipeline.seeds import ImageNoise

REACH = 3
"""The first layer sees REACH + 1 rows above, REACH columns to either side there, and REACH + 1
pixels to the left; every further layer as many more rows and columns as its dilation."""
DILATIONS = (1, 1, 2)
"""Of the layers, in turn."""
NIBBLE = 16


class PixelCnnNetwork(Section):
    """Size of the two stacks and of the head."""

    channels: int = Field(32, ge=4)
    layers: int = Field(6, ge=1)
    hidden: int = Field(64, ge=4)


class PixelCnnTraining(TrainingParams):
    """Optimiser: AdamW with a warm-up, a cosine schedule and averaged weights."""

    clip: float = Field(1.0, gt=0)
    ema: float = Field(0.99, ge=0, lt=1)


def places(height: int, width: int) -> Tensor:
    """Row and column of each pixel from -1 to 1, and a 1 that tells inside from padding.

    float32 [1, 3, H, W].
    """
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width).expand(height, width)
    return torch.stack([rows, columns, torch.ones(height, width)])[None]


def features(x: Tensor, place: Tensor) -> Tensor:
    """What the stacks see of images in -1..1: levels, whether they are above 0, and `places`.

    [B, 2C + 3, H, W].
    """
    above_zero = ((x + 1) * 127.5).clamp(max=1)
    return torch.cat([x, above_zero, place.to(x.dtype).expand(len(x), -1, -1, -1)], dim=1)


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


class Head(nn.Module):
    """256 probabilities of one channel as two nibbles.

    They are given the context [B, width, H, W] and the earlier channels of the same pixel,
    -1..1 [B, earlier, H, W].
    """

    def __init__(self, width: int, earlier: int, hidden: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(width + earlier, hidden, 1)
        self.upper = nn.Conv2d(hidden, NIBBLE, 1)
        self.given_upper = nn.Embedding(NIBBLE, hidden)
        self.lower = nn.Conv2d(hidden, NIBBLE, 1)

    def upper_logits(self, context: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the upper nibble [B, 16, H, W], and what `lower_logits` needs."""
        hidden = self.context(torch.cat([F.relu(context), earlier], dim=1))
        return self.upper(F.relu(hidden)).float(), hidden

    def lower_logits(self, hidden: Tensor, upper: Tensor) -> Tensor:
        """Logits of the lower nibble [B, 16, H, W] given the upper one, int64 [B, H, W]."""
        given = self.given_upper(upper).movedim(-1, 1)
        return self.lower(F.relu(hidden + given)).float()

    def log_prob(self, context: Tensor, earlier: Tensor, levels: Tensor) -> Tensor:
        """log P(level) in nats, float32 [B, H, W], of int64 levels [B, H, W]."""
        upper, lower = levels // NIBBLE, levels % NIBBLE
        upper_logits, hidden = self.upper_logits(context, earlier)
        lower_logits = self.lower_logits(hidden, upper)
        return -(
            F.cross_entropy(upper_logits, upper, reduction="none")
            + F.cross_entropy(lower_logits, lower, reduction="none")
        )

    def sample(self, context: Tensor, earlier: Tensor, uniform: Tensor) -> Tensor:
        """Levels int64 [B, H, W] by inversion of two uniform variates [B, 2, H, W]."""
        upper_logits, hidden = self.upper_logits(context, earlier)
        upper = categorical_sample(upper_logits, uniform[:, 0])
        return NIBBLE * upper + categorical_sample(self.lower_logits(hidden, upper), uniform[:, 1])


class PixelCnn(Family):
    """Two causal stacks and a head for each channel."""

    Network: ClassVar = PixelCnnNetwork
    Training: ClassVar = PixelCnnTraining

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        width = params.network.channels
        self.register_buffer("place", places(spec.height, spec.width), persistent=False)
        seen = 2 * spec.channels + self.place.shape[1]
        self.first_vertical = nn.Conv2d(
            seen, width, (REACH + 1, 2 * REACH + 1), padding=(REACH + 1, REACH)
        )
        self.first_horizontal = nn.Conv2d(seen, width, (1, REACH + 1), padding=(0, REACH + 1))
        self.layers = nn.ModuleList(
            Layer(width, DILATIONS[i % len(DILATIONS)]) for i in range(params.network.layers)
        )
        self.heads = nn.ModuleList(
            Head(width, earlier, params.network.hidden) for earlier in range(spec.channels)
        )

    def context(self, x: Tensor) -> Tensor:
        """What is known at each pixel before it, [B, width, H, W], of images in -1..1."""
        seen = features(x, self.place)
        height, width = x.shape[2:]
        v = self.first_vertical(seen)[:, :, :height]
        h = self.first_horizontal(seen)[..., :width]
        for layer in self.layers:
            v, h = layer(v, h)
        return h

    def log_prob(self, images: Tensor) -> Tensor:
        """log P of each value given all before it, in nats, float32 [B, C, H, W]."""
        x = to_signed(images)
        context, levels = self.context(x), images.long()
        return torch.stack(
            [
                head.log_prob(context, x[:, :channel], levels[:, channel])
                for channel, head in enumerate(self.heads)
            ],
            dim=1,
        )

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": Group(
                list(self.parameters()),
                lambda p: torch.optim.AdamW(
                    p, lr=training.learning_rate, weight_decay=1e-4, fused=True
                ),
                schedule=warm_cosine(0.03),
                clip=training.clip,
                ema=training.ema,
            )
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the mean negative log-likelihood; ``loss`` is in nats per image."""
        loss = -self.log_prob(batch.images).mean()
        update("model", loss)
        return {"model/loss": loss.detach() * self.spec.dimensions}

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """Exact; see `pipeline.family.HasLikelihood`."""
        nats = self.log_prob(images).double().flatten(1).sum(1)
        return Likelihood(nats=nats, bound="exact", terms={})

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Ancestral sampling; see `pipeline.family.Samples`."""
        channels, height, width = self.spec.shape
        uniform = ImageNoise(seeds, self.device).uniform(channels, 2, height, width)
        canvas = torch.zeros(len(seeds), *self.spec.shape, dtype=torch.uint8, device=self.device)
        return self.fill(canvas, uniform)

    def fill(self, canvas: Tensor, uniform: Tensor) -> Tensor:
        """Overwrite ``canvas``, uint8 [n, C, H, W], from uniform variates [n, C, 2, H, W].

        Nothing is computed twice: each layer keeps its last rows and pixels, as many as its
        dilation.
        """
        n, _, height, width = canvas.shape
        wide = self.params.network.channels
        rows = self._memory(n, wide, 1, width)
        # The outside of the image is 0 for the stacks, above and on both sides.
        seen = torch.zeros(
            n,
            2 * self.spec.channels + self.place.shape[1],
            height + REACH + 1,
            width + REACH + 1,
            device=self.device,
        )
        for row in range(height):
            window = F.pad(seen[:, :, row : row + REACH + 1, REACH + 1 :], [REACH, REACH, 0, 0])
            v = F.conv2d(window, self.first_vertical.weight, self.first_vertical.bias)
            down = []
            for i, layer in enumerate(self.layers):
                rows[i].append(v)
                v = layer.vertical_row(rows[i].popleft(), v)
                down.append(layer.down(v)[:, :, 0])
            pixels = self._memory(n, wide)
            for column in range(width):
                left = seen[:, :, row + REACH + 1, column : column + REACH + 1]
                h = F.linear(
                    left.flatten(1),
                    self.first_horizontal.weight.flatten(1),
                    self.first_horizontal.bias,
                )
                for i, layer in enumerate(self.layers):
                    pixels[i].append(h)
                    h = layer.horizontal_pixel(pixels[i].popleft(), h, down[i][..., column])
                self._draw_pixel(canvas, h, uniform, row, column)
                drawn = to_signed(canvas[:, :, row : row + 1, column : column + 1])
                place = self.place[:, :, row : row + 1, column : column + 1]
                seen[:, :, row + REACH + 1, column + REACH + 1] = features(drawn, place)[:, :, 0, 0]
        return canvas

    def _memory(self, *shape: int) -> list[deque[Tensor]]:
        """For each layer, as many zeros as its dilation: what it sees outside of the image."""
        zero = torch.zeros(shape, device=self.device)
        return [deque([zero] * layer.dilation) for layer in self.layers]

    def _draw_pixel(
        self, canvas: Tensor, h: Tensor, uniform: Tensor, row: int, column: int
    ) -> None:
        """Draw the channels of one pixel in turn, each given those before it."""
        context = h[:, :, None, None]
        for channel, head in enumerate(self.heads):
            earlier = to_signed(canvas[:, :channel, row : row + 1, column : column + 1])
            place = uniform[:, channel, :, row : row + 1, column : column + 1]
            levels = head.sample(context, earlier, place)
            canvas[:, channel, row, column] = levels[:, 0, 0].to(torch.uint8)


FAMILY = PixelCnn
