"""Flow matching.

- flow_matching: Lipman et al. 2023, "Flow Matching for Generative Modeling", arXiv:2210.02747, with
  the straight paths of Liu et al. 2023, "Flow Straight and Fast", arXiv:2209.03003, the times of
  Esser et al. 2024, "Scaling Rectified Flow Transformers", arXiv:2403.03206, and the change of
  variables of Chen et al. 2018, arXiv:1806.07366, by the estimate of Grathwohl et al. 2019,
  arXiv:1810.01367.

Noise x_0 moves to an image x_1 on a straight line, x_t = t x_1 + (1 - t) x_0, and the network
learns the mean velocity x_1 - x_0 of all lines through x_t. Samples follow it from noise at time 0.

The flow has a density too. An image is spread over the intervals of its levels
(`blocks.dequantisation`), followed down to noise, and what is reported is a lower bound of its
log-probability as one of 256 levels a value.
"""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.blocks import denoising, ode
from pipeline.blocks import dequantisation as levels
from pipeline.blocks.diffusion import expand
from pipeline.blocks.unet import UNet, UNetNetwork, check
from pipeline.core import precision
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
from pipeline.core.params import ModelParams, Section
from pipeline.core.seeds import BatchNoise, ImageNoise

INVERSION_STEPS = 100
SPREAD = 1 / 6
"""Standard deviation of the last noise, in levels, from which densities are known: the next level
begins three of them away."""
LAST = 1 / (1 + SPREAD / 127.5)
"""The time t with that noise, (1 - t) / t in units where levels are 1 / 127.5 apart."""
PLACES, MIDDLE = 70.0, 500.0
"""Places of the network's embedding for each unit of the log-odds of time, and that of time 1/2."""
EARLIEST, LATEST = 1e-3, 0.95
"""Times before and after are one time each to the network. Few logit-normal times are later than
that one, and a network that is told a time it hardly knows takes noise for black no longer: by a
tenth of a bit per value that made likelihoods of digits worse."""


class FlowMatchingTraining(denoising.GuidedTraining):
    """Times are ``uniform``, or ``logit_normal``, whose log-odds are standard normal.

    The latter are equation 19 of arXiv:2403.03206.
    """

    times: Literal["logit_normal", "uniform"] = "logit_normal"


class FlowMatchingSampling(Section):
    """The solver, and how many steps it takes, all of one length in time; see `blocks.ode.solve`.

    ``euler`` and ``adams`` evaluate the network once a step, ``midpoint`` and ``heun`` twice.
    ``guidance`` is that of a conditional model (arXiv:2207.12598).
    """

    solver: ode.Solver = "adams"
    steps: int = Field(10, ge=1, le=10_000)
    guidance: float = Field(0.0, ge=0, le=100)
    precision: Literal["fp32", "bf16"] = "fp32"


class FlowMatchingScoring(Section):
    """Steps of the flow from image to noise, and how images with levels become continuous."""

    steps: int = Field(20, ge=5, le=10_000)
    dequantisation: levels.Kind = "narrow"


