"""p(x|z) pixel by pixel, of images with 256 levels that were seen through noise.

z = alpha x + sigma eps tells something of each pixel by itself, and a network tells what is known
of it from what is around. The two are put together by Bayes' rule: the network's output is a prior
of the pixel, of parts each of which has a posterior in closed form,

- black, and white: one level each, the outermost;
- K Gaussians, whose means and widths the network gives;
- a histogram of the 256 levels, which is learned, and is the same everywhere: images have levels
  that are far more frequent than those beside them.

With the histogram alone, if it were flat, p(x|z) would be the decoder of Kingma et al. 2021,
"Variational Diffusion Models", arXiv:2107.00630 (equation 4).
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.blocks import distributions
from pipeline.core.contract import to_signed

LEVELS = 256
LOG_SCALE, LOG_SCALES = -1.0, (-5.0, 1.0)
"""Where the log-widths of Gaussians begin, and their range."""
LOGISTIC = math.log(math.sqrt(3) / math.pi)
"""log of the scale of a logistic over its standard deviation."""
BEYOND = 8.0
"""Where a logistic is so far out that it is the outermost level alone."""
SHARPNESS = 20.0
"""Logits of the histogram over their parameters: they have to go far in a short training."""


@dataclass(frozen=True)
class Posterior:
    """p(x|z) of black, white and K Gaussians, and what is known of the histogram.

    Attributes:
        weights: logits of the former, float [B, 2 + K, C, H, W].
        means: of the Gaussians, [B, K, C, H, W].
        log_scales: of the Gaussians likewise.
        histogram: log of the histogram's prior weight, beside which no density at z is yet.
        z: [B, C, H, W].
        alpha: [B, 1, 1, 1], and sigma likewise.
    """

    weights: Tensor
    means: Tensor
    log_scales: Tensor
    histogram: Tensor
    z: Tensor
    alpha: Tensor
    sigma: Tensor

    def __getitem__(self, rows: slice) -> "Posterior":
        """That of some images."""
        return Posterior(*(getattr(self, each.name)[rows] for each in fields(self)))

    def mean(self) -> Tensor:
        """E[x|z], float [B, C, H, W], -1..1, without the histogram."""
        ends = torch.ones_like(self.means[:, :1])
        every = torch.cat([-ends, ends, self.means.clamp(-1, 1)], dim=1)
        return (self.weights.softmax(1) * every).sum(1)

    def mixture(self) -> Tensor:
        """Without the histogram, as `distributions.split_mixture` takes it, [B, 3 (2 + K), ...].

        Gaussians become logistics of the same variance, which have levels in closed form.
        """
        beyond = torch.full_like(self.means[:, :1], BEYOND)
        sharp = torch.full_like(beyond, distributions.MIN_LOG_SCALE)
        scales = self.log_scales + LOGISTIC
        parts = [self.weights, -beyond, beyond, self.means, sharp, sharp, scales]
        return torch.cat(parts, dim=1)


class LevelPosterior(nn.Module):
    """What a network's output means, and the histogram of levels."""

    spread: Tensor

    def __init__(self, channels: int, gaussians: int) -> None:
        super().__init__()
        self.channels, self.gaussians = channels, gaussians
        self.values = channels * (3 + 3 * gaussians)
        """How many numbers per pixel `forward` takes."""
        self.levels = nn.Parameter(torch.zeros(LEVELS, channels))
        # On the processor always: without values, torch would import its compiler to count.
        spread = torch.linspace(-1, 1, gaussians + 2, device="cpu")[1:-1]
        self.register_buffer("spread", spread[:, None, None, None], persistent=False)

    def forward(self, output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Posterior:
        """Bayes' rule.

        Args:
            output: float [B, values, H, W].
            z: float [B, C, H, W].
            alpha: [B, 1, 1, 1].
            sigma: likewise.
        """
        count = self.gaussians
        logits, histogram, means, widths = output.unflatten(1, (-1, self.channels)).split(
            [2 + count, 1, count, count], dim=1
        )
        means = means + self.spread
        widths = (widths + LOG_SCALE).clamp(*LOG_SCALES)
        seen, a, s = z[:, None], alpha[:, None], sigma[:, None]
        off = seen - a * means
        variance = (a * widths.exp()) ** 2 + s**2
        # log-densities of z, of one end as of the other.
        ends = -0.5 * (torch.cat([seen + a, seen - a], dim=1) / s) ** 2 - s.log()
        within = -0.5 * (off**2 / variance + variance.log())
        return Posterior(
            weights=logits + torch.cat([ends, within], dim=1),
            means=means + a * (2 * widths).exp() / variance * off,
            log_scales=widths + s.log() - 0.5 * variance.log(),
            histogram=histogram[:, 0],
            z=z,
            alpha=alpha,
            sigma=sigma,
        )

    def log_prob(self, images: Tensor, known: Posterior) -> Tensor:
        """log p(x|z) in nats, float32 [B, C, H, W], of uint8 images; 256 levels sum to 1."""
        rest, joint = known.weights.logsumexp(1), self._joint(known)
        mixed = distributions.logistic_mixture_log_prob(images, known.mixture())
        # An embedding: the gradient of gathering is not deterministic on GPUs.
        levels, channels = images.long(), torch.arange(self.channels, device=images.device)
        flat = self._prior().flatten()[:, None]
        prior = F.embedding(levels * self.channels + channels[:, None, None], flat)[..., 0]
        off = known.z - known.alpha * to_signed(images)
        chosen = known.histogram + _log_density(off, known.sigma) + prior
        found = torch.logaddexp(rest + mixed, chosen)
        return found - torch.logaddexp(rest, joint.logsumexp(1))

    def mean(self, known: Posterior) -> Tensor:
        """E[x|z], float [B, C, H, W], with the histogram."""
        joint = self._joint(known)
        share = torch.sigmoid(joint.logsumexp(1) - known.weights.logsumexp(1))
        levels = torch.linspace(-1, 1, LEVELS, device=joint.device)[:, None, None, None]
        frequent = (joint.softmax(1) * levels).sum(1)
        return torch.lerp(distributions.logistic_mixture_mean(known.mixture()), frequent, share)

    def draw(self, known: Posterior, uniform: Tensor) -> Tensor:
        """Levels, uint8 [B, C, H, W], from uniform variates [B, 4, C, H, W]."""
        which, frequent, choice, position = uniform.unbind(dim=1)
        joint = self._joint(known)
        share = torch.sigmoid(joint.logsumexp(1) - known.weights.logsumexp(1))
        drawn = distributions.categorical_sample(joint, frequent).to(torch.uint8)
        other = distributions.logistic_mixture_sample(known.mixture(), choice, position)
        return torch.where(which < share, drawn, other)

    def _joint(self, known: Posterior) -> Tensor:
        """log of what the histogram says of each level and z of it, float [B, 256, C, H, W]."""
        levels = torch.linspace(-1, 1, LEVELS, device=known.z.device)[:, None, None, None]
        off = known.z[:, None] - known.alpha[:, None] * levels
        likely = _log_density(off, known.sigma[:, None])
        return known.histogram[:, None] + likely + self._prior()[:, :, None, None]

    def _prior(self) -> Tensor:
        """log of the histogram, float [256, C]."""
        return (SHARPNESS * self.levels).log_softmax(0)


def _log_density(off: Tensor, sigma: Tensor) -> Tensor:
    """log N(off; 0, sigma^2) but for a constant; what is negligible is all the same.

    Exponentials that underflow would take many times as long.
    """
    return (-0.5 * (off / sigma) ** 2).clamp(min=-distributions.NEGLIGIBLE) - sigma.log()
