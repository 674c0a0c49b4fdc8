"""Transforms against sums over all levels, autograd, and formulas written out."""

import pytest
import torch

from pipeline.blocks.transforms import FLOOR, LevelCdf, Pairs, position

RANGES = [(0, 255), (0, 1), (3, 3), (100, 163), (0, 5000)]
STEPS = 13  # 2^13 are more than 5,001 levels


def cdf(lowest, highest, n=6, mixtures=3, seed=0, dtype=torch.float64, spread=1.0):
    """n transforms of the same levels, float [n, 3K]."""
    rng = torch.Generator().manual_seed(seed)
    params = spread * torch.randn(n, 3 * mixtures, generator=rng, dtype=torch.float64)
    # Scales from wide ones to a tenth of a level of 256.
    params[:, 2 * mixtures :] = -8 * torch.rand(n, mixtures, generator=rng, dtype=torch.float64)
    ends = (torch.full((n,), end) for end in (lowest, highest))
    return LevelCdf(params.to(dtype), *ends)


def every(levels, dtype=torch.float64, **options):
    """A transform of each level of a range, and the levels."""
    count = levels[1] - levels[0] + 1
    one = cdf(*levels, n=1, dtype=dtype, **options)
    many = LevelCdf(
        one.params.expand(count, -1), one.lowest.expand(count), one.highest.expand(count)
    )
    return many, torch.arange(levels[0], levels[1] + 1)


def written_out(one, level, place=0.0):
    """F(level + place) by the definition, a float."""
    logits, means, log_scales = one.params[0].double().chunk(3)
    low, high = int(one.lowest[0]), int(one.highest[0])

    def below(k):
        if k <= low:
            return 0.0
        if k > high:
            return 1.0
        edge = 2 * (k - 0.5 - low) / (high - low) - 1
        scales = log_scales.clamp(-7, 4).exp()
        mixture = (logits.softmax(0) * torch.sigmoid((edge - means) / scales)).sum().item()
        return (1 - FLOOR) * mixture + FLOOR * (k - low) / (high - low + 1)

    return (1 - place) * below(level) + place * below(level + 1)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("dimension", [-1, -2])
def test_pairs_are_neighbours_and_join_again(size, dimension):
    x = torch.rand(2, 3, *((4, size) if dimension == -1 else (size, 4)))
    pairs = Pairs(dimension, size)
    first, second = pairs.split(x)
    assert first.shape == second.shape and first.shape[dimension] == -(-size // 2)
    assert torch.equal(first.select(dimension, 0), x.select(dimension, 0))
    if size > 1:
        assert torch.equal(second.select(dimension, 0), x.select(dimension, 1))
    if size % 2:
        assert (second.select(dimension, -1) == 0).all(), "the neighbour outside"
    assert torch.equal(pairs.join(first, second), x)


def test_positions_go_from_end_to_end():
    levels, low, high = (
        torch.tensor([3, 5, 7, 4]),
        torch.tensor([3, 3, 3, 4]),
        torch.tensor([7] * 3 + [4]),
    )
    assert position(levels, low, high).tolist() == [-1, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", RANGES)
def test_probabilities_of_levels_add_up_to_1(levels, dtype):
    for seed in range(5):
        many, k = every(levels, dtype, seed=seed)
        total = many.log_prob(k).double().exp().sum().item()
        assert total == pytest.approx(1, abs=1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("levels", RANGES)
def test_a_level_has_the_probability_between_its_edges(levels):
    for seed in range(5):
        many, k = every(levels, seed=seed)
        found = many.log_prob(k).exp()
        for i in range(0, len(k), 1 + len(k) // 20):
            level = int(k[i])
            wanted = written_out(many, level + 1) - written_out(many, level)
            assert found[i].item() == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_no_level_is_impossible():
    many, k = every((0, 255), torch.float32, spread=50.0)
    assert many.log_prob(k).exp().min() >= FLOOR / 256 * 0.999


def test_one_level_alone_is_certain():
    alone = cdf(7, 7, dtype=torch.float32)
    torch.testing.assert_close(alone.log_prob(alone.lowest), torch.zeros(6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", RANGES)
def test_z_is_the_logit_of_the_distribution_function(levels):
    many, k = every(levels)
    z, _ = many.to_base(k, torch.full(k.shape, 0.3, dtype=torch.float64))
    for i in range(0, len(k), 1 + len(k) // 20):
        wanted = torch.tensor(written_out(many, int(k[i]), 0.3), dtype=torch.float64)
        torch.testing.assert_close(torch.sigmoid(z[i]), wanted, rtol=1e-7, atol=1e-9)


def test_z_increases_with_y_and_has_no_jump():
    many, k = every((0, 255))
    places = torch.linspace(1e-6, 1 - 1e-6, 5, dtype=torch.float64)
    z = torch.stack([many.to_base(k, places[i].expand(256))[0] for i in range(5)], dim=1)
    assert (z.flatten().diff() > 0).all()
    ends = torch.sigmoid(z[:-1, -1]), torch.sigmoid(z[1:, 0])
    torch.testing.assert_close(*ends, rtol=0, atol=5e-6)


@pytest.mark.parametrize("levels", RANGES)
def test_the_slope_is_that_of_autograd(levels):
    one = cdf(*levels)
    places = torch.rand(6, dtype=torch.float64).clamp(0.01, 0.99).requires_grad_()
    k = torch.linspace(*levels, 6).round().long()
    z, log_det = one.to_base(k, places)
    (slope,) = torch.autograd.grad(z.sum(), places)
    torch.testing.assert_close(log_det, slope.log())


@pytest.mark.parametrize("levels", RANGES)
def test_the_density_of_y_is_the_probability_of_its_level(levels):
    """By the change of variables: log of the logistic density of z, and of the slope."""
    one = cdf(*levels)
    k = torch.linspace(*levels, 6).round().long()
    for place in (0.001, 0.5, 0.93):
        z, log_det = one.to_base(k, torch.full((6,), place, dtype=torch.float64))
        base = -z - 2 * torch.nn.functional.softplus(-z)
        torch.testing.assert_close(base + log_det, one.log_prob(k))


@pytest.mark.parametrize("levels", RANGES)
def test_levels_and_places_come_back(levels):
    one = cdf(*levels, n=400, seed=3)
    rng = torch.Generator().manual_seed(1)
    k = torch.randint(levels[0], levels[1] + 1, (400,), generator=rng)
    places = 0.01 + 0.98 * torch.rand(400, generator=rng, dtype=torch.float64)
    found, place = one.from_base(one.to_base(k, places)[0], STEPS)
    assert torch.equal(found, k)
    torch.testing.assert_close(place, places, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", RANGES)
def test_noise_comes_back(levels):
    one = cdf(*levels, n=400, seed=4)
    u = torch.rand(400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = torch.logit(u.clamp(1e-6, 1 - 1e-6))
    k, places = one.from_base(z, STEPS)
    assert (k >= levels[0]).all() and (k <= levels[1]).all()
    assert (places >= 0).all() and (places <= 1).all()
    torch.testing.assert_close(one.to_base(k, places)[0], z, rtol=0, atol=1e-6)


def test_noise_beyond_all_levels_is_the_outermost():
    one = cdf(0, 255)
    assert torch.equal(one.from_base(torch.full((6,), -1e3), 8)[0], one.lowest)
    assert torch.equal(one.from_base(torch.full((6,), 1e3), 8)[0], one.highest)
