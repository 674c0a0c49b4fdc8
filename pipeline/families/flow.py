"""Normalising flow: an invertible map from images to noise, and the density that this defines.

- flow: Dinh et al. 2017, "Density estimation using Real NVP", arXiv:1605.08803, over the sums of
  neighbours that Yu et al. 2020, "Wavelet Flow", arXiv:2010.13821, take for scales, with the
  additive couplings that round of Hoogeboom et al. 2019, "Integer Discrete Flows",
  arXiv:1905.07376, and the mixture couplings of Ho et al. 2019, "Flow++", arXiv:1902.00275.

Each step takes the values of a map in pairs (a, b) of neighbours, along rows or along columns. An
additive coupling, b <- a + b with a rounded down, leaves a map of half the size that is the image
at a lower resolution. A coupling by the distribution function of a mixture, whose parameters
networks read from that map, takes a to noise, which is factored out; the map goes on, down to a
single value. Everything is exact: the inverse, and log p(x) = sum log P(a | the map), since the
transforms are straight within a level (`blocks.transforms`). An affine coupling would fit bells to
densities that are even within a level: a quarter of a bit for each black pixel, that is for most.

It defines no `reconstruct`: its inverse gives any image back, digits or not, so that an error of 0
would tell nothing of the model.
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.blocks import muon, nets
from pipeline.blocks.autoregressive import places
from pipeline.blocks.distributions import PixelMixture
from pipeline.blocks.muon import MatrixTraining
from pipeline.blocks.transforms import Coupling, Pairs
from pipeline.core.contract import Batch, Family, Group, Likelihood, Update
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Section
from pipeline.core.seeds import ImageNoise

WHITE = 255
SMALLEST = 2.0**-25
"""What uniform noise, a multiple of 2^-24, is kept away from 0 by, and from 1."""
TOP_GAIN = 10.0
"""How much faster than others the few values learn that describe the sum of an image: they have
one value of each image to learn from, and are no network's."""
PICTURED = 10
"""Columns of pictures."""
COOLEST = 0.1
"""The lowest temperature in the picture of temperatures, which ends at 1."""


class FlowNetwork(Section):
    """Size of the networks behind the couplings.

    Maps of ``small`` positions at most, where it costs little, have networks of ``small_channels``,
    and ``parts``: of two, like the fields of a chessboard, the second is given the first.
    """

    channels: int = Field(40, ge=4, le=4096)
    small_channels: int = Field(64, ge=4, le=4096)
    layers: int = Field(4, ge=1, le=64)
    mixtures: int = Field(4, ge=1, le=256)
    small: int = Field(100, ge=0, le=10**7)
    parts: int = Field(2, ge=1, le=2)
    conditional: bool = False


class FlowTraining(MatrixTraining):
    """An optimiser with a warm-up, a cosine schedule and averaged weights."""

    clip: float = Field(1.0, gt=0, le=1e6)
    ema: Decay = 0.99


class FlowSampling(Section):
    """``temperature`` multiplies the noise: 1 is the model itself, less is nearer to its median."""

    temperature: float = Field(1.0, gt=0, le=10)