class FlowMatching(Family):
    """A U-Net that knows where an image that is mixed with noise is heading."""

    Network: ClassVar = UNetNetwork
    Training: ClassVar = FlowMatchingTraining
    Sampling: ClassVar = FlowMatchingSampling
    Scoring: ClassVar = FlowMatchingScoring

    inversion_kind = f"the flow down to noise and up again, {INVERSION_STEPS} steps each way"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        check(spec, params)
        self.conditional = params.network.conditional
        self.net = UNet(spec, params.network)

    def groups(self) -> dict[str, Group]:
        return {"model": denoising.group(self, self.params.training)}

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the loss of conditional flow matching; see `loss`."""
        x1 = to_signed(batch.images)
        t = self._training_times(denoising.spread_places(len(x1), rng))
        x0 = BatchNoise(rng).normal(*x1.shape)
        labels = None
        if self.conditional:
            share = self.params.training.label_dropout
            labels = denoising.partly_told(batch.labels, share, self.spec.classes, rng)
        loss = self.loss(x0, x1, t, labels)
        update("model", loss)
        return {"model/loss": loss.detach()}

    def _training_times(self, places: Tensor) -> Tensor:
        """Times in 0..1, float32 [B], of places in [0, 1) that are uniform."""
        if self.params.training.times == "uniform":
            return places * LAST
        return torch.special.ndtri(places).sigmoid().clamp(max=LAST)

    def loss(self, x0: Tensor, x1: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean squared error of the velocity (arXiv:2210.02747, equation 23), a scalar.

        Where an image is black or white, a prediction of what lies beyond is right too, since
        `denoised` takes it for that: such pixels count nothing. The best prediction stays what it
        is without this, the mean, but the network can be sure of a black background without
        knowing the noise on it to the last digit.

        Args:
            x0: noise, float [B, C, H, W].
            x1: images in -1..1, likewise.
            t: times in 0..1, float [B].
            labels: int64 [B], of a conditional model.
        """
        x_t = expand(t) * x1 + expand(1 - t) * x0
        velocity = self._predicted(x_t, t, labels)
        ends = (x_t + expand(1 - t) * velocity).clamp(-1, 1)
        return torch.where(ends == x1, 0.0, velocity - (x1 - x0)).square().mean()

    def _predicted(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, guidance: float = 0.0
    ) -> Tensor:
        """The network's velocity, [B, C, H, W], at times t [B], where x_1 may be out of range.

        It is told the log-odds of t, half the logarithm of signal to noise.
        """
        place = PLACES * torch.logit(t.clamp(EARLIEST, LATEST)) + MIDDLE
        return denoising.guided(self.net, x_t, place, labels, guidance, self.spec.classes)

    def denoised(
        self, x_t: Tensor, t: float, labels: Tensor | None = None, guidance: float = 0.0
    ) -> Tensor:
        """The network's idea of x_1 given x_t and labels: where the line ends, in -1..1."""
        times = torch.full((len(x_t),), t, device=x_t.device)
        return (x_t + (1 - t) * self._predicted(x_t, times, labels, guidance)).clamp(-1, 1)

    def velocity(
        self, x_t: Tensor, t: float, labels: Tensor | None = None, guidance: float = 0.0
    ) -> Tensor:
        """dx/dt at x_t, [B, C, H, W], towards `denoised`; for t < 1."""
        return (self.denoised(x_t, t, labels, guidance) - x_t) / (1 - t)

    def facts(self) -> dict[str, str]:
        """What its likelihood is of, and what is estimated."""
        return {
            "density": f"of the flow until noise is {SPREAD:.2f} levels, by steps and random traces"
        }

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """From noise to images by ``sampling.solver``; see `core.contract.Samples`."""
        for x in self._drawn(seeds, labels):
            last = x
        return to_uint8(last)

    def _drawn(self, seeds: Tensor, labels: Tensor | None) -> Iterator[Tensor]:
        """x at each of the sampler's times, from noise to image, float [n, C, H, W]."""
        sampling = self.params.sampling
        noise = ImageNoise(seeds, self.device).normal(*self.spec.shape)

        def velocity(x: Tensor, t: float) -> Tensor:
            with precision.autocast(self.device, sampling.precision):
                return self.velocity(x, t, labels, sampling.guidance)

        times = [i / sampling.steps for i in range(sampling.steps + 1)]
        return ode.solve(velocity, noise, times, sampling.solver)

    @property
    def network_evaluations(self) -> int:
        """Those of the solver, each twice if it is guided."""
        sampling = self.params.sampling
        guided = self.conditional and sampling.guidance > 0
        return ode.evaluations(sampling.solver, sampling.steps) * (1 + guided)

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """``flow``: a row for each seed, from noise to image, at up to ten even steps."""
        states = self._drawn(seeds, batch.labels if self.conditional else None)
        return {"flow": denoising.picture([*map(to_uint8, states)])}

    @torch.no_grad()
    def invert(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """The flow from an image down to noise, and up again; see `core.contract.Inverts`.

        There is nothing to search, so ``seeds`` are not used. It starts at the time `LAST`, with no
        noise on the image, and is not guided.
        """
        down = ode.even_depths(LAST, 0.0, INVERSION_STEPS)

        def denoise(x: Tensor, t: float) -> Tensor:
            return self.denoised(x, t, labels)

        *_, (noise, _) = ode.solve_by_depth(denoise, LAST * to_signed(images), down)
        *_, (_, found) = ode.solve_by_depth(denoise, noise, down[::-1])
        return to_uint8(found)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """A bound by one draw of q(u|x), at the estimated density of x + u.

        See `core.contract.HasLikelihood` and `blocks.dequantisation`. Of log p(x|y) where the model
        is given labels, without guidance, which is no distribution.
        """
        noise, kind = ImageNoise(seeds, self.device), self.params.scoring.dequantisation
        offset, log_q = levels.draw(images, noise.uniform(*self.spec.shape), kind, SPREAD)
        x = LAST * (to_signed(images).double() + offset / 127.5)
        # From a density in x to one in levels.
        units = self.spec.dimensions * math.log(LAST / 127.5)
        density = self.log_density(x.float(), labels, noise) + units
        gap = -log_q.flatten(1).sum(1)
        return Likelihood(
            nats=density + gap,
            bound="elbo",
            terms={"log_density": density, "dequantisation": gap},
        )

    def log_density(self, x: Tensor, labels: Tensor | None, noise: ImageNoise) -> Tensor:
        """log p of x [B, C, H, W] at the time `LAST`, in nats, float64 [B].

        With the depth tau = -log(1 - t) in place of t, along the flow

            d log p / d tau = D - tr(d denoised / dx),

        as many of the D dimensions as are told from noise at that time: a number between 0 and D
        that changes slowly, so that few steps do.
        """
        told: list[Tensor] = []

        def denoise(x: Tensor, t: float) -> Tensor:
            direction = 2.0 * noise.integers(2, *self.spec.shape) - 1
            found, trace = ode.hutchinson(lambda x: self.denoised(x, t, labels), x, direction)
            told.append(self.spec.dimensions - trace)
            return found

        times = ode.even_depths(LAST, 0.0, self.params.scoring.steps)
        *_, (x0, _) = ode.solve_by_depth(denoise, x, times)
        start = -0.5 * (x0.double().square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return start + ode.integral(told, -math.log1p(-LAST))


FAMILY = FlowMatching
