import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.blocks import ode

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "adams": 2}
SOLVERS = pytest.mark.parametrize("solver", ORDERS)


def end(solver, times, velocity, start=1.0):
    x = torch.tensor([[start]], dtype=torch.float64)
    return [state.item() for state in ode.solve(velocity, x, times, solver)]


def even(steps, first=0.0, last=1.0):
    return np.linspace(first, last, steps + 1).tolist()


def uneven(steps):
    """Times down from near 1, where they lie close together, as those of a likelihood do."""
    return (1 - 0.01 ** np.linspace(1, 0, steps + 1)).tolist()


@SOLVERS
@pytest.mark.parametrize("places", [even, uneven])
def test_the_error_falls_with_the_order(solver, places):
    """Of logistic growth, dx/dt = 3 x (1 - x), whose solution is a logistic function."""
    errors = []
    for steps in (40, 80, 160):
        times = places(steps)
        start, exact = (1 / (1 + math.exp(-3 * t)) for t in (times[0], times[-1]))
        found = end(solver, times, lambda x, _: 3 * x * (1 - x), start)[-1]
        errors.append(abs(found - exact))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates == pytest.approx([ORDERS[solver]] * 2, abs=0.3), errors


@SOLVERS
def test_straight_paths_need_one_step(solver):
    found = end(solver, [0.0, 1.0], lambda x, t: torch.full_like(x, 2.5))
    assert found == [1.0, 3.5]


@SOLVERS
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_evaluations_are_counted_and_none_is_at_time_one(solver, steps):
    asked = []

    def velocity(x, t):
        asked.append(t)
        return -x

    assert len(end(solver, even(steps), velocity)) == steps + 1
    assert len(asked) == ode.evaluations(solver, steps)
    assert max(asked) < 1


@SOLVERS
def test_the_last_step_ends_where_the_line_does(solver):
    """With the velocity towards 0.25 from anywhere, every solver ends there."""
    found = end(solver, even(4), lambda x, t: (0.25 - x) / (1 - t), start=-3.0)
    assert found[-1] == pytest.approx(0.25, abs=1e-12)


def some_function(x):
    """Of images [B, 1, 4, 4], each value depending on all of the image, and on no other image."""
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return (torch.tanh(x.flatten(1) @ weight) * x.flatten(1).sum(1, keepdim=True)).view_as(x)


def exact_traces(x):
    return torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda one: some_function(one[None]).flatten(), image
            )
            .flatten(1)
            .trace()
            for image in x
        ]
    )


def images(n):
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_unit_directions_give_the_trace_of_autograds_jacobian():
    """The sum over the 16 unit vectors, each seen alone, has no variance at all."""
    x = images(3)
    found = sum(
        ode.hutchinson(some_function, x, unit.view(1, 1, 4, 4).expand_as(x))[1]
        for unit in torch.eye(16, dtype=torch.float64)
    )
    torch.testing.assert_close(found, exact_traces(x))


def test_random_directions_give_it_on_average_with_the_variance_of_their_signs():
    """Var = sum over i < j of (J_ij + J_ji)^2 for signs (Hutchinson 1990)."""
    n, x = 20_000, images(1)
    rng = torch.Generator().manual_seed(2)
    signs = 2.0 * torch.randint(2, (n, 1, 4, 4), generator=rng, dtype=torch.float64) - 1
    value, found = ode.hutchinson(some_function, x.expand(n, -1, -1, -1), signs)
    assert not value.requires_grad and found.dtype == torch.float64
    torch.testing.assert_close(value[:1], some_function(x))
    jacobian = torch.autograd.functional.jacobian(
        lambda one: some_function(one[None]).flatten(), x[0]
    ).flatten(1)
    both = (jacobian + jacobian.T).triu(1)
    assert found.var().item() == pytest.approx(both.square().sum().item(), rel=0.1)
    error = found.std().item() / math.sqrt(n)
    assert abs(found.mean() - exact_traces(x)[0]).item() < 4 * error


def test_even_depths_divide_the_noise_by_the_same_each_time():
    for first, last in ((0.999, 0.0), (0.0, 0.999)):
        times = ode.even_depths(first, last, 7)
        assert (times[0], times[-1], len(times)) == (first, last, 8)
        ratios = [(1 - then) / (1 - now) for now, then in pairwise(times)]
        assert ratios == pytest.approx([((1 - last) / (1 - first)) ** (1 / 7)] * 7)


def of_gaussian(x, t, spread=0.3):
    """The mean of x_1 given x_t where x_1 is normal with that standard deviation and mean 0."""
    return t * spread**2 / (t**2 * spread**2 + (1 - t) ** 2) * x


@pytest.mark.parametrize(("first", "last"), [(0.99, 0.0), (0.0, 0.99)])
def test_by_depth_the_error_falls_with_the_third_order(first, last, spread=0.3):
    """x over its standard deviation does not change, which is the closed form of the ode."""
    deviation = [math.hypot(t * spread, 1 - t) for t in (first, last)]
    errors = []
    for steps in (20, 40, 80):
        times = ode.even_depths(first, last, steps)
        start = torch.tensor([[deviation[0]]], dtype=torch.float64)
        *_, (x, ends) = ode.solve_by_depth(of_gaussian, start, times)
        assert ends.item() == pytest.approx(of_gaussian(x, last).item(), abs=1e-2)
        errors.append(abs(x.item() - deviation[1]))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert errors[-1] < 1e-5
    assert min(rates) > 2.5, (errors, rates)


def test_by_depth_what_is_linear_is_exact():
    """Where all lines end at one image, the noise on it grows or shrinks as it should."""
    times = ode.even_depths(0.99, 0.0, 8)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    *_, (found, ends) = ode.solve_by_depth(lambda x, _: torch.full_like(x, 0.7), x, times)
    assert ends.item() == 0.7
    assert found.item() == pytest.approx(0.7 * 0 + (2.0 - 0.7 * 0.99) * 100)


@pytest.mark.parametrize("places", [6, 7, 20])
def test_integrals_are_exact_for_cubics(places):
    x = torch.linspace(0, 2, places, dtype=torch.float64)
    values = [torch.stack([4 * each**3 - each + 1, each * 0 + 3]) for each in x]
    expected = torch.tensor([16 - 2 + 2, 6], dtype=torch.float64)
    torch.testing.assert_close(ode.integral(values, 2.0), expected)
