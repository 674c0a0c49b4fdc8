"""The process that turns images into noise, which diffusion models learn to turn back.

Ho et al. 2020 ("DDPM"), arXiv:2006.11239. Times run from 1 to T as in the paper, and index 0 of
every table is the clean image, so that ``alpha_bar[t]`` is the paper's and ``alpha_bar[0]`` is 1.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.core.seeds import ImageNoise


class Diffusion(nn.Module):
    """The forward process q and its posterior, as float64 tables over t = 0..T."""

    alpha_bar: Tensor
    beta: Tensor
    posterior_variance: Tensor

    def __init__(self, schedule: str, steps: int) -> None:
        super().__init__()
        self.steps = steps
        beta = betas(schedule, steps)
        beta = torch.cat([beta.new_zeros(1), beta])
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        posterior = torch.zeros_like(beta)
        posterior[1:] = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
        for name, table in (
            ("beta", beta),
            ("alpha_bar", alpha_bar),
            ("posterior_variance", posterior),
        ):
            self.register_buffer(name, table, persistent=False)

    def noisy(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) (DDPM, equation 4) for times t, int64 [B]."""
        signal = expand(self.alpha_bar[t].sqrt())
        spread = expand((1 - self.alpha_bar[t]).sqrt())
        return signal * x0 + spread * noise

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
        before, now = self.alpha_bar[t - 1], self.alpha_bar[t]
        to_x0 = before.sqrt() * self.beta[t] / (1 - now)
        to_xt = (1 - self.beta[t]).sqrt() * (1 - before) / (1 - now)
        return expand(to_x0) * x0 + expand(to_xt) * x_t

    def times_and_weights(
        self, n: int, noise: ImageNoise, count: int, after: int = 1
    ) -> list[tuple[Tensor, Tensor]]:
        """Times in after+1..T, int64 [n] each, and what their terms count, float64 [n].

        For ``count`` = K > 0, K times per image at (k + u) / K quantiles of a density proportional
        to 1 / t, since the bound's terms are largest where t is small; the weight is one over K
        times the density, which makes the weighted sum unbiased. For 0, or no fewer than there are
        times, all of them.
        """
        device = self.beta.device
        every = torch.arange(after + 1, self.steps + 1)
        if count == 0 or count >= len(every):
            one = torch.ones(n, dtype=torch.float64, device=device)
            return [(t.expand(n), one) for t in every.to(device)]
        density = (1 / every.double()) / (1 / every.double()).sum()
        # Summed on the CPU: cumsum has no deterministic version on GPUs.
        cumulative = density.cumsum(0).to(device)
        every, density = every.to(device), density.to(device)
        offsets = noise.uniform(count).double()
        chosen = []
        for k in range(count):
            place = (k + offsets[:, k]) / count
            index = torch.searchsorted(cumulative, place).clamp(max=len(every) - 1)
            chosen.append((every[index], 1 / (count * density[index])))
        return chosen

    def model_variance(self, t: Tensor, kind: str) -> Tensor:
        """Variance of p(x_{t-1} | x_t), float64 [B]: beta_t, or that of the posterior.

        The latter is 0 at t = 1, where the one of t = 2 stands in (Nichol & Dhariwal 2021).
        """
        if kind == "beta":
            return self.beta[t]
        return self.posterior_variance[t.clamp(min=min(2, self.steps))]


def betas(schedule: str, steps: int) -> Tensor:
    """beta_1..beta_T, float64 [T]: ``cosine`` (arXiv:2102.09672, equation 17) or ``linear``.

    On the processor always: without values (see `core.contract.on_paper`), torch would import its
    compiler to count.
    """
    options = {"dtype": torch.float64, "device": "cpu"}
    if schedule == "linear":
        # The paper's 1e-4..0.02 are for T = 1000; scaled so that x_T is noise for any T.
        scale = 1000 / steps
        return torch.linspace(1e-4 * scale, 0.02 * scale, steps, **options).clamp(max=0.999)
    place = (torch.arange(steps + 1, **options) / steps + 0.008) / 1.008
    alpha_bar = torch.cos(place * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def expand(per_image: Tensor) -> Tensor:
    """float32 [B, 1, 1, 1] from [B]."""
    return per_image.float()[:, None, None, None]
