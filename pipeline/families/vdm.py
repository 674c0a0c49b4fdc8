"""Variational diffusion: trained on the bound of the likelihood itself, in continuous time.

- vdm: Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630.

z_t = alpha_t x + sigma_t eps, where gamma(t) = -log(alpha_t^2 / sigma_t^2) rises from ``gamma_min``
at t = 0 to ``gamma_max`` at t = 1. The bound is log p(x|z_0) - D - KL(q(z_1|x) || N(0, I)) with
D = 1/2 E_t gamma'(t) ||eps - eps_hat(z_t)||^2 (equation 15), which depends on the ends of gamma and
not on what is between (section 5.1); so that is learned for the least variance of the estimate.

As published (``network.decoder: softmax``) the network predicts eps, and the chain goes down to
where z_0 tells the level of each pixel by itself: p(x|z_0) is proportional to N(z_0; alpha_0 x,
sigma_0^2) over the 256 levels (equation 4). That takes longer trainings than minutes. By default
(``posterior``) the network predicts what is known of a pixel from what is around it, and Bayes'
rule adds what z_t itself tells (`pipeline.blocks.level_posterior`). The mean stands for x in
eps_hat = (z_t - alpha_t x_hat) / sigma_t, and at t = 0 the distribution is the decoder. As that
knows what is around a pixel, the chain may end where noise is still seen; it is a bound likewise.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.blocks import denoising, distributions, nets
from pipeline.blocks.diffusion import beside, expand, extrapolated, stepped
from pipeline.blocks.level_posterior import LevelPosterior, Posterior
from pipeline.blocks.unet import UNet, UNetNetwork, check
from pipeline.core import precision, ranks
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    Likelihood,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams, Rate, Section
from pipeline.core.seeds import BatchNoise, ImageNoise

TIMES = 1000
"""What the network is told of gamma is a time from 0 to this."""


class VdmNetwork(UNetNetwork):
    """The U-Net, the ends of gamma, and what the network predicts.

    ``pieces`` are those of gamma(t), which is linear in each. ``gaussians`` are those of each
    pixel, beside black, white and the histogram, of the decoder ``posterior``, and ``head`` are the
    channels of two convolutions that lead there, of pixels in place of patches. ``fourier`` are
    powers n of the features sin(2^n pi z) and cos(2^n pi z), with commas between them, which are
    given to the network beside z (appendix C); the paper has 7,8.
    """

    gamma_min: float = Field(-6.0, ge=-30, le=10)
    gamma_max: float = Field(5.0, ge=-10, le=30)
    pieces: int = Field(20, ge=1, le=1000)
    decoder: Literal["posterior", "softmax"] = "posterior"
    gaussians: int = Field(3, ge=1, le=256)
    head: int = Field(16, ge=1, le=4096)
    fourier: str = Field("none", pattern=r"^(none|\d{1,2}(,\d{1,2}){0,9})$")

    @model_validator(mode="after")
    def _rises(self) -> "VdmNetwork":
        if self.gamma_min >= self.gamma_max:
            raise ValueError("gamma_min must be below gamma_max: noise grows with time")
        return self

    @property
    def powers(self) -> list[int]:
        """Those that ``fourier`` names."""
        return [] if self.fourier == "none" else [int(each) for each in self.fourier.split(",")]


class VdmTraining(denoising.DenoisingTraining):
    """Of every ``reconstructed`` images one trains the decoder, the others the chain.

    gamma has an optimiser of its own, without warm-up and average.
    """

    reconstructed: int = Field(4, ge=2, le=1000)
    gamma_learning_rate: Rate = 0.05


class VdmSampling(Section):
    """Steps, even in gamma: ``ancestral``, as the bound's, or of the ``ode``, which add no noise.

    The latter are of second order (Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095).
    ``pixels`` is what is taken of p(x|z_0): its mean, or a sample.
    """

    solver: Literal["ancestral", "ode"] = "ode"
    steps: int = Field(20, ge=1, le=10_000)
    pixels: Literal["mean", "sample"] = "mean"
    precision: Literal["fp32", "bf16"] = "fp32"


class VdmScoring(Section):
    """Times drawn for each image in the estimate of the bound."""

    times: int = Field(10, ge=1, le=10_000)


class Schedule(nn.Module):
    """gamma(t), which rises from one end to the other in pieces of one width, linear in each.

    How long gamma stays in a piece is learned: the density of gamma, 1 / gamma'(t), by which the
    bound's integral is estimated from samples.
    """

    def __init__(self, network: VdmNetwork) -> None:
        super().__init__()
        self.low, self.high = network.gamma_min, network.gamma_max
        self.width = (self.high - self.low) / network.pieces
        self.logits = nn.Parameter(torch.zeros(network.pieces))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and gamma' at times t in [0, 1), float32 of any shape, and of that shape each."""
        share = self.logits.detach().softmax(0)
        # Sums with a triangle of ones: cumsum has no deterministic version on GPUs.
        after = (share * torch.ones(len(share), len(share), device=t.device).tril()).sum(1)
        piece = torch.searchsorted(after, t.contiguous(), right=True).clamp(max=len(share) - 1)
        inside = (t - after[piece] + share[piece]) / share[piece]
        gamma = self.low + self.width * (piece + inside.clamp(0, 1))
        return gamma, self.width / share[piece]

    def loss(self, gamma: Tensor, estimate: Tensor) -> Tensor:
        """What is least where the estimate of an integral from single gammas varies least.

        Its variance is the mean of its square, but for what is fixed; the gradient of that in the
        density p of gamma is the mean of - estimate^2 d log p.

        Args:
            gamma: float [B].
            estimate: of the integral, the integrand over p, from each, [B].
        """
        return -(estimate.detach() ** 2 * self.log_density(gamma)).mean()

    def log_density(self, gamma: Tensor) -> Tensor:
        """log of the density of gamma, -log gamma', which is differentiated here alone."""
        piece = ((gamma - self.low) / self.width).long().clamp(0, len(self.logits) - 1)
        # A product with a one-hot matrix: gathering has no deterministic gradient on GPUs.
        chosen = nets.one_hot(piece, len(self.logits)) @ self.logits.log_softmax(0)
        return chosen - torch.full_like(chosen, self.width).log()


