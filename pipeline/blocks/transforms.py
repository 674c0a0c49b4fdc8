"""Invertible transforms of images with levels, for normalising flows.

An image with levels is a point of a continuous space once each value has a place in its level: y =
k + r with a level k and 0 < r < 1. The transforms here take levels to levels, or the places in them
to base noise, so that densities are the same all over a level, and the probability of a level is
its density: dequantisation costs nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.blocks.distributions import TAIL, PixelMixture, mixture_log_interval, split_mixture

FLOOR = 1e-3
"""Share of probability that is even over all levels. No level costs more than 10 bits above the
even ones, and no transform is so flat that its inverse would lose digits; it costs .0014 bits where
all else is right."""


@dataclass(frozen=True)
class Pairs:
    """Maps as pairs of neighbours along a dimension, and back.

    Where there is an odd number of them, the last has a neighbour outside, which is 0.

    Attributes:
        dimension: -2, of rows, or -1, of columns.
        size: of what is split, along it.
    """

    dimension: int
    size: int

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First and second of each pair, from [B, C, H, W]."""
        if self.size % 2:
            x = F.pad(x, [0, 1] if self.dimension == -1 else [0, 0, 0, 1])
        halves = x.unflatten(self.dimension, (-1, 2))
        return tuple(halves.unbind(self.dimension))

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """The inverse of `split`."""
        pairs = torch.stack([first, second], dim=self.dimension)
        joined = pairs.flatten(self.dimension - 1, self.dimension)
        return joined.narrow(self.dimension, 0, self.size)


