"""Denoising diffusion.

- ddpm: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, with the
  cosine schedule of Nichol & Dhariwal 2021, arXiv:2102.09672, the velocity prediction of Salimans
  & Ho 2022, arXiv:2202.00512, and the samplers of Song et al. 2021, "Denoising Diffusion Implicit
  Models", arXiv:2010.02502, and Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095.

With ``network.conditional`` the model is given labels, and ``sampling.guidance`` is that of Ho &
Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598.

The training loss is the papers' "simple" one, which is no likelihood. What is reported is the
variational bound of the same network: the prior term, the sum over t, and a decoder. That is not
the papers' discretised Gaussian at t = 1 unless ``scoring.decoder`` says so: the chain is cut where
noise is still seen, and ends in distributions of levels counted on training images
(`pipeline.blocks.level_decoder`).
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.blocks import denoising, distributions
from pipeline.blocks.diffusion import Diffusion, beside, expand, extrapolated, stepped
from pipeline.blocks.level_decoder import LevelDecoder, distinct
from pipeline.blocks.unet import UNet, UNetNetwork, check
from pipeline.core import precision
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    Likelihood,
    TrainingImages,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.core.images import ImageSpec
from pipeline.core.params import ModelParams, Section
from pipeline.core.seeds import BatchNoise, ImageNoise

INVERSION_STEPS = 100
CUTS = (0.02, 0.05, 0.1, 0.17, 0.25, 0.35)
"""Where the chain may be cut: standard deviations of the noise beside the image, whose range is
-1..1."""
FITTED, TRIED, HELD = 2_600, 400, 200
"""Training images that the decoder is fitted to; those of them by which the cut is chosen; and
others, by which it is chosen as well."""
FITTED_VALUES = 4_000_000
"""Values of the fitted images are no more, however large they are."""
HELD_TIMES = 8
"""Of the bound, for each image on which the cut is chosen."""


class DdpmNetwork(UNetNetwork):
    """The U-Net and the diffusion process that it inverts."""

    steps: int = Field(1000, ge=2, le=10_000)
    schedule: Literal["cosine", "linear"] = "cosine"
    prediction: Literal["noise", "velocity"] = "noise"


class DdpmSampling(Section):
    """The solver, how many of the T times it takes, and how they are spaced.

    ``ddim`` is of first order, and ``eta`` is how much fresh noise it adds (0 none, 1 as DDPM).
    ``dpm_2m``, DPM-Solver++ (2M), is of second order at the same cost, one evaluation of the
    network a step, and adds none. Times are spaced evenly (``time``), or so that the logarithm of
    signal to noise is (``log_snr``).

    ``guidance`` w of a conditional model: (1 + w) times the prediction with the label less w times
    that without (arXiv:2207.12598, equation 6); 0 samples from the model itself.
    """

    solver: Literal["ddim", "dpm_2m"] = "ddim"
    spacing: Literal["time", "log_snr"] = "time"
    steps: int = Field(50, ge=1, le=10_000)
    eta: float = Field(0.0, ge=0, le=1)
    guidance: float = Field(0.0, ge=0, le=100)
    precision: Literal["fp32", "bf16"] = "fp32"


class DdpmScoring(Section):
    """The bound: its end, times per image (0 for the full sum), the variance of p(x_{t-1}|x_t).

    The decoder is ``calibrated``, p(x_0|x_t) counted on training images at some t, or
    ``gaussian``, p(x_0|x_1) as published.
    """

    decoder: Literal["calibrated", "gaussian"] = "calibrated"
    times: int = Field(20, ge=0, le=10_000)
    variance: Literal["beta", "posterior"] = "posterior"


class Ddpm(Family):
    """A U-Net that predicts what was added to an image, and the chain that this defines."""

    Network: ClassVar = DdpmNetwork
    Training: ClassVar = denoising.GuidedTraining
    Sampling: ClassVar = DdpmSampling
    Scoring: ClassVar = DdpmScoring

    inversion_kind = f"DDIM up and down again, {INVERSION_STEPS} steps each way"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        check(spec, params)
        self.conditional = params.network.conditional
        self.diffusion = Diffusion(params.network.schedule, params.network.steps)
        self.net = UNet(spec, params.network)
        self.decoder = LevelDecoder()

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: the sampler has no more steps than the process, nor noise."""
        network, sampling = params.network, params.sampling
        if sampling is not None and sampling.solver == "dpm_2m" and sampling.eta > 0:
            return (
                f"sampling.eta = {sampling.eta:g}: the solver dpm_2m adds no noise; make it 0, or "
                "take ddim"
            )
        if network is not None and sampling is not None and sampling.steps > network.steps:
            return (
                f"sampling.steps = {sampling.steps}: they are some of the {network.steps} of "
                "network.steps; lower it"
            )
        return super().unsupported(params, device, images)

    def groups(self) -> dict[str, Group]:
        return {"model": denoising.group(self, self.params.training)}

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the simple loss (DDPM, equation 14), with times spread evenly."""
        x0 = to_signed(batch.images)
        places = denoising.spread_places(len(x0), rng)
        t = 1 + (places * self.diffusion.steps).long().clamp(max=self.diffusion.steps - 1)
        noise = BatchNoise(rng).normal(*x0.shape)
        x_t = self.diffusion.noisy(x0, t, noise)
        loss = F.mse_loss(
            self.net(x_t, t, self._told(batch.labels, rng)), self._target(x0, noise, t)
        )
        update("model", loss)
        return {"model/loss": loss.detach()}

    def _told(self, labels: Tensor, rng: torch.Generator) -> Tensor | None:
        """The labels with some of them left out, or None if the model is not conditional."""
        if not self.conditional:
            return None
        share = self.params.training.label_dropout
        return denoising.partly_told(labels, share, self.spec.classes, rng)

    def _target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise, or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0 (arXiv:2202.00512)."""
        if self.params.network.prediction == "noise":
            return noise
        alpha_bar = self.diffusion.alpha_bar[t]
        return expand(alpha_bar.sqrt()) * noise - expand((1 - alpha_bar).sqrt()) * x0

    def predict_x0(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, guidance: float = 0.0
    ) -> Tensor:
        """The network's idea of x_0 given x_t and labels, clipped to -1..1."""
        alpha_bar = self.diffusion.alpha_bar[t]
        signal, spread = expand(alpha_bar.sqrt()), expand((1 - alpha_bar).sqrt())
        output = denoising.guided(self.net, x_t, t, labels, guidance, self.spec.classes)
        if self.params.network.prediction == "noise":
            return ((x_t - spread * output) / signal).clamp(-1, 1)
        return (signal * x_t - spread * output).clamp(-1, 1)

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """From noise to images by ``sampling.solver``; see `core.contract.Samples`."""
        for x in self._denoise(seeds, labels):
            last = x
        return to_uint8(last)

    def _denoise(self, seeds: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
        """x at each of the sampler's times, from noise to image, float [n, C, H, W]."""
        noise = ImageNoise(seeds, self.device)
        x = noise.normal(*self.spec.shape)
        yield x
        known: list[tuple[float, Tensor]] = []  # the last steps' log-SNR and x_0
        for now, then in pairwise(self._times().tolist()):
            x0, direction = self._split(x, now, labels, self.params.sampling.guidance)
            if self.params.sampling.solver == "dpm_2m":
                known = [*known, (self.diffusion.log_snr(now), x0)][-2:]
                # The last step, to where there is no noise, is of first order.
                if then > 0 and len(known) == 2:
                    x0 = extrapolated(*known, self.diffusion.log_snr(then))
                    direction = beside(x, x0, self.diffusion.alpha_bar[now].item())
            bars = self.diffusion.alpha_bar[[now, then]].tolist()
            x = stepped(x0, direction, *bars, self.params.sampling.eta, noise)
            yield x

    def _times(self) -> Tensor:
        """The sampler's times, int64, from T down to 0."""
        return self.diffusion.spaced(self.params.sampling.steps, self.params.sampling.spacing)

    @property
    def network_evaluations(self) -> int:
        """One for each step of the sampler, or two if it is guided."""
        guided = self.conditional and self.params.sampling.guidance > 0
        return (len(self._times()) - 1) * (1 + guided)

    def _split(
        self, x: Tensor, now: int, labels: Tensor | None, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """What x at time ``now`` >= 1 is made of: the network's x_0, and the noise beside it."""
        t = torch.full((len(x),), now, device=self.device)
        with precision.autocast(self.device, self.params.sampling.precision):
            x0 = self.predict_x0(x, t, labels, guidance)
        return x0, beside(x, x0, self.diffusion.alpha_bar[now].item())

    @torch.no_grad()
    def invert(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """DDIM's differential equation (equation 14) up to noise, and down again.

        See `core.contract.Inverts`. There is nothing to search, so ``seeds`` are not used. It
        starts at time 1, whose noise is about one level of an image, since the network knows no
        time 0; and it is not guided.
        """
        steps = min(INVERSION_STEPS, self.diffusion.steps)
        times = torch.linspace(1, self.diffusion.steps, steps).round().long().unique().tolist()
        x = to_signed(images)
        for now, then in [*pairwise(times), *pairwise(times[::-1])]:
            x0, noise = self._split(x, now, labels, 0.0)
            alpha_bar = self.diffusion.alpha_bar[then].item()
            x = math.sqrt(alpha_bar) * x0 + math.sqrt(1 - alpha_bar) * noise
        return to_uint8(self._split(x, 1, labels, 0.0)[0])

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """``denoising``: a row for each seed, from noise to image, at ten evenly spaced steps."""
        states = self._denoise(seeds, batch.labels if self.conditional else None)
        return {"denoising": denoising.picture([*map(to_uint8, states)])}

    @torch.no_grad()
    def finish(self, batches: Iterator[Batch], rng: torch.Generator) -> None:
        """Fit the decoder to training images, at the time that suits others of them best.

        That is so whatever is scored later, and by which variance: see `core.contract.Family`.
        """
        count = min(FITTED + HELD, max(TRIED + HELD, FITTED_VALUES // self.spec.dimensions))
        images, labels = distinct(batches, count)
        if len(images) < 2:
            return
        held = min(HELD, len(images) // 2)
        tried = min(held + TRIED, len(images))
        names = torch.randint(2**32, (len(images),), generator=rng, device=self.device)
        chain = self._held_chain(images[:held], labels[:held], names[:held])

        def guess(t: int, n: int) -> Tensor:
            return self._guesses(images[:n], labels[:n], names[:n], t)

        def later(t: int) -> float:
            return sum(((times > t) * kl).mean().item() for times, kl in chain)

        spread = (1 / self.diffusion.alpha_bar - 1).sqrt().cpu()
        cuts = torch.searchsorted(spread, torch.tensor(CUTS, dtype=spread.dtype))
        cuts = cuts.clamp(1, self.diffusion.steps - 1).unique().tolist()
        self.decoder.fit_at_best(cuts, guess, later, images, held, tried)

    def _held_chain(
        self, images: Tensor, labels: Tensor, names: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Times after 1 and KLs in nats times their weights, [B] each; see `finish`."""
        noise, x0 = ImageNoise(names, self.device), to_signed(images)
        told, drawn = labels if self.conditional else None, []
        for t, weight in self.diffusion.times_and_weights(len(x0), noise, HELD_TIMES):
            normal = noise.normal(*self.spec.shape)
            drawn.append((t, weight * self._step_kl(x0, t, normal, "posterior", told)))
        return drawn

    def _guesses(self, images: Tensor, labels: Tensor, names: Tensor, t: int) -> Tensor:
        """The network's x_0, float [B, C, H, W], at one draw of x_t for each of training images."""
        found = []
        for some, named, told in zip(
            *(each.split(self.params.training.batch) for each in (images, names, labels)),
            strict=True,
        ):
            noise = ImageNoise(named, self.device).normal(*self.spec.shape)
            found.append(self._guess(some, t, noise, told if self.conditional else None)[1])
        return torch.cat(found)

    def _guess(
        self, images: Tensor, t: int, noise: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x_t of images, uint8 [B, C, H, W], and the network's x_0 given that."""
        times = torch.full((len(images),), t, device=self.device)
        x_t = self.diffusion.noisy(to_signed(images), times, noise)
        return x_t, self.predict_x0(x_t, times, labels)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """The variational bound (DDPM, equation 5); see `core.contract.HasLikelihood`.

        Of log p(x|y) where the model is given labels, without guidance, which is no distribution.
        The chain ends at the decoder's time, and with ``scoring.times`` = K > 0 the sum over those
        after it is estimated without bias from K times per image.
        """
        noise = ImageNoise(seeds, self.device)
        x0 = to_signed(images)
        prior = self.diffusion.prior_kl(x0)
        if self.params.scoring.decoder == "gaussian":
            first, of = 1, "the chain down to t = 1, and a Gaussian decoder"
            decoder = self._gaussian_log_prob(images, noise, labels)
        else:
            first = int(self.decoder.time)
            of = f"the chain down to t = {first}, and levels counted on training images"
            decoder = self._level_log_prob(images, first, noise, labels)
        kl = torch.zeros_like(prior)
        scoring = self.params.scoring
        for t, weight in self.diffusion.times_and_weights(len(x0), noise, scoring.times, first):
            drawn = noise.normal(*self.spec.shape)
            kl += weight * self._step_kl(x0, t, drawn, scoring.variance, labels)
        return Likelihood(
            nats=decoder - kl - prior,
            bound="vlb",
            terms={"decoder": decoder, "diffusion": -kl, "prior": -prior},
            of=of,
        )

    def _step_kl(
        self, x0: Tensor, t: Tensor, noise: Tensor, kind: str, labels: Tensor | None = None
    ) -> Tensor:
        """`Diffusion.step_kl` at one draw of x_t."""
        x_t = self.diffusion.noisy(x0, t, noise)
        return self.diffusion.step_kl(x0, self.predict_x0(x_t, t, labels), x_t, t, kind)

    def _level_log_prob(
        self, images: Tensor, t: int, noise: ImageNoise, labels: Tensor | None
    ) -> Tensor:
        """log p(x_0|x_t) by the counts of levels at their time t, in nats, float64 [B]."""
        _, guess = self._guess(images, t, noise.normal(*self.spec.shape), labels)
        return self.decoder.log_prob(guess, images)

    def _gaussian_log_prob(
        self, images: Tensor, noise: ImageNoise, labels: Tensor | None
    ) -> Tensor:
        """log p(x_0|x_1) of the discrete image in nats, float64 [B] (DDPM, equation 13)."""
        x_1, guess = self._guess(images, 1, noise.normal(*self.spec.shape), labels)
        t = torch.ones(len(images), dtype=torch.long, device=self.device)
        mean = self.diffusion.posterior_mean(guess, x_1, t)
        variance = self.diffusion.model_variance(t, self.params.scoring.variance)
        log_scale = (0.5 * variance.log())[:, None, None, None]
        log_p = distributions.gaussian_interval_log_prob(images, mean, log_scale)
        return log_p.double().flatten(1).sum(1)


FAMILY = Ddpm
