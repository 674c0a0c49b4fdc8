"""Images with 256 levels as draws from a density: log P(x) >= E_q(u|x)[log p(x + u) - log q(u|x)].

x + u is spread over the interval that belongs to x, in units of one level, and the bound is that of
Theis et al. 2016, "A note on the evaluation of generative models", arXiv:1511.01844, section 3.1,
with the q of Ho et al. 2019, "Flow++", arXiv:1902.00275, section 3.1. As in `blocks.distributions`
the intervals of levels 0 and 255 are open outwards, so that the P of all images sum to 1.

- uniform: u on -1/2..1/2 for all levels, the usual one.
- narrow: for levels 0 and 255, where values of images pile up, u is normal with a given standard
  deviation, cut off where the next level begins (Zheng et al. 2023, arXiv:2305.03935, section 4,
  has that for all levels); uniform for those between.

A flow whose last noise is of that standard deviation knows an image's black as such a normal
distribution, and loses with it next to nothing; uniform noise is the best for what is smooth.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["uniform", "narrow"]
SMALLEST = 2.0**-25
"""In place of a uniform variate of 0, which would be infinitely far out: half of the next one."""


def draw(images: Tensor, variates: Tensor, kind: Kind, spread: float) -> tuple[Tensor, Tensor]:
    """u in levels and log q(u|x) in nats, each float64 [B, ...].

    Args:
        images: uint8 [B, ...].
        variates: uniform on [0, 1), [B, ...].
        kind: which q.
        spread: standard deviation of ``narrow`` at the outermost levels, in levels.
    """
    place = variates.double().clamp(min=SMALLEST)
    flat, density = place - 0.5, torch.zeros_like(place)
    if kind == "uniform":
        return flat, density
    # At level 0 the normal variate is below half a level, at 255 its mirror image.
    share = 0.5 * math.erfc(-0.5 / spread / math.sqrt(2))
    normal = torch.special.ndtri(share * place)
    log_q = -0.5 * normal**2 - math.log(math.sqrt(2 * math.pi) * spread * share)
    narrow, black, white = spread * normal, images == 0, images == 255
    offset = torch.where(black, narrow, torch.where(white, -narrow, flat))
    return offset, torch.where(black | white, log_q, density)