class Layer(nn.Module):
    """A residual layer: a convolution that may be dilated, and one of single positions."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.out(F.relu(self.around(F.relu(h))))


class Conditioner(nn.Module):
    """What a map and labels say of other values at its positions: `PixelMixture.split` of these."""

    def __init__(
        self, spec: ImageSpec, network: FlowNetwork, *, inputs: int, width: int, side: int
    ) -> None:
        """``side`` is the longer one of the map."""
        super().__init__()
        self.channels = spec.channels
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.label = nn.Embedding(spec.classes, width) if network.conditional else None
        # Every second layer sees twice as far, where there is something to see.
        reach = 2 if side > 8 else 1
        self.layers = nn.ModuleList(
            Layer(width, reach if i % 2 else 1) for i in range(network.layers)
        )
        self.out = nn.Conv2d(width, PixelMixture.values(spec.channels, network.mixtures), 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            # One of a pair often is black, or white: components are beyond the ends.
            spread(self.out.bias, spec.channels, network.mixtures, 1.5, -1.0)

    def forward(self, x: Tensor, labels: Tensor | None) -> PixelMixture:
        """From features [B, inputs, h, w]."""
        h = self.first(x)
        if self.label is not None:
            h = h + self.label(labels)[:, :, None, None]
        for layer in self.layers:
            h = layer(h)
        return PixelMixture.split(self.out(F.relu(h)).float(), self.channels)


def spread(values: Tensor, channels: int, mixtures: int, reach: float, log_scale: float) -> None:
    """Fill in `PixelMixture`'s values [..., v]: means from -``reach`` to ``reach``, one scale."""
    found = values[..., : 3 * mixtures * channels].unflatten(-1, (3, mixtures, channels))
    found[..., 0, :, :] = 0.0
    # On the processor always: without values, torch would import its compiler.
    found[..., 1, :, :] = torch.linspace(-reach, reach, mixtures, device="cpu")[:, None]
    found[..., 2, :, :] = log_scale


