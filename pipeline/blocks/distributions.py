"""Likelihoods of images with 256 levels.

Levels 0..255 stand at -1, -1 + 2/255, ..., 1. A level owns the interval of half a step, 1/255, on
either side of it, and the outermost two own the whole tails, so the 256 probabilities sum to 1
whatever the parameters (Salimans et al. 2017, "PixelCNN++", section 2.1).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core.contract import to_signed

HALF_STEP = 1 / 255
MIN_LOG_SCALE = -7.0
"""exp(-7) is a ninth of a level's width: anything sharper changes gradients, not probabilities."""
MAX_LOG_SCALE = 4.0
"""exp(4) is 27 times the whole range: anything wider is uniform."""
TAIL = 1e30
"""Half-width given to the outer side of the outermost levels: beyond any mean by so many scales
that the probability left out is 0 in float32 and no special case is needed."""
NEGLIGIBLE = 80.0
"""Nats by which a component is so far below the likeliest that it adds nothing in float32."""


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, without cancellation."""
    return torch.log(-torch.expm1(-x))


def log_interval(above: Tensor, below: Tensor, width: Tensor) -> Tensor:
    """log-probability that a standard logistic variate lies between -below and above.

    Uses sigmoid(a) - sigmoid(-b) = sigmoid(a) sigmoid(b) (1 - exp(-(a + b))), which neither cancels
    nor underflows, so no bin needs an approximation. The width, a + b, is passed in since it would
    cancel where the interval is far away.
    """
    return F.logsigmoid(above) + F.logsigmoid(below) + log1mexp(width)


def split_mixture(params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mixture logits, means and log-scales, each [B, K, ...], from [B, 3K, ...].

    In float32 whatever the precision of a network, or in float64 if the values are.
    """
    exact = params if params.dtype == torch.float64 else params.float()
    logits, means, log_scales = exact.chunk(3, dim=1)
    return logits, means, log_scales.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)


def logistic_mixture_log_prob(images: Tensor, params: Tensor) -> Tensor:
    """log P(level) in nats under a mixture of K discretised logistics.

    Args:
        images: uint8 [B, ...].
        params: float [B, 3K, ...]; see `split_mixture`.

    Returns:
        float32 [B, ...], one value per pixel and channel.
    """
    centre = to_signed(images)
    upper = centre + HALF_STEP + TAIL * (images == 255)
    lower = centre - HALF_STEP - TAIL * (images == 0)
    return mixture_log_interval(params, lower, upper)


