"""Flows: ordinary differential equations that carry noise at time 0 to images at time 1.

Solvers with a fixed number of steps, and what tells how a flow changes densities (Chen et al. 2018,
"Neural Ordinary Differential Equations", arXiv:1806.07366, theorem 1): d log p(x_t) / dt is less
the trace of dv/dx, which is estimated by random directions (Grathwohl et al. 2019, "FFJORD",
arXiv:1810.01367, section 3.1).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""x [B, ...] at a time to dx/dt, or to what else is of that shape."""
Solver = Literal["euler", "midpoint", "heun", "adams"]


def evaluations(solver: Solver, steps: int) -> int:
    """How often `solve` asks for the velocity in so many steps that end at time 1."""
    return {"euler": steps, "adams": steps, "midpoint": 2 * steps, "heun": 2 * steps - 1}[solver]


def solve(
    velocity: Velocity, x: Tensor, times: Sequence[float], solver: Solver
) -> Iterator[Tensor]:
    """x at each of the times, of which the first is the given one; up or down.

    - euler: of first order; exact where the paths are straight.
    - midpoint, heun: Runge-Kutta methods of second order, two evaluations a step.
    - adams: that of Adams and Bashforth, of second order with one evaluation a step, for which it
      takes the one of the step before; its first step is Euler's.

    The velocity is never asked for at time 1, where there is no noise to tell it by: a step that
    ends there is Euler's with heun, and with adams, whose line through two velocities would leave
    the range of images.
    """
    yield x
    before: tuple[float, Tensor] | None = None  # the last step's length and velocity
    for now, then in pairwise(times):
        step = then - now
        here = v = velocity(x, now)
        if solver == "midpoint":
            v = velocity(x + 0.5 * step * here, now + 0.5 * step)
        elif solver == "heun" and then < 1:
            v = 0.5 * (here + velocity(x + step * here, then))
        elif solver == "adams" and before is not None and then < 1:
            v = here + 0.5 * step / before[0] * (here - before[1])
        before = (step, here)
        x = x + step * v
        yield x


def even_depths(first: float, last: float, steps: int) -> list[float]:
    """Times, both ends included, at even steps of the depth tau = -log(1 - t); for t < 1.

    Near 1, where what is left of the noise is 1 - t, they divide it by the same each time.
    """
    start, end = -math.log1p(-first), -math.log1p(-last)
    within = [start + (end - start) * i / steps for i in range(1, steps)]
    return [first, *(-math.expm1(-tau) for tau in within), last]


def solve_by_depth(
    denoise: Velocity, x: Tensor, times: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """x at each of times that are `even_depths`, and ``denoise`` there, where its line ends.

    In tau, dx/dtau = denoise(x) - x. What is linear is solved exactly; the rest is the parabola
    through the last three values, from which a step is predicted, and then through the new one and
    two before it, with which it is done again: an exponential method of Adams, Bashforth and
    Moulton, of third order with one evaluation a step (Zhao et al. 2023, "UniPC", arXiv:2302.04867,
    have the general form). The value given with x is the one at the prediction.

    From an image down to noise a difference of x grows by the factor that the noise does, where
    this is far more accurate than `solve`.
    """
    known = [denoise(x, times[0])]
    yield x, known[0]
    for now, then in pairwise(times):
        step = math.log1p(-now) - math.log1p(-then)
        # Integrals of step exp(step (s - 1)) over s = 0..1, with the factors 1, s and s^2.
        one = -math.expm1(-step)
        linear = 1 - one / step
        square = 1 - 2 * linear / step
        last, *before = known
        base = (1 - one) * x + one * last
        guess = base
        if before:
            guess = guess + linear * (last - before[0])
        if len(before) > 1:
            guess = guess + 0.5 * (linear + square) * (last - 2 * before[0] + before[1])
        reached = denoise(guess, then)
        if before:
            bend = 0.5 * (reached - 2 * last + before[0])
            x = base + linear * 0.5 * (reached - before[0]) + square * bend
        else:
            x = base + linear * (reached - last)
        known = [reached, last, *before][:3]
        yield x, reached


def hutchinson(
    function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """``function(x)``, and for each image an unbiased estimate of the trace of its Jacobian.

    It is e^T (df/dx) e of the given direction e, whose values are -1 or 1, each as often: e has
    the covariance that it takes, and of all such directions the smallest variance (Hutchinson
    1990). No image's value may depend on another image.

    Args:
        function: float [B, ...] to the same shape.
        x: float [B, ...].
        direction: float [B, ...].

    Returns:
        [B, ...], without its graph, and float64 [B].
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        (gradient,) = torch.autograd.grad((value * direction).sum(), x)
    return value.detach(), (gradient * direction).double().flatten(1).sum(1)


def integral(values: Sequence[Tensor], length: float) -> Tensor:
    """Of values [B] that are known at six or more even places, over that length; exact for cubics.

    The trapezoidal rule with Gregory's corrections at both ends.
    """
    weights = torch.ones(len(values), dtype=torch.float64)
    ends = torch.tensor([3 / 8, 7 / 6, 23 / 24], dtype=torch.float64)
    weights[:3], weights[-3:] = ends, ends.flip(0)
    step = length / (len(values) - 1)
    return step * (weights.to(values[0].device) @ torch.stack(list(values)).double())