class Split(Coupling):
    """Pairs (a, b) of a map to their sums, and a to noise, given these.

    Attributes:
        largest: what the sums can be at most, int64 [h, w]: 255 for each pixel below them.
    """

    def __init__(self, spec: ImageSpec, network: FlowNetwork, largest: np.ndarray) -> None:
        """``largest`` is what the values of the map can be that is split."""
        super().__init__()
        # Of numbers on the processor, also where the model is built on paper.
        dimension = -1 if largest.shape[1] >= largest.shape[0] else -2
        self.pairs = Pairs(dimension, largest.shape[dimension])
        of_b, of_a = self.pairs.split(torch.from_numpy(largest)[None, None])
        self.largest = (of_a + of_b)[0, 0].numpy()
        self.steps = int(torch.minimum(of_a, of_b).max()).bit_length()
        height, width = self.largest.shape
        small = self.largest.size <= network.small
        parts = network.parts if small and self.largest.size > 1 else 1
        board = np.add.outer(np.arange(height), np.arange(width)) % parts
        mine = torch.from_numpy(np.stack([board == part for part in range(parts)]))
        self.register_buffer("mine", mine & (of_a[0, 0] > 0), persistent=False)
        self.register_buffer("of_a", of_a, persistent=False)
        self.register_buffer("of_b", of_b, persistent=False)
        self.register_buffer("place", places(height, width), persistent=False)
        inputs = 3 * spec.channels + self.place.shape[1]
        self.nets = nn.ModuleList(
            Conditioner(
                spec,
                network,
                inputs=inputs + (spec.channels + 1 if part else 0),
                width=network.small_channels if small else network.channels,
                side=max(height, width),
            )
            for part in range(parts)
        )

    def range(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """See `Coupling.range`: what is left of the sum is b, which has a range too."""
        return (total - self.of_b).clamp(min=0), torch.minimum(total, self.of_a)

    def mixture(
        self, part: int, total: Tensor, near: Tensor, labels: Tensor | None
    ) -> PixelMixture:
        """See `Coupling.mixture`."""
        share = total / (self.of_a + self.of_b)
        place = self.place.expand(len(total), -1, -1, -1)
        seen = [2 * share - 1, (total > 0).float(), share.sqrt(), place]
        if part:
            first = self.mine[0].float()
            seen += [near * first, first.expand(len(total), 1, -1, -1)]
        return self.nets[part](torch.cat(seen, dim=1), labels)


class Top(Coupling):
    """The sum of all values of an image, of each channel, given the most that it can be."""

    def __init__(self, spec: ImageSpec, network: FlowNetwork) -> None:
        super().__init__()
        self.channels = spec.channels
        self.largest = WHITE * spec.height * spec.width
        self.steps = self.largest.bit_length()
        self.register_buffer("mine", torch.ones(1, 1, 1).bool(), persistent=False)
        values = PixelMixture.values(spec.channels, network.mixtures)
        self.values = nn.Parameter(torch.zeros(spec.classes if network.conditional else 1, values))
        with torch.no_grad():
            spread(self.values, spec.channels, network.mixtures, 0.75, -2.0)
            self.values.div_(TOP_GAIN)

    def range(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """See `Coupling.range`."""
        return torch.zeros_like(total), total

    def mixture(
        self, part: int, total: Tensor, near: Tensor, labels: Tensor | None
    ) -> PixelMixture:
        """See `Coupling.mixture`."""
        if labels is None:
            values = self.values.expand(len(total), -1)
        else:
            values = nets.one_hot(labels, len(self.values)) @ self.values
        return PixelMixture.split(TOP_GAIN * values[:, :, None, None], self.channels)


class Flow(Family):
    """Steps from an image down to the sum of its values, each of which leaves noise behind."""

    Network: ClassVar = FlowNetwork
    Training: ClassVar = FlowTraining
    Sampling: ClassVar = FlowSampling

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        self.conditional = params.network.conditional
        self.splits = nn.ModuleList()
        self.largest = [np.full((spec.height, spec.width), WHITE)]
        while self.largest[-1].size > 1:
            self.splits.append(Split(spec, params.network, self.largest[-1]))
            self.largest.append(self.splits[-1].largest)
        self.top = Top(spec, params.network)

    @property
    def network_evaluations(self) -> int:
        """One for each part of each step."""
        return sum(len(split.nets) for split in self.splits)

    def facts(self) -> dict[str, str]:
        """Why its likelihood is no bound, as those of flows usually are."""
        return {"density": "the same all over a level, so that dequantisation costs nothing"}

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": Group(
                list(self.parameters()),
                muon.optimiser(self, training, weight_decay=1e-4),
                schedule=nets.warm_cosine(0.03),
                clip=training.clip,
                ema=training.ema,
            )
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the mean negative log-likelihood; ``loss`` is in nats per image."""
        labels = batch.labels if self.conditional else None
        loss = -self.log_prob(batch.images, labels).mean()
        update("model", loss / self.spec.dimensions)
        return {"model/loss": loss.detach()}

    def _most(self, n: int) -> Tensor:
        """What `Top` is given, int64 [n, C, 1, 1]."""
        shape = (n, self.spec.channels, 1, 1)
        return torch.full(shape, self.top.largest, device=self.device)

    def log_prob(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """log P(x) in nats, [B], of uint8 images: also log p(y) of any y whose levels they are."""
        levels, found = images.long(), []
        for split in self.splits:
            b, a = split.pairs.split(levels)
            levels = a + b
            found.append(split.log_prob(levels, a, labels))
        return sum(found) + self.top.log_prob(self._most(len(images)), levels, labels)

    def encode(
        self, images: Tensor, within: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """z of y = x + r, float64 [B, C, H, W], and log |det dz/dy| in nats, [B].

        Args:
            images: levels x, uint8 [B, C, H, W].
            within: places r in them, between 0 and 1, likewise.
            labels: int64 [B], if the model is conditional.
        """
        levels, left, log_dets = images.long(), [], []
        for split in self.splits:
            (b, a), (of_b, of_a) = split.pairs.split(levels), split.pairs.split(within)
            # a is rounded down, so that b keeps its place within a level.
            levels, within = a + b, of_b
            z, log_det = split.to_base(levels, a, of_a, labels)
            left.append(z)
            log_dets.append(log_det.flatten(1).sum(1))
        z, log_det = self.top.to_base(self._most(len(images)), levels, within, labels)
        for split, of_a in zip(reversed(self.splits), reversed(left), strict=True):
            z = split.pairs.join(z, of_a)
        return z, sum(log_dets) + log_det.flatten(1).sum(1)

    def decode(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images, uint8, and places within their levels, float64 [B, C, H, W]: undoes `encode`."""
        for levels, within in self._maps(z, labels):
            last = levels.to(torch.uint8), within
        return last

    def _maps(self, z: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Sums of values, int64, and places in their levels, from the coarsest map to the image."""
        left = []
        for split in self.splits:
            z, of_a = split.pairs.split(z)
            left.append(of_a)
        levels, within = self.top.from_base(self._most(len(z)), z, labels)
        yield levels, within
        for split, of_a in zip(reversed(self.splits), reversed(left), strict=True):
            a, place = split.from_base(levels, of_a, labels)
            levels = split.pairs.join(levels - a, a)
            within = split.pairs.join(within, place)
            yield levels, within

    def _uniform(self, noise: ImageNoise) -> Tensor:
        """Uniform on the open interval from 0 to 1, float64 [n, C, H, W]."""
        return noise.uniform(*self.spec.shape).double().clamp(SMALLEST, 1 - SMALLEST)

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """The flow backwards, from logistic noise; see `core.contract.Samples`."""
        z = torch.logit(self._uniform(ImageNoise(seeds, self.device)))
        return self.decode(self.params.sampling.temperature * z, labels)[0]

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """Exact; see `core.contract.HasLikelihood`.

        That of the continuous y = x + r is a lower bound of it in general (Theis et al. 2016,
        arXiv:1511.01844). Here it is the same for any r, so there is nothing to draw.
        """
        return Likelihood(self.log_prob(images, labels).double(), bound="exact", terms={})

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Temperatures, scales and interpolations; see `core.contract.Illustrates`.

        ``temperatures``: a row for each draw of noise, which is multiplied by more and more.
        ``scales``: the sums on the way to an image, as the mean levels that they are of.
        ``interpolations``: from the noise of an image to that of the next.
        """
        labels = batch.labels if self.conditional else None
        noise = ImageNoise(seeds, self.device)
        z, within = torch.logit(self._uniform(noise)), self._uniform(noise)
        heats = torch.linspace(COOLEST, 1, PICTURED, dtype=torch.float64, device=self.device)
        sums = zip(self._maps(z, labels), reversed(self.largest), strict=True)
        maps = [self._pixels(levels, largest) for (levels, _), largest in sums]
        chosen = torch.linspace(0, len(maps) - 1, min(PICTURED, len(maps))).round().long().tolist()
        # On a great circle only normal noise stays likely. Its lower tail has all digits.
        ends = self.encode(batch.images, within, labels)[0].flatten(1)
        codes = -ends.sign() * torch.special.ndtri(torch.sigmoid(-ends.abs()))
        between = nets.great_circle(codes, codes.roll(-1, dims=0), PICTURED)
        between = torch.special.log_ndtr(between) - torch.special.log_ndtr(-between)
        return {
            "temperatures": self._rows(heats[:, None, None, None] * z[:, None], labels),
            "scales": torch.stack([maps[i] for i in chosen], dim=1),
            "interpolations": self._rows(between.unflatten(2, self.spec.shape), labels),
        }

    def _rows(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Images uint8 of z, both [rows, columns, C, H, W]; a label for each row."""
        told = None if labels is None else labels.repeat_interleave(z.shape[1])
        return self.decode(z.flatten(0, 1), told)[0].unflatten(0, z.shape[:2])

    def _pixels(self, levels: Tensor, largest: np.ndarray) -> Tensor:
        """The mean level below each sum, at all pixels there, uint8 [n, C, H, W]."""
        mean = levels.double() * WHITE / torch.from_numpy(largest).to(self.device)
        for dimension, size in ((-2, self.spec.height), (-1, self.spec.width)):
            # Sums are of powers of 2, but for the last ones.
            times = 1 << (-(-size // mean.shape[dimension]) - 1).bit_length()
            mean = mean.repeat_interleave(times, dimension).narrow(dimension, 0, size)
        return mean.round().to(torch.uint8)


FAMILY = Flow
