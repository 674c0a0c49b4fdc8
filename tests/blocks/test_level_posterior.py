import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.blocks.level_posterior import LevelPosterior

SEEN = [0.002, 0.05, 0.4, 2.0]
"""Standard deviations of noise."""


def seen_through(sigma, shape=(2, 1, 4, 4), gaussians=3, seed=0):
    """A posterior block with a rough histogram, and what it knows of some z."""
    rng = torch.Generator().manual_seed(seed)
    block = LevelPosterior(shape[1], gaussians)
    nn.init.normal_(block.levels, std=0.05, generator=rng)
    output = torch.randn(shape[0], block.values, *shape[2:], generator=rng)
    z = 0.9 * (2 * torch.rand(shape, generator=rng) - 1)
    alpha, noise = (torch.full((shape[0], 1, 1, 1), each) for each in (0.9, sigma))
    with torch.no_grad():
        return block, block(output, z, alpha, noise), output


def of_all_levels(block, known):
    """log p of every level, [256, B, C, H, W]."""
    return torch.stack(
        [block.log_prob(torch.full(known.z.shape, k, dtype=torch.uint8), known) for k in range(256)]
    ).detach()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", SEEN)
def test_probabilities_of_256_levels_sum_to_one(sigma, channels):
    block, known, _ = seen_through(sigma, (2, channels, 4, 4))
    total = of_all_levels(block, known).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
def test_the_mean_is_bayes_rule_by_brute_force(sigma):
    """Of black, white and Gaussians, on a grid of x; with Gaussians that stay inside."""
    block, known, output = seen_through(sigma, (1, 1, 2, 2))
    x = torch.linspace(-9, 9, 400_001, dtype=torch.float64)
    found = known.mean()
    for row in range(2):
        for column in range(2):
            values = output[0, :, row, column].double()
            z = known.z[0, 0, row, column].double()
            logits, means, widths = values[:5], values[6:9], values[9:12]
            means = means + block.spread.flatten().double()
            widths = (widths - 1).clamp(-5, 1).exp()
            mass = torch.distributions.Normal(means, widths).log_prob(x[:, None]).exp()
            likely = torch.distributions.Normal(0.9 * x, sigma).log_prob(z).exp()
            each = (mass * likely[:, None]).sum(0) * (x[1] - x[0])
            mean = (mass * likely[:, None] * x[:, None]).sum(0) * (x[1] - x[0]) / each
            ends = torch.distributions.Normal(
                0.9 * torch.tensor([-1.0, 1.0], dtype=torch.float64), sigma
            )
            weights = logits.exp() * torch.cat([ends.log_prob(z).exp(), each])
            every = torch.cat([torch.tensor([-1.0, 1.0]), mean.clamp(-1, 1)])
            expected = (weights * every).sum() / weights.sum()
            assert found[0, 0, row, column].item() == pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize("sigma", SEEN[:3])
def test_a_flat_histogram_alone_is_the_papers_decoder(sigma):
    block, known, _ = seen_through(sigma)
    nn.init.zeros_(block.levels)
    known.histogram.add_(1e4)
    levels = torch.linspace(-1, 1, 256)[:, None, None, None, None]
    expected = (-0.5 * ((known.z - 0.9 * levels) / sigma) ** 2).log_softmax(0)
    likely = expected > -50
    torch.testing.assert_close(
        of_all_levels(block, known)[likely], expected[likely], rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("sigma", SEEN[1:])
def test_the_decoded_mean_is_that_of_the_probabilities(sigma):
    block, known, _ = seen_through(sigma)
    levels = torch.linspace(-1, 1, 256)[:, None, None, None, None]
    expected = (of_all_levels(block, known).exp() * levels).sum(0)
    torch.testing.assert_close(block.mean(known).detach(), expected, rtol=0, atol=4e-3)


def test_draws_have_the_probabilities():
    block, known, _ = seen_through(0.4, (1, 1, 1, 1))
    n = 20_000
    many = type(known)(*(each.expand(n, *each.shape[1:]) for each in vars(known).values()))
    uniform = torch.rand(n, 4, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    drawn = block.draw(many, uniform).flatten().numpy()
    expected = of_all_levels(block, known).exp().flatten().numpy()
    for cut in (1, 30, 100, 200, 255):
        share = expected[:cut].sum()
        deviation = math.sqrt(share * (1 - share) / n)
        assert abs((drawn < cut).mean() - share) < 4.5 * deviation + 3e-4


@pytest.mark.parametrize("sigma", [0.0013, *SEEN])
def test_gradients_are_finite_for_any_noise(sigma):
    block = LevelPosterior(1, 2)
    rng = torch.Generator().manual_seed(0)
    output = (5 * torch.randn(1, block.values, 4, 4, generator=rng)).requires_grad_()
    alpha, noise = torch.full((1, 1, 1, 1), 0.9), torch.full((1, 1, 1, 1), sigma)
    known = block(output, 3 * torch.randn(1, 1, 4, 4, generator=rng), alpha, noise)
    images = torch.randint(256, (1, 1, 4, 4), generator=rng, dtype=torch.uint8)
    (block.log_prob(images, known).sum() + known.mean().sum()).backward()
    assert all(torch.isfinite(each).all() for each in (output.grad, block.levels.grad))
    assert np.isfinite(block.mean(known).detach()).all()
