"""A codebook: vectors that others are rounded to (van den Oord et al. 2017, arXiv:1711.00937).

The vectors are running means of what they stand for (appendix A.1), so that no gradient needs to
reach them. A code that hardly anything is near to would never move again, and starts anew as one
of the vectors that the codebook serves worst.
"""

import torch
from torch import Tensor, nn

from pipeline.core import collectives

TINY = 1e-12
"""A code with a smaller share is not moved: its mean would be one rounding error over another."""


class Codebook(nn.Module):
    """K codes, each a vector of d numbers.

    Everything is a buffer: it is saved with the model, and gradients never touch it.

    Attributes:
        vectors: float [K, d].
        share: of the vectors that were rounded, how many took each code: a running mean, [K].
        sums: their sum, over the number of all: a running mean, [K, d].
    """

    vectors: Tensor
    share: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int) -> None:
        """Of ``codes`` vectors of ``width`` numbers, all of them 0 and unused (`revive`)."""
        super().__init__()
        self.register_buffer("vectors", torch.zeros(codes, width))
        self.register_buffer("share", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, points: Tensor) -> Tensor:
        """The code at the smallest squared distance, int64 [...], of float [..., d].

        The first of several that are equally near.
        """
        # |p - v|^2 but for |p|^2, which is the same for all codes.
        lengths = self.vectors.square().sum(dim=1)
        return (lengths - 2 * points @ self.vectors.T).argmin(dim=-1)

    def forward(self, codes: Tensor) -> Tensor:
        """Vectors [..., d] of codes, int64 [...]."""
        return self.vectors[codes]

    @torch.no_grad()
    def learn(self, points: Tensor, codes: Tensor, decay: float) -> None:
        """Take in the points, [N, d], that were rounded to codes, int64 [N] (equations 6 to 8).

        Shares and sums are of the points of all ranks, who have as many each.
        """
        # A product with ones, since adding by index has no fixed order on GPUs.
        taken = (codes[:, None] == torch.arange(len(self), device=codes.device)).to(points.dtype)
        count = len(points)
        self.share.lerp_(collectives.mean(taken.sum(dim=0) / count), 1 - decay)
        self.sums.lerp_(collectives.mean(taken.T @ points / count), 1 - decay)
        means = self.sums / self.share.clamp(min=TINY)[:, None]
        self.vectors.copy_(torch.where(self.share[:, None] > TINY, means, self.vectors))

    @torch.no_grad()
    def revive(self, points: Tensor, least: float, rng: torch.Generator) -> Tensor:
        """Start codes anew at points, [N, d], where fewer than ``least`` / K took them.

        Points are drawn without replacement, with chances by their squared distance to the nearest
        code (as k-means++ starts; Efraimidis & Spirakis 2006, "Weighted random sampling with a
        reservoir"), among those of all ranks. Returns how many codes that were, [].
        """
        dead = self.share < least / len(self)
        distance = (points - self(self.nearest(points))).square().sum(dim=1)
        every, distance = collectives.gathered(points), collectives.gathered(distance)
        waiting = -torch.rand(len(every), generator=rng, device=rng.device).clamp(min=1e-30).log()
        order = ((distance + TINY) / waiting).argsort(descending=True, stable=True)
        # The first dead code has the first point, and so on; fewer points than codes serve twice.
        place = (~dead).byte().argsort(stable=True).argsort()
        chosen = every[order[place % len(every)]]
        fresh = dead[:, None]
        self.vectors.copy_(torch.where(fresh, chosen, self.vectors))
        self.sums.copy_(torch.where(fresh, chosen / len(self), self.sums))
        self.share.masked_fill_(dead, 1 / len(self))
        return dead.sum()