class Vdm(Family):
    """A U-Net that predicts levels or noise at any gamma, and the process that this defines."""

    Network: ClassVar = VdmNetwork
    Training: ClassVar = VdmTraining
    Sampling: ClassVar = VdmSampling
    Scoring: ClassVar = VdmScoring

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        check(spec, params)
        network = params.network
        self.conditional = network.conditional
        self.posterior = (
            LevelPosterior(spec.channels, network.gaussians)
            if network.decoder == "posterior"
            else None
        )
        self.schedule = Schedule(network)
        given = spec.channels * (1 + 2 * len(network.powers))
        if self.posterior is None:
            self.net = UNet(spec, network, inputs=given)
        else:
            self.net = UNet(spec, network, inputs=given, outputs=network.head)
            self.head = nn.Sequential(
                nn.Conv2d(network.head + given, network.head, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(network.head, self.posterior.values, 1),
            )

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": denoising.group(self, training, without=self.schedule.parameters()),
            "gamma": Group(
                list(self.schedule.parameters()),
                lambda p: torch.optim.Adam(p, lr=training.gamma_learning_rate, fused=True),
                schedule=nets.cosine,
            ),
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the bound, in nats per dimension, and one of gamma on its variance."""
        x, every = to_signed(batch.images), self.params.training.reconstructed
        whole = len(x) * ranks.size()
        index = torch.arange(whole, device=self.device)
        chain = whole - -(-whole // every)
        # One offset for the whole batch: each time is uniform, and no batch misses a range.
        start = torch.rand(1, generator=rng, device=self.device)
        t = ranks.rows((start + (index - index // every - 1) / chain) % 1)
        in_chain = ranks.rows(index % every != 0)
        gamma, slope = self.schedule(t)
        gamma = torch.where(in_chain, gamma, self.schedule.low)
        z = self._noisy(x, gamma, BatchNoise(rng).normal(*x.shape))
        seen = self._seen(z, gamma, batch.labels if self.conditional else None)
        error = self._error(x, z, gamma, seen) / self.spec.dimensions
        diffusion = torch.where(in_chain, slope * error * (whole / chain), 0.0)
        # Which rows are reconstructed is known without asking the device.
        rows = slice(-(ranks.rank() * len(x)) % every, None, every)
        log_p = self._log_prob(batch.images[rows], z[rows], seen[rows]) / self.spec.dimensions
        reconstruction = log_p.sum() * (whole / (whole - chain) / len(x))
        loss = diffusion.mean() - reconstruction
        update("model", loss)
        update("gamma", self.schedule.loss(gamma, diffusion))
        return {
            "model/loss": loss.detach(),
            "model/diffusion": diffusion.detach().mean(),
            "model/reconstruction": -reconstruction.detach(),
        }

    def _noisy(self, x: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
        """z ~ q(z|x) (equation 1) at gamma, float [B]."""
        alpha, sigma = _alpha_sigma(gamma)
        return alpha * x + sigma * noise

    def _seen(self, z: Tensor, gamma: Tensor, labels: Tensor | None) -> Posterior | Tensor:
        """What the network makes of z: p(x|z), or eps_hat [B, C, H, W] of the decoder softmax."""
        angles = [2.0**n * torch.pi * z for n in self.params.network.powers]
        features = [wave for each in angles for wave in (each.sin(), each.cos())]
        place = (gamma - self.schedule.low) / (self.schedule.high - self.schedule.low)
        given = torch.cat([z, *features], dim=1)
        output = self.net(given, TIMES * place, labels)
        if self.posterior is None:
            return z + output
        output = self.head(torch.cat([F.silu(output), given], dim=1)).float()
        return self.posterior(output, z, *_alpha_sigma(gamma))

    def _x_hat(self, z: Tensor, gamma: Tensor, seen: Posterior | Tensor) -> Tensor:
        """The network's idea of x, float [B, C, H, W], -1..1."""
        if isinstance(seen, Posterior):
            return seen.mean()
        alpha, sigma = _alpha_sigma(gamma)
        return ((z - sigma * seen) / alpha).clamp(-1, 1)

    def _error(self, x: Tensor, z: Tensor, gamma: Tensor, seen: Posterior | Tensor) -> Tensor:
        """1/2 ||eps - eps_hat||^2 = 1/2 SNR ||x - x_hat||^2, float32 [B]."""
        difference = x - self._x_hat(z, gamma, seen)
        return 0.5 * torch.exp(-gamma) * (difference**2).flatten(1).sum(1)

    def _log_prob(self, images: Tensor, z: Tensor, seen: Posterior | Tensor) -> Tensor:
        """log p(x|z_0) in nats [B] of uint8 [B, C, H, W]; ``seen`` is at gamma_min."""
        if isinstance(seen, Posterior):
            return self.posterior.log_prob(images, seen).flatten(1).sum(1)
        levels = torch.arange(256, device=z.device)[:, None, None, None]
        chosen = torch.where(images[:, None] == levels, self._level_logits(z).log_softmax(1), 0.0)
        return chosen.flatten(1).sum(1)

    def _level_logits(self, z: Tensor) -> Tensor:
        """log N(z; alpha_0 x, sigma_0^2) but for a constant, float [B, 256, C, H, W], of levels."""
        gamma = torch.full((), self.schedule.low, device=z.device)
        levels = torch.linspace(-1, 1, 256, device=z.device)[:, None, None, None]
        centred = z[:, None] - torch.sigmoid(-gamma).sqrt() * levels
        return -0.5 * centred**2 / torch.sigmoid(gamma)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """The bound in continuous time (equations 11 and 15); see `core.contract.HasLikelihood`.

        D is estimated without bias from ``scoring.times`` = K times for each image, one in each of
        K equal parts of 0..1.
        """
        noise, x = ImageNoise(seeds, self.device), to_signed(images)
        count = self.params.scoring.times
        offsets = noise.uniform(count)
        start = torch.full((len(x),), self.schedule.low, device=self.device)
        z = self._noisy(x, start, noise.normal(*self.spec.shape))
        reconstruction = self._log_prob(images, z, self._seen(z, start, labels)).double()
        diffusion = torch.zeros_like(reconstruction)
        for k in range(count):
            gamma, slope = self.schedule((k + offsets[:, k]) / count)
            z = self._noisy(x, gamma, noise.normal(*self.spec.shape))
            error = self._error(x, z, gamma, self._seen(z, gamma, labels))
            diffusion += (slope * error).double() / count
        last = torch.full_like(start, self.schedule.high).double()
        mean = torch.sigmoid(-last).sqrt()[:, None, None, None] * x.double()
        log_var = F.logsigmoid(last)[:, None, None, None].expand_as(mean)
        prior = distributions.gaussian_kl(mean, log_var, 0.0, 0.0).flatten(1).sum(1)
        return Likelihood(
            nats=reconstruction - diffusion - prior,
            bound="vlb",
            terms={"reconstruction": reconstruction, "diffusion": -diffusion, "prior": -prior},
        )

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """From noise to images; see `core.contract.Samples`."""
        for state in self._denoise(seeds, labels):
            last = state
        return last

    @property
    def network_evaluations(self) -> int:
        """One for each step, and the decoder's, if that asks the network."""
        return self.params.sampling.steps + (self.posterior is not None)

    def _denoise(self, seeds: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
        """z at each of the sampler's steps but the last, from noise, float [n, C, H, W].

        And in the place of z_0 what is decoded of it, uint8.
        """
        sampling, noise = self.params.sampling, ImageNoise(seeds, self.device)
        z = noise.normal(*self.spec.shape)
        yield z
        gammas = torch.linspace(self.schedule.high, self.schedule.low, sampling.steps + 1).tolist()
        known: list[tuple[float, Tensor]] = []  # the last steps' log-SNR, halved, and x
        ancestral = sampling.solver == "ancestral"
        for now, then in pairwise(gammas):
            gamma = torch.full((len(z),), now, device=self.device)
            with precision.autocast(self.device, sampling.precision):
                x = self._x_hat(z, gamma, self._seen(z, gamma, labels))
            if not ancestral:
                known = [*known, (-now / 2, x)][-2:]
                if len(known) == 2:
                    x = extrapolated(*known, -then / 2)
            a_now, a_then = (1 / (1 + math.exp(each)) for each in (now, then))
            z = stepped(x, beside(z, x, a_now), a_now, a_then, 1.0 if ancestral else 0.0, noise)
            if then != gammas[-1]:
                yield z
        yield self._decoded(z, labels, noise)

    def _decoded(self, z: Tensor, labels: Tensor | None, noise: ImageNoise) -> Tensor:
        """What ``sampling.pixels`` says of p(x|z_0), uint8 [n, C, H, W]."""
        sampled = self.params.sampling.pixels == "sample"
        if self.posterior is None:
            logits = self._level_logits(z)
            if sampled:
                uniform = noise.uniform(*self.spec.shape)
                return distributions.categorical_sample(logits, uniform).to(torch.uint8)
            levels = torch.arange(256, device=z.device)[:, None, None, None]
            return (logits.softmax(1) * levels).sum(1).round().to(torch.uint8)
        gamma = torch.full((len(z),), self.schedule.low, device=self.device)
        with precision.autocast(self.device, self.params.sampling.precision):
            seen = self._seen(z, gamma, labels)
        if sampled:
            return self.posterior.draw(seen, noise.uniform(4, *self.spec.shape))
        return to_uint8(self.posterior.mean(seen))

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """``denoising``: a row for each seed, from noise to image, at evenly spaced steps."""
        *noisy, decoded = self._denoise(seeds, batch.labels if self.conditional else None)
        return {"denoising": denoising.picture([*map(to_uint8, noisy), decoded])}


def _alpha_sigma(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """What signal and noise are multiplied by at gamma [B], [B, 1, 1, 1] each."""
    return expand(torch.sigmoid(-gamma).sqrt()), expand(torch.sigmoid(gamma).sqrt())


FAMILY = Vdm
