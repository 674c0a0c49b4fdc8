"""What families with an exact autoregressive likelihood share.

p(x) is a product over pixels, row by row and from left to right, and over the channels of a pixel
in their order; each factor is given by all that stands before it. A level has two factors, its
upper four bits and then its lower four given the upper (as Menick & Kalchbrenner 2019,
arXiv:1812.01608, order the bits), which is exact like a softmax over 256 levels and eight times
smaller.

Families differ in how they know what stands before a pixel. Those that take whole rows for tokens
(`RowTokens`) share how the pixels of the next row depend on each other; the split into a wide model
of tokens and a small one inside of them is that of Yu et al. 2023, "MEGABYTE", arXiv:2305.07185.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

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
"""A first layer sees REACH + 1 rows above, REACH columns to either side there, and REACH + 1
pixels to the left."""
DILATIONS = (1, 1, 2)
"""Of the layers that follow it, in turn: each sees as many more rows and columns."""
NIBBLE = 16
COMPLETIONS = 4
"""Pictures of how an upper half goes on."""


class AutoregressiveTraining(TrainingParams):
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
    """What networks see of images in -1..1: levels, whether they are above 0, and `places`.

    [B, 2C + 3, H, W].
    """
    above_zero = ((x + 1) * 127.5).clamp(max=1)
    return torch.cat([x, above_zero, place.to(x.dtype).expand(len(x), -1, -1, -1)], dim=1)


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


class Canvas:
    """Images that are being drawn, and what networks see of them (`features`), with margins.

    The outside of an image is 0: REACH + 1 rows above, and as many columns on the left.
    """

    def __init__(self, images: Tensor, place: Tensor) -> None:
        """Draw on ``images``, uint8 [n, C, H, W]; what they hold is not looked at."""
        n, channels, height, width = images.shape
        self.images = images
        self.place = place
        self.seen = torch.zeros(
            n,
            2 * channels + place.shape[1],
            height + REACH + 1,
            width + REACH + 1,
            device=images.device,
        )

    def above(self, row: int) -> Tensor:
        """The rows above ``row`` with REACH columns at either side, [n, F, REACH + 1, ...]."""
        rows = self.seen[:, :, row : row + REACH + 1, REACH + 1 :]
        return F.pad(rows, [REACH, REACH, 0, 0])

    def left(self, row: int, column: int) -> Tensor:
        """The pixels to the left, [n, F * (REACH + 1)]."""
        return self.seen[:, :, row + REACH + 1, column : column + REACH + 1].flatten(1)

    def keep_row(self, row: int) -> None:
        """Take the row as it stands in the images."""
        drawn = to_signed(self.images[:, :, row : row + 1])
        place = self.place[:, :, row : row + 1]
        self.seen[:, :, row + REACH + 1, REACH + 1 :] = features(drawn, place)[:, :, 0]

    def draw_row(
        self,
        row: int,
        uniform: Tensor,
        heads: nn.ModuleList,
        context: Callable[[Tensor, int], Tensor],
    ) -> None:
        """Draw the pixels of a row in turn, and the channels of each given those before them.

        Args:
            row: which one.
            uniform: variates [n, C, 2, H, W].
            heads: a `Head` for each channel.
            context: called once for each column, in order, with what `left` returns and the
                column; its result is the heads' context, [n, width].
        """
        for column in range(self.images.shape[3]):
            here = context(self.left(row, column), column)[:, :, None, None]
            pixel = (slice(row, row + 1), slice(column, column + 1))
            for channel, head in enumerate(heads):
                earlier = to_signed(self.images[:, :channel, *pixel])
                levels = head.sample(here, earlier, uniform[:, channel, :, *pixel])
                self.images[:, channel, *pixel] = levels.to(torch.uint8)
            drawn = features(to_signed(self.images[:, :, *pixel]), self.place[:, :, *pixel])
            self.seen[:, :, row + REACH + 1, column + REACH + 1] = drawn[:, :, 0, 0]


class Memory:
    """The last values of each layer in a row or column, as many as its dilation.

    They start as 0, which is what layers see outside of an image.
    """

    def __init__(self, dilations: list[int], zero: Tensor) -> None:
        self.queues = [deque([zero] * dilation) for dilation in dilations]

    def shift(self, layer: int, value: Tensor) -> Tensor:
        """Put in the layer's newest value and take out the one that its dilation is back."""
        self.queues[layer].append(value)
        return self.queues[layer].popleft()


class Autoregressive(Family):
    """A family that gives the log-probability of each value and can draw them one by one."""

    Training: ClassVar = AutoregressiveTraining

    @abstractmethod
    def log_prob(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """log P of each value given all before it, in nats, float32 [B, C, H, W]."""

    @abstractmethod
    def fill(
        self,
        canvas: Tensor,
        uniform: Tensor,
        labels: Tensor | None = None,
        start_row: int = 0,
    ) -> Tensor:
        """Overwrite ``canvas``, uint8 [n, C, H, W], from ``start_row`` on; the rest is given.

        ``uniform`` are variates [n, C, 2, H, W]. Returns the canvas.
        """

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
        loss = -self.log_prob(batch.images, batch.labels).mean()
        update("model", loss)
        return {"model/loss": loss.detach() * self.spec.dimensions}

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """Exact; see `pipeline.family.HasLikelihood`."""
        nats = self.log_prob(images, labels).double().flatten(1).sum(1)
        return Likelihood(nats=nats, bound="exact", terms={})

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Ancestral sampling; see `pipeline.family.Samples`."""
        channels, height, width = self.spec.shape
        uniform = ImageNoise(seeds, self.device).uniform(channels, 2, height, width)
        canvas = torch.zeros(len(seeds), *self.spec.shape, dtype=torch.uint8, device=self.device)
        return self.fill(canvas, uniform, labels)

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """``completions``: images, their upper halves, and how these may go on."""
        channels, height, width = self.spec.shape
        half = height // 2
        noise = ImageNoise(seeds, self.device).uniform(COMPLETIONS, channels, 2, height, width)
        given = batch.images.clone()
        given[:, :, half:] = 0
        drawn = self.fill(
            given.repeat(COMPLETIONS, 1, 1, 1),
            noise.transpose(0, 1).flatten(0, 1),
            batch.labels.repeat(COMPLETIONS),
            start_row=half,
        )
        rows = [batch.images, given, *drawn.split(len(seeds))]
        return {"completions": torch.stack(rows)}


class RowNetwork(Section):
    """Size of the part that is inside a row, which the families with rows as tokens share."""

    channels: int = Field(32, ge=4)
    layers: int = Field(3, ge=0)
    hidden: int = Field(64, ge=4)


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
            RowLayer(width, DILATIONS[i % len(DILATIONS)]) for i in range(network.layers)
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
