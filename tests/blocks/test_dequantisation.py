import math

import pytest
import torch
from scipy.stats import truncnorm

from pipeline.blocks import dequantisation

SPREAD = 1 / 6
KINDS = pytest.mark.parametrize("kind", ["uniform", "narrow"])
ALL = torch.arange(256, dtype=torch.uint8)


def midpoints(n):
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@KINDS
def test_an_image_stays_in_the_interval_of_its_level(kind):
    for variate in (0.0, 1e-6, 0.3, 1 - 2**-24):
        offset, log_q = dequantisation.draw(ALL, torch.full((256,), variate), kind, SPREAD)
        assert torch.isfinite(offset).all() and torch.isfinite(log_q).all()
        assert (offset[1:] >= -0.5).all() and (offset[:-1] <= 0.5).all()


@KINDS
def test_the_density_is_that_of_the_draws(kind):
    """Variates at even steps: a density times the distance of two draws is that step."""
    n = 20_000
    for level in (0, 1, 254, 255):
        image = torch.full((n,), level, dtype=torch.uint8)
        offset, log_q = dequantisation.draw(image, midpoints(n), kind, SPREAD)
        density = 0.5 * (log_q[1:].exp() + log_q[:-1].exp())
        share = (density * offset.diff().abs() * n)[100:-100]
        torch.testing.assert_close(share, torch.ones_like(share), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("level", "sides"), [(0, (-math.inf, 0.5)), (255, (-0.5, math.inf))])
def test_narrow_is_scipys_truncated_normal_at_the_outermost_levels(level, sides):
    n = 1000
    image = torch.full((n,), level, dtype=torch.uint8)
    offset, log_q = dequantisation.draw(image, midpoints(n), "narrow", SPREAD)
    expected = truncnorm(*(each / SPREAD for each in sides), scale=SPREAD)
    torch.testing.assert_close(log_q, torch.from_numpy(expected.logpdf(offset.numpy())))
    order = midpoints(n) if level == 0 else 1 - midpoints(n)
    torch.testing.assert_close(torch.from_numpy(expected.cdf(offset.numpy())), order)


def test_levels_between_have_uniform_noise():
    offset, log_q = dequantisation.draw(
        ALL[1:-1], torch.linspace(0.01, 0.99, 254), "narrow", SPREAD
    )
    torch.testing.assert_close(offset, torch.linspace(0.01, 0.99, 254).double() - 0.5)
    assert (log_q == 0).all()