def position(levels: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Where levels are between the lowest, -1, and the highest, 1; 0 where these are the same.

    float32 [...] from int64 [...].
    """
    span = highest - lowest
    return torch.where(span > 0, 2 * (levels - lowest) / span.clamp(min=1) - 1, 0.0)


@dataclass(frozen=True)
class LevelCdf:
    """The distribution function of a level, as the transform of one value, and its inverse.

    F(k + r) = P(below k) + r P(k), of a mixture of K logistics (Ho et al. 2019, arXiv:1902.00275)
    that is straight within a level. z = logit F(y), which is increasing and has a logistic base
    density, so that p(y) = dF/dy = P(floor y). The outermost levels own the whole tails, as in
    `blocks.distributions`. The mixture is of what `position` says,
    so that where one level can be alone it has probability 1.

    Attributes:
        params: float [B, 3K, ...], mixture logits, means and log-scales.
        lowest: the lowest level that can be, int64 [B, ...].
        highest: the highest, likewise.
    """

    params: Tensor
    lowest: Tensor
    highest: Tensor

    def log_prob(self, levels: Tensor) -> Tensor:
        """log P(k) in nats, [B, ...], of int64 levels; also the log-density of any y in them."""
        exact = torch.float64 if self.params.dtype == torch.float64 else torch.float32
        span = (self.highest - self.lowest).to(exact)
        half = 1 / span.clamp(min=1)
        place = 2 * (levels - self.lowest) * half - 1
        upper = place + half + TAIL * (levels == self.highest)
        lower = place - half - TAIL * (levels == self.lowest)
        found = mixture_log_interval(self.params, lower, upper)
        return torch.logaddexp(found + math.log1p(-FLOOR), (FLOOR / (span + 1)).log())

    def _beyond(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """P(below k) and P(k or above), float64 [B, ...]."""
        span = (self.highest - self.lowest).double()
        logits, means, log_scales = split_mixture(self.params.double())
        edge = (2 * (levels - self.lowest) - 1) / span.clamp(min=1) - 1
        scaled = (edge[:, None] - means) * torch.exp(-log_scales)
        weights = torch.softmax(logits, dim=1) * (1 - FLOOR)
        even = FLOOR / (span + 1)
        below = (weights * torch.sigmoid(scaled)).sum(1) + even * (levels - self.lowest)
        above = (weights * torch.sigmoid(-scaled)).sum(1) + even * (self.highest - levels + 1)
        inside = (levels > self.lowest) & (levels <= self.highest)
        return (
            torch.where(inside, below, (levels > self.highest).double()),
            torch.where(inside, above, (levels <= self.lowest).double()),
        )

    def to_base(self, levels: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """z and log dz/dy in nats, float64 [B, ...], of int64 levels and places in them."""
        share = LevelCdf(self.params.double(), self.lowest, self.highest).log_prob(levels).exp()
        below = self._beyond(levels)[0] + places * share
        above = self._beyond(levels + 1)[1] + (1 - places) * share
        log_det = share.log() - below.log() - above.log()
        return below.log() - above.log(), log_det

    def from_base(self, z: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Levels, int64, and places in them, float64 [B, ...], of z: the inverse of `to_base`.

        Args:
            z: float [B, ...].
            steps: of bisection; 2^steps are no fewer than there are levels.
        """
        wanted = torch.sigmoid(z.double())
        low, high = self.lowest, self.highest
        for _ in range(steps):
            middle = low + (high - low + 1) // 2
            reached = self._beyond(middle)[0] <= wanted
            low, high = torch.where(reached, middle, low), torch.where(reached, high, middle - 1)
            high = torch.maximum(low, high)
        below, after = self._beyond(low)[0], self._beyond(low + 1)[0]
        return low, ((wanted - below) / (after - below)).clamp(0, 1)


class Coupling(nn.Module):
    """Values a to noise, given what they are part of: the step of a flow that has parameters.

    Attributes:
        mine: for each part which values are of it, bool [parts, h, w]. Those outside of the
            image are of none.
        steps: of bisection that find a level.
    """

    mine: Tensor
    steps: int

    def range(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest that a can be, int64 [B, C, h, w]."""
        raise NotImplementedError

    def mixture(
        self, part: int, total: Tensor, near: Tensor, labels: Tensor | None
    ) -> PixelMixture:
        """Of the values of a part, given the totals and, in the second part, the first one's."""
        raise NotImplementedError

    def transforms(
        self, total: Tensor, a: Tensor, labels: Tensor | None
    ) -> Iterator[tuple[Tensor, LevelCdf]]:
        """For each part which values are of it, bool [h, w], and the transform of a there."""
        lowest, highest = self.range(total)
        near = position(a, lowest, highest)
        for part, mine in enumerate(self.mine):
            mixture = self.mixture(part, total, near, labels)
            params = [mixture.given(c, near[:, :c]) for c in range(a.shape[1])]
            yield mine, LevelCdf(torch.cat(params, dim=2), lowest, highest)

    def log_prob(self, total: Tensor, a: Tensor, labels: Tensor | None) -> Tensor:
        """log P(a | total) in nats, [B]."""
        found = [mine * cdf.log_prob(a) for mine, cdf in self.transforms(total, a, labels)]
        return sum(found).flatten(1).sum(1)

    def to_base(
        self, total: Tensor, a: Tensor, within: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """z of a at a place in its level, and log dz/da in nats, float64 [B, C, h, w]."""
        z = log_det = torch.zeros(total.shape, dtype=torch.float64, device=total.device)
        for mine, cdf in self.transforms(total, a, labels):
            found, slope = cdf.to_base(a, within)
            z, log_det = torch.where(mine, found, z), torch.where(mine, slope, log_det)
        return z, log_det

    def from_base(self, total: Tensor, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """a, int64, and its places in levels, float64 [B, C, h, w]: the inverse of `to_base`."""
        lowest, highest = self.range(total)
        a, near = torch.zeros_like(total), torch.zeros(total.shape, device=total.device)
        within = torch.zeros(total.shape, dtype=torch.float64, device=total.device)
        for part, mine in enumerate(self.mine):
            mixture = self.mixture(part, total, near, labels)
            for c in range(total.shape[1]):
                here = slice(c, c + 1)
                low, high = lowest[:, here], highest[:, here]
                cdf = LevelCdf(mixture.given(c, near[:, :c]), low, high)
                level, place = cdf.from_base(z[:, here], self.steps)
                a[:, here] = torch.where(mine, level, a[:, here])
                within[:, here] = torch.where(mine, place, within[:, here])
                near[:, here] = torch.where(mine, position(level, low, high), near[:, here])
        return a, within