def mixture_log_interval(params: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """log-probability, in nats [B, ...], that a mixture of K logistics lies in an interval.

    Args:
        params: float [B, 3K, ...]; see `split_mixture`.
        lower: where the intervals begin, float [B, ...]; `TAIL` further out where they are open.
        upper: where they end, likewise.
    """
    logits, means, log_scales = split_mixture(params)
    upper, lower = upper[:, None], lower[:, None]
    inverse = torch.exp(-log_scales)
    component = log_interval(
        inverse * (upper - means), inverse * (means - lower), inverse * (upper - lower)
    )
    joint = F.log_softmax(logits, dim=1) + component
    # The same sum to the last bit, but exponentials that underflow take many times as long.
    floor = joint.detach().amax(dim=1, keepdim=True) - NEGLIGIBLE
    return torch.logsumexp(torch.maximum(joint, floor), dim=1)


def categorical_sample(logits: Tensor, uniform: Tensor) -> Tensor:
    """Categories, int64 [B, ...], by inversion of uniform variates [B, ...]; logits [B, K, ...].

    The category is the one whose cumulative probability first exceeds the variate.
    """
    probabilities = torch.softmax(logits, dim=1)
    count = logits.shape[1]
    # A product with a triangle of ones: cumsum has no deterministic version on GPUs.
    ones = torch.ones(count, count, device=logits.device).triu()
    cumulative = torch.einsum("bj...,jk->bk...", probabilities, ones)
    return (uniform[:, None] >= cumulative).sum(dim=1).clamp(max=count - 1)


def logistic_mixture_sample(params: Tensor, choice: Tensor, position: Tensor) -> Tensor:
    """Levels, uint8 [B, ...], from uniform variates [B, ...] for component and place in it."""
    logits, means, log_scales = split_mixture(params)
    index = categorical_sample(logits, choice)[:, None]
    mean = means.gather(1, index).squeeze(1)
    scale = log_scales.gather(1, index).squeeze(1).exp()
    # The open interval: a uniform variate of exactly 0 would be infinitely far out.
    position = position.clamp(1e-7, 1 - 1e-7)
    value = mean + scale * (position.log() - torch.log1p(-position))
    return ((value + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def logistic_mixture_mean(params: Tensor) -> Tensor:
    """Mean of the mixture clipped to -1..1, float32 [B, ...].

    As in the discretised mixture, what lies outside counts as the outermost level: a component far
    below black is black. Of one logistic it is 1 minus the integral of its cumulative probability.
    """
    logits, means, log_scales = split_mixture(params)
    scales = log_scales.exp()
    below_white = F.softplus((1 - means) / scales)
    below_black = F.softplus((-1 - means) / scales)
    clipped = (1 - scales * (below_white - below_black)).clamp(-1, 1)
    return (torch.softmax(logits, dim=1) * clipped).sum(dim=1)


@dataclass(frozen=True)
class PixelMixture:
    """p(x) of images whose pixels are independent, and whose channels follow one another.

    Each channel of a pixel is a mixture of K discretised logistics, whose means move in a line with
    the channels before it (PixelCNN++, section 2.2): of colours, green is given red, and blue is
    given both. Other than there, each channel has a choice of component of its own.

    Attributes:
        params: float [B, 3K, C, H, W]; see `split_mixture`.
        slopes: float [B, K, C (C - 1) / 2, H, W], or None of one channel: of channel 1 on 0, of 2
            on 0 and 1, and so on.
    """

    params: Tensor
    slopes: Tensor | None

    @staticmethod
    def values(channels: int, mixtures: int) -> int:
        """How many numbers per pixel `split` takes."""
        return mixtures * (3 * channels + channels * (channels - 1) // 2)

    @classmethod
    def split(cls, values: Tensor, channels: int) -> "PixelMixture":
        """From a network's outputs, float [B, values, H, W]; slopes are between -1 and 1."""
        pairs = channels * (channels - 1) // 2
        mixtures = values.shape[1] // (3 * channels + pairs)
        params = values[:, : 3 * mixtures * channels].unflatten(1, (-1, channels))
        if not pairs:
            return cls(params, None)
        slopes = values[:, 3 * mixtures * channels :].unflatten(1, (mixtures, pairs))
        return cls(params, torch.tanh(slopes.float()))

    def log_prob(self, images: Tensor) -> Tensor:
        """log P(level | channels before) in nats, float32 [B, C, H, W], of uint8 images."""
        if self.slopes is None:
            return logistic_mixture_log_prob(images, self.params)
        given, every = to_signed(images), range(images.shape[1])
        moved = torch.cat([self.given(c, given[:, :c]) for c in every], dim=2)
        return logistic_mixture_log_prob(images, moved)

    def mean(self) -> Tensor:
        """Means, float32 [B, C, H, W]: of a channel given the means of those before it.

        That is the mean of the mixture (`logistic_mixture_mean`), but for what clipping to -1..1
        bends.
        """
        if self.slopes is None:
            return logistic_mixture_mean(self.params)
        means = self.slopes[:, 0, :0]
        for c in range(self.params.shape[2]):
            means = torch.cat([means, logistic_mixture_mean(self.given(c, means))], dim=1)
        return means

    def sample(self, choice: Tensor, position: Tensor) -> Tensor:
        """Levels, uint8 [B, C, H, W], from uniform variates of that shape; one after the other."""
        if self.slopes is None:
            return logistic_mixture_sample(self.params, choice, position)
        drawn = torch.empty_like(choice[:, :0], dtype=torch.uint8)
        for c in range(self.params.shape[2]):
            here = slice(c, c + 1)
            moved = self.given(c, to_signed(drawn))
            found = logistic_mixture_sample(moved, choice[:, here], position[:, here])
            drawn = torch.cat([drawn, found], dim=1)
        return drawn

    def given(self, channel: int, before: Tensor) -> Tensor:
        """`params` of a channel, [B, 3K, 1, H, W], given those before, -1..1 [B, channel, H, W]."""
        if self.slopes is None:
            return self.params[:, :, channel : channel + 1]
        logits, means, log_scales = self.params[:, :, channel : channel + 1].float().chunk(3, dim=1)
        first = channel * (channel - 1) // 2
        slopes = self.slopes[:, :, first : first + channel]
        means = means + (slopes * before[:, None]).sum(dim=2, keepdim=True)
        return torch.cat([logits, means, log_scales], dim=1)


def gaussian_interval_log_prob(images: Tensor, means: Tensor, log_scale: Tensor) -> Tensor:
    """log P(level) in nats under a discretised Gaussian (Ho et al. 2020, equation 13).

    Args:
        images: uint8 [...].
        means: float [...], on the -1..1 axis.
        log_scale: log of the standard deviation, broadcastable to the means.

    Returns:
        float32 [...]; where a bin is too far out for its difference of two cumulative
        probabilities, log-density times width.
    """
    means = means.double()
    centred = images.double() / 127.5 - 1 - means
    inverse = torch.exp(-log_scale.double())
    upper, lower = inverse * (centred + HALF_STEP), inverse * (centred - HALF_STEP)
    # Work in the lower tail, where the cumulative probability is small and its digits are exact.
    flip = centred > 0
    high, low = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    inside = log_high + torch.log(-torch.expm1(log_low - log_high))
    density = -0.5 * (inverse * centred) ** 2 + inverse.log() - 0.5 * math.log(2 * math.pi)
    inside = torch.where(torch.isfinite(inside), inside, density + math.log(2 * HALF_STEP))
    inside = torch.where(images == 0, torch.special.log_ndtr(upper), inside)
    return torch.where(images == 255, torch.special.log_ndtr(-lower), inside).float()


def gaussian_kl(
    mean1: Tensor, log_var1: Tensor, mean2: Tensor | float, log_var2: Tensor | float
) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) in nats, elementwise."""
    log_var2 = _beside(mean1, log_var2)
    return 0.5 * (
        log_var2
        - log_var1
        + torch.exp(log_var1 - log_var2)
        + (mean1 - mean2) ** 2 * torch.exp(-log_var2)
        - 1
    )


def gaussian_log_density(x: Tensor, mean: Tensor | float, log_var: Tensor | float) -> Tensor:
    """log N(x; mean, var) in nats, elementwise."""
    log_var = _beside(x, log_var)
    return -0.5 * ((x - mean) ** 2 * torch.exp(-log_var) + log_var + math.log(2 * math.pi))


def _beside(x: Tensor, value: Tensor | float) -> Tensor:
    """A value on the device of x; a number is written there, and not copied from the host."""
    if isinstance(value, Tensor):
        return value.to(dtype=x.dtype, device=x.device)
    return torch.full((), value, dtype=x.dtype, device=x.device)


def bits_per_dim(nats: float, dimensions: int) -> float:
    """Bits per dimension of a negative log-likelihood in nats per image: nats / (D ln 2)."""
    return nats / (dimensions * math.log(2))
