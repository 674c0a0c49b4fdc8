"""The process that turns images into noise, which diffusion models learn to turn back.

Ho et al. 2020 ("DDPM"), arXiv:2006.11239. Times run from 1 to T as in the paper, and index 0 of
every table is the clean image, so that ``alpha_bar[t]`` is the paper's and ``alpha_bar[0]`` is 1.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.blocks import distributions
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

    def log_snr(self, t: int) -> float:
        """Half the logarithm of signal to noise at a time >= 1, lambda_t of arXiv:2211.01095."""
        alpha_bar = self.alpha_bar[t].item()
        return 0.5 * math.log(alpha_bar / (1 - alpha_bar))

    def spaced(self, steps: int, spacing: str) -> Tensor:
        """A sampler's times, int64, from T down to 0: even in ``time``, or in ``log_snr``."""
        if spacing == "time":
            chosen = torch.linspace(self.steps, 0, steps + 1).round().long()
        else:
            every = torch.arange(1, self.steps + 1)
            found = torch.tensor([self.log_snr(t) for t in every.tolist()], dtype=torch.float64)
            wanted = torch.linspace(found[-1].item(), found[0].item(), steps, dtype=torch.float64)
            nearest = (found - wanted[:, None]).abs().argmin(dim=1)
            chosen = torch.cat([every[nearest], torch.zeros(1, dtype=torch.int64)])
        return chosen.unique().flip(0)

    def prior_kl(self, x0: Tensor) -> Tensor:
        """KL(q(x_T|x_0) || N(0, I)) in nats, float64 [B]."""
        alpha_bar = self.alpha_bar[-1]
        mean = alpha_bar.sqrt() * x0.double()
        log_var = torch.log1p(-alpha_bar).expand_as(mean)
        return distributions.gaussian_kl(mean, log_var, 0.0, 0.0).flatten(1).sum(1)

    def step_kl(self, x0: Tensor, guess: Tensor, x_t: Tensor, t: Tensor, kind: str) -> Tensor:
        """KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)) in nats, float64 [B].

        The latter has a guess of x_0 in place of it, and a variance of this kind; see
        `model_variance`.
        """
        true = self.posterior_mean(x0, x_t, t).double()
        model = self.posterior_mean(guess, x_t, t).double()
        true_var = self.posterior_variance[t][:, None, None, None]
        variance = self.model_variance(t, kind)
        kl = distributions.gaussian_kl(
            true, true_var.log(), model, variance.log()[:, None, None, None]
        )
        return kl.flatten(1).sum(1)


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


def beside(x: Tensor, x0: Tensor, alpha_bar: float) -> Tensor:
    """The noise that x at ``alpha_bar`` < 1 holds beside ``x0``."""
    return (x - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)


def stepped(
    x0: Tensor, beside: Tensor, now: float, then: float, eta: float, noise: ImageNoise
) -> Tensor:
    """x at ``then`` (Song et al. 2021, "DDIM", arXiv:2010.02502, equation 12).

    Args:
        x0: a prediction, [B, C, H, W].
        beside: the noise beside that at ``now``; see `beside`.
        now: alpha_bar before the step.
        then: alpha_bar after it.
        eta: fresh noise, from 0, for a differential equation, to 1, for the posterior q.
        noise: where that comes from.
    """
    sigma = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    x = math.sqrt(then) * x0 + math.sqrt(max(0.0, 1 - then - sigma**2)) * beside
    return x + sigma * noise.normal(*x0.shape[1:]) if sigma > 0 else x


def extrapolated(before: tuple[float, Tensor], now: tuple[float, Tensor], then: float) -> Tensor:
    """x_0 as it will be half-way to ``then``, by its last two values.

    Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, algorithm 2, D_i. Times are lambda, half the
    logarithm of signal to noise.
    """
    ratio = (then - now[0]) / (now[0] - before[0])
    return now[1] + 0.5 * ratio * (now[1] - before[1])


def expand(per_image: Tensor) -> Tensor:
    """float32 [B, 1, 1, 1] from [B]."""
    return per_image.float()[:, None, None, None]
