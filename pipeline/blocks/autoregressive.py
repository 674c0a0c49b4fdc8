"""What families with an exact autoregressive likelihood share.

p(x) is a product over pixels, row by row and from left to right, and over the channels of a pixel
in their order; each factor is given by all that stands before it. A level has two factors, its
upper four bits and then its lower four given the upper (as Menick & Kalchbrenner 2019,
arXiv:1812.01608, order the bits), which is exact like a softmax over 256 levels and eight times
smaller.

Families differ in how they know what stands before a pixel; those that read whole rows share more
(`pipeline.blocks.rows`).
"""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import muon
from pipeline.blocks.distributions import categorical_sample
from pipeline.blocks.muon import MatrixTraining
from pipeline.blocks.nets import warm_cosine
from pipeline.core import cost
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    Likelihood,
    Update,
    to_signed,
)
from pipeline.core.params import Decay
from pipeline.core.seeds import ImageNoise

REACH = 3
"""A first layer sees REACH + 1 rows above, REACH columns to either side there, and REACH + 1
pixels to the left."""
NIBBLE = 16
PERIODS = 5
"""How many periods of levels a channel's earlier ones are seen by; see `waves`."""
COMPLETIONS = 4
"""Pictures of how an upper half goes on."""


class AutoregressiveTraining(MatrixTraining):
    """An optimiser with a warm-up, a cosine schedule and averaged weights."""

    clip: float = Field(1.0, gt=0, le=1e6)
    ema: Decay = 0.99


def dilations(layers: int, extent: int) -> list[int]:
    """How many rows or columns further each layer sees that follows the first one.

    Powers of 2 in their order, the smallest with which all of them together cover images of
    ``extent`` rows or columns, where so many layers can: no layer sees further than those before
    it together, which would leave gaps.
    """
    needed = extent - 1 - (REACH + 1)
    every: list[int] = []
    for leading in range(layers, 1 - (REACH + 1).bit_length(), -1):
        every = [2 ** max(0, i - leading + 1) for i in range(layers)]
        if sum(every) >= needed:
            break
    return every


def row_so_far(left: int, width: int) -> str:
    """In words, what ``left`` pixels to the left are in images of ``width``."""
    return "the row so far" if left >= width - 1 else f"the {left} pixels to the left"


def places(height: int, width: int) -> Tensor:
    """Row and column of each pixel from -1 to 1, and a 1 that tells inside from padding.

    float32 [1, 3, H, W], on the processor always (see `pipeline.blocks.diffusion.betas`).
    """
    rows = torch.linspace(-1, 1, height, device="cpu")[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width, device="cpu").expand(height, width)
    return torch.stack([rows, columns, torch.ones(height, width, device="cpu")])[None]


def features(x: Tensor, place: Tensor) -> Tensor:
    """What networks see of images in -1..1: levels, whether they are above 0, and `places`.

    [B, 2C + 3, H, W].
    """
    above_zero = ((x + 1) * 127.5).clamp(max=1)
    return torch.cat([x, above_zero, place.to(x.dtype).expand(len(x), -1, -1, -1)], dim=1)


def waves(x: Tensor) -> Tensor:
    """Values -1..1 and what is periodic in their levels, [B, E * (1 + 2 * `PERIODS`), H, W].

    Sines and cosines of 256, 128, 64, 32 and 16 levels: a lower nibble is periodic in the level, so
    what one channel says of another's is smooth in these and jumps in the value itself (Tancik et
    al. 2020, arXiv:2006.10739; Kingma et al. 2021, arXiv:2107.00630, appendix C).

    Args:
        x: channels [B, E, H, W]; E may be 0.
    """
    turns = [x * (math.pi * 2**period * 255 / 256) for period in range(PERIODS)]
    return torch.cat([x, *(each.sin() for each in turns), *(each.cos() for each in turns)], dim=1)


class Head(nn.Module):
    """256 probabilities of one channel as two nibbles.

    They are given the context [B, width, H, W] and the earlier channels of the same pixel,
    -1..1 [B, earlier, H, W].
    """

    def __init__(self, width: int, earlier: int, hidden: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(width + earlier * (1 + 2 * PERIODS), hidden, 1)
        self.upper = nn.Conv2d(hidden, NIBBLE, 1)
        self.given_upper = nn.Embedding(NIBBLE, hidden)
        self.lower = nn.Conv2d(hidden, NIBBLE, 1)

    def upper_logits(self, context: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the upper nibble [B, 16, H, W], and what `lower_logits` needs."""
        hidden = self.context(torch.cat([F.relu(context), waves(earlier)], dim=1))
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
        for column in cost.alike(self.images.shape[3]):
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

    @property
    def network_evaluations(self) -> int:
        """One for each pixel."""
        return self.spec.height * self.spec.width

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": Group(
                list(self.parameters()),
                muon.optimiser(self, training, weight_decay=1e-4),
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
        """Exact; see `core.contract.HasLikelihood`."""
        nats = self.log_prob(images, labels).double().flatten(1).sum(1)
        return Likelihood(nats=nats, bound="exact", terms={})

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Ancestral sampling; see `core.contract.Samples`."""
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
