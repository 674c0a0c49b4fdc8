import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.blocks import distributions
from pipeline.blocks.distributions import PixelMixture
from pipeline.core.contract import to_signed, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)
CENTRES = 2 * np.arange(256) / 255 - 1
EDGES = np.concatenate([[-np.inf], CENTRES[:-1] + 1 / 255, [np.inf]])


def mixture(logits, means, log_scales):
    """Parameters [1, 3K, 1] of one pixel."""
    return torch.tensor([*logits, *means, *log_scales], dtype=torch.float32)[None, :, None]


def random_mixture(seed, components=3, spread=0.5, scales=(-5.0, 0.0)):
    rng = np.random.default_rng(seed)
    return mixture(
        rng.normal(size=components),
        spread * rng.normal(size=components),
        rng.uniform(*scales, components),
    )


def level_log_probs(params):
    """log P of all 256 levels, float64 [256]."""
    expanded = params.expand(256, -1, -1)
    return distributions.logistic_mixture_log_prob(LEVELS[:, None], expanded)[:, 0].double()


def interval_probability(distribution, lower, upper):
    """P(lower < X <= upper) in float64, from whichever tail is shorter."""
    right = lower > distribution.mean()
    return np.where(
        right,
        distribution.sf(lower) - distribution.sf(upper),
        distribution.cdf(upper) - distribution.cdf(lower),
    )


def brute_force(params):
    """P of all 256 levels from scipy's logistic distribution."""
    logits, means, log_scales = params[0, :, 0].double().numpy().reshape(3, -1)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    total = np.zeros(256)
    for weight, mean, log_scale in zip(probabilities, means, log_scales, strict=True):
        distribution = stats.logistic(mean, np.exp(log_scale))
        total += weight * interval_probability(distribution, EDGES[:-1], EDGES[1:])
    return total


@pytest.mark.parametrize("seed", range(5))
def test_mixture_sums_to_one(seed):
    assert level_log_probs(random_mixture(seed)).exp().sum() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("mean", [-1e6, -1e4, -100.0, -1.5, -1.0, 0.0, 0.3, 1.0, 1.5, 100.0, 1e6])
@pytest.mark.parametrize("log_scale", [-100.0, -7.0, -3.0, 0.0, 4.0, 100.0])
def test_mixture_sums_to_one_at_the_extremes(mean, log_scale):
    log_probs = level_log_probs(mixture([0.0], [mean], [log_scale]))
    assert torch.isfinite(log_probs).all()
    assert log_probs.exp().sum() == pytest.approx(1, abs=5e-5)


@pytest.mark.parametrize("mean", [-1e6, -1.0, 0.0, 1e6])
@pytest.mark.parametrize("log_scale", [-100.0, -7.0, 4.0])
def test_mixture_gradients_are_finite_at_the_extremes(mean, log_scale):
    params = mixture([0.0, 1.0], [mean, 0.1], [log_scale, -1.0]).requires_grad_()
    expanded = params.expand(256, -1, -1)
    distributions.logistic_mixture_log_prob(LEVELS[:, None], expanded).sum().backward()
    assert torch.isfinite(params.grad).all()


@pytest.mark.parametrize("seed", range(5))
def test_mixture_equals_brute_force(seed):
    params = random_mixture(seed, scales=(-6.9, 1.0))
    expected = brute_force(params)
    visible = expected > 1e-300
    found = level_log_probs(params).numpy()
    np.testing.assert_allclose(found[visible], np.log(expected[visible]), rtol=1e-4, atol=1e-4)


def test_mixture_scores_each_pixel_and_channel_by_its_own_parameters():
    rng = torch.Generator().manual_seed(0)
    params = torch.randn(2, 6, 3, 4, 5, generator=rng)
    images = torch.randint(256, (2, 3, 4, 5), generator=rng, dtype=torch.uint8)
    found = distributions.logistic_mixture_log_prob(images, params)
    assert found.shape == images.shape
    alone = distributions.logistic_mixture_log_prob(
        images[1:, 2:, 1:2, 3:4], params[1:, :, 2:, 1:2, 3:4]
    )
    assert found[1, 2, 1, 3] == alone.item()


@pytest.mark.parametrize("seed", range(4))
def test_mixture_samples_have_the_probabilities(seed):
    params = random_mixture(seed, scales=(-5.0, 0.0))
    n = 200_000
    rng = torch.Generator().manual_seed(seed)
    choice, position = torch.rand(2, 1, n, generator=rng)
    drawn = distributions.logistic_mixture_sample(params.expand(1, -1, n), choice, position)
    counts = np.bincount(drawn.flatten().numpy(), minlength=256)
    expected = n * level_log_probs(params).exp().numpy()
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    chi_square = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert stats.chi2.sf(chi_square, len(observed) - 1) > 1e-4


def test_mixture_samples_of_extreme_variates_are_levels():
    edge = torch.tensor([[0.0, 1 - 2**-24, 0.0, 1 - 2**-24]])
    drawn = distributions.logistic_mixture_sample(
        mixture([0.0], [0.0], [4.0]).expand(1, -1, 4), edge, edge.flip(1)
    )
    assert set(drawn.flatten().tolist()) == {0, 255}


@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_mixture_mean_is_the_expected_level(seed, spread):
    params = random_mixture(seed, spread=spread, scales=(-5.0, 1.0))
    expected = (level_log_probs(params).exp().numpy() * CENTRES).sum()
    found = distributions.logistic_mixture_mean(params).item()
    assert found == pytest.approx(expected, abs=0.5 / 255)


def test_mixture_mean_counts_what_is_outside_as_the_outermost_level():
    params = mixture([0.0, 0.0], [-5.0, 3.0], [-5.0, -5.0])
    assert distributions.logistic_mixture_mean(params).item() == pytest.approx(0, abs=1e-5)


def pixel_mixture(seed=0, channels=3, components=2, shape=(2, 2, 3), spread=0.5, scales=(-4, 0)):
    """For ``shape`` (images, height, width), with slopes of all sizes up to 1."""
    batch, *size = shape
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(
        batch, PixelMixture.values(channels, components), *size, generator=rng
    ).mul_(1.5)
    found = PixelMixture.split(values, channels)
    logits, means, log_scales = found.params.chunk(3, dim=1)
    low, high = scales
    log_scales = low + (high - low) * torch.sigmoid(log_scales)
    return PixelMixture(torch.cat([logits, spread * means, log_scales], dim=1), found.slopes)


def uint8_images(n, channels, *size, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, *size), generator=rng, dtype=torch.uint8)


def expanded(mixture, n):
    """The mixture of one image for n of them."""
    return PixelMixture(*(each.expand(n, *each.shape[1:]) for each in vars(mixture).values()))


def test_a_pixel_mixture_is_split_from_as_many_values_as_it_says():
    """12 and so many slopes: none of grey, 1 of two channels, 3 of colour, times the components."""
    assert [PixelMixture.values(channels, 4) for channels in (1, 2, 3)] == [12, 28, 48]
    values = 9 * torch.arange(2 * 48 * 20.0).view(2, 48, 4, 5).sin()
    found = PixelMixture.split(values, 3)
    assert found.params.shape == (2, 12, 3, 4, 5) and found.slopes.shape == (2, 4, 3, 4, 5)
    assert torch.equal(found.params.flatten(1, 2), values[:, :36])
    torch.testing.assert_close(found.slopes.flatten(1, 2), values[:, 36:].tanh())
    assert PixelMixture.split(values, 1).slopes is None


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_levels_of_a_channel_sum_to_one_given_those_before_it(channels, seed):
    mixture = expanded(pixel_mixture(seed, channels, shape=(1, 2, 3)), 256)
    for channel in range(channels):
        images = uint8_images(1, channels, 2, 3, seed=seed).repeat(256, 1, 1, 1)
        images[:, channel] = LEVELS[:, None, None]
        total = mixture.log_prob(images).double().exp()[:, channel].sum(dim=0)
        torch.testing.assert_close(total, torch.ones_like(total), atol=3e-5, rtol=0)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_pixel_mixture_equals_brute_force_at_moved_means(channels, seed):
    """In float64 with scipy's logistic distribution, one pixel and one component at a time."""
    mixture, images = pixel_mixture(seed, channels), uint8_images(2, channels, 2, 3, seed=seed)
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    found = mixture.log_prob(images)
    assert found.shape == images.shape and found.dtype == torch.float32
    slopes = mixture.slopes.double().numpy()
    pairs = [(c, before) for c in range(channels) for before in range(c)]
    for n, c, row, column in itertools.product(range(2), range(channels), range(2), range(3)):
        levels = images[n, :, row, column].tolist()
        logits, means, log_scales = (
            mixture.params[n, :, c, row, column].double().numpy().reshape(3, -1)
        )
        weights, total = np.exp(logits) / np.exp(logits).sum(), 0.0
        for k, weight in enumerate(weights):
            moved = means[k] + sum(
                slopes[n, k, pairs.index((c, before)), row, column] * CENTRES[levels[before]]
                for before in range(c)
            )
            logistic = stats.logistic(moved, np.exp(log_scales[k]))
            lower, upper = EDGES[levels[c]], EDGES[levels[c] + 1]
            total += weight * interval_probability(logistic, lower, upper)
        assert found[n, c, row, column].item() == pytest.approx(np.log(total), abs=1e-4)


def joint(mixture):
    """P of all pairs of levels of two channels of one pixel, float64 [256, 256]."""
    pairs = torch.cartesian_prod(LEVELS, LEVELS)[:, :, None, None]
    nats = expanded(mixture, 65536).log_prob(pairs)
    return nats.double().sum(dim=1).exp().view(256, 256)


@pytest.mark.parametrize("seed", range(2))
def test_pairs_of_levels_are_a_distribution_and_depend_on_each_other(seed):
    mixture = pixel_mixture(seed, channels=2, shape=(1, 1, 1), scales=(-3, -1))
    found = joint(mixture)
    assert found.sum().item() == pytest.approx(1, abs=3e-5)
    # The first channel is what a mixture alone says of it; the second is not.
    alone = [level_log_probs(mixture.params[:, :, c, 0]).exp() for c in range(2)]
    torch.testing.assert_close(found.sum(dim=1), alone[0], atol=1e-6, rtol=1e-3)
    independent = found.sum(dim=1, keepdim=True) * found.sum(dim=0, keepdim=True)
    assert (found - independent).abs().sum() > 0.1


@pytest.mark.parametrize("seed", range(2))
def test_pairs_are_drawn_with_their_probabilities(seed):
    """A chi-square test of the frequencies of pairs of levels, 8 to a cell."""
    n = 200_000
    mixture = pixel_mixture(seed, channels=2, shape=(1, 1, 1), scales=(-3, -1))
    choice, position = torch.rand(2, n, 2, 1, 1, generator=torch.Generator().manual_seed(seed))
    drawn = expanded(mixture, n).sample(choice, position)
    assert drawn.dtype == torch.uint8 and drawn.shape == (n, 2, 1, 1)
    cells = (drawn[:, :, 0, 0].long() // 8) @ torch.tensor([32, 1])
    observed = np.bincount(cells.numpy(), minlength=1024)
    expected = n * joint(mixture).view(32, 8, 32, 8).sum(dim=(1, 3)).flatten().numpy()
    often = expected >= 5
    observed = np.append(observed[often], observed[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    chi_square = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert often.sum() > 50
    assert stats.chi2.sf(chi_square, len(observed) - 1) > 1e-4


def test_every_channel_is_drawn_given_those_that_were_drawn_before_it():
    """Where in its conditional distribution each draw stands is uniform."""
    n = 3000
    mixture = pixel_mixture(1, shape=(1, 1, 1), scales=(-3, -1))
    rng = torch.Generator().manual_seed(0)
    choice, position = torch.rand(2, n, 3, 1, 1, generator=rng)
    drawn = expanded(mixture, n).sample(choice, position)
    within = torch.rand(n, generator=rng).double()
    for channel in range(3):
        images = drawn.repeat_interleave(256, dim=0)
        images[:, channel, 0, 0] = LEVELS.repeat(n)
        nats = expanded(mixture, 256 * n).log_prob(images)[:, channel, 0, 0]
        probabilities = nats.double().exp().view(n, 256)
        below = probabilities.cumsum(dim=1) - probabilities
        level = drawn[:, channel, 0].long()
        place = below.gather(1, level)[:, 0] + within * probabilities.gather(1, level)[:, 0]
        assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-4


def test_the_mean_of_a_pixel_mixture_is_that_of_its_draws():
    """Where nothing is clipped."""
    n = 100_000
    mixture = pixel_mixture(2, shape=(1, 1, 1), spread=0.1, scales=(-5, -3.5))
    choice, position = torch.rand(2, n, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    drawn = to_signed(expanded(mixture, n).sample(choice, position))
    assert drawn.abs().max() < 1
    found = mixture.mean()
    assert found.shape == (1, 3, 1, 1)
    torch.testing.assert_close(found[0], drawn.mean(dim=0), atol=3e-3, rtol=0)
    # It is no mean of channels that know nothing of each other.
    assert (distributions.logistic_mixture_mean(mixture.params) - found).abs().max() > 0.02


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_channel_is_given_the_earlier_channels_of_its_pixel_and_nothing_else(
    channels, monkeypatch
):
    """d log p(value) / d x, of images that take values between the levels."""
    monkeypatch.setattr(distributions, "to_signed", lambda images: images)
    mixture = pixel_mixture(channels=channels, shape=(1, 2, 3))
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(1, channels, 2, 3, generator=rng, dtype=torch.float64) - 0.5
    jacobian = torch.autograd.functional.jacobian(mixture.log_prob, x)[0][:, :, :, 0]
    places = itertools.product(range(channels), range(2), range(3))
    for (c, *pixel), (before, *other) in itertools.product(list(places), repeat=2):
        if (c, pixel) != (before, other):
            seen = jacobian[c, *pixel, before, *other] != 0
            assert seen == (pixel == other and before < c), (c, pixel, before, other)


def test_a_pixel_mixture_of_grey_images_is_a_mixture():
    values = torch.randn(3, 12, 4, 5, generator=torch.Generator().manual_seed(0))
    mixture, params = PixelMixture.split(values, 1), values[:, :, None]
    images = uint8_images(3, 1, 4, 5)
    choice, position = torch.rand(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        mixture.log_prob(images), distributions.logistic_mixture_log_prob(images, params)
    )
    assert torch.equal(mixture.mean(), distributions.logistic_mixture_mean(params))
    assert torch.equal(
        mixture.sample(choice, position),
        distributions.logistic_mixture_sample(params, choice, position),
    )


def gaussian_log_probs(mean, log_scale):
    means = torch.full((256,), mean, dtype=torch.float64)
    scale = torch.tensor(log_scale, dtype=torch.float64)
    return distributions.gaussian_interval_log_prob(LEVELS, means, scale).double()


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.3, 0.0, 0.001, 0.9, 1.0, 2.0])
@pytest.mark.parametrize("log_scale", [-20.0, -9.0, -5.0, -2.0, 0.0, 3.0, 10.0])
def test_gaussian_sums_to_one_at_the_extremes(mean, log_scale):
    log_probs = gaussian_log_probs(mean, log_scale)
    assert torch.isfinite(log_probs).all()
    assert log_probs.exp().sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("log_scale", [-5.0, -2.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-1.2, 0.1, 0.8])
def test_gaussian_equals_brute_force(mean, log_scale):
    expected = interval_probability(stats.norm(mean, np.exp(log_scale)), EDGES[:-1], EDGES[1:])
    visible = expected > 1e-300
    found = gaussian_log_probs(mean, log_scale).numpy()
    np.testing.assert_allclose(found[visible], np.log(expected[visible]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("log_scale", [25.0, 40.0, 100.0])
def test_gaussian_far_wider_than_the_range_is_its_density_times_the_width(log_scale):
    log_probs = gaussian_log_probs(0.0, log_scale)
    expected = np.log(2 / 255) - log_scale - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_probs[1:-1], expected, rtol=1e-4)
    np.testing.assert_allclose(log_probs[[0, -1]].exp(), 0.5, rtol=1e-6)


def test_log1mexp_neither_cancels_nor_overflows():
    x = torch.logspace(-6, 3, 100)
    expected = np.log(-np.expm1(-x.double().numpy()))
    np.testing.assert_allclose(distributions.log1mexp(x), expected, rtol=1e-6, atol=1e-7)


def random_gaussians(n=50):
    return torch.randn(4, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_gaussian_kl_equals_the_distribution_library():
    mean1, log_var1, mean2, log_var2 = random_gaussians()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean1, (log_var1 / 2).exp()),
        torch.distributions.Normal(mean2, (log_var2 / 2).exp()),
    )
    torch.testing.assert_close(
        distributions.gaussian_kl(mean1, log_var1, mean2, log_var2), expected
    )


def test_gaussian_kl_takes_a_standard_normal_as_numbers():
    mean, log_var, _, _ = random_gaussians()
    expected = distributions.gaussian_kl(mean, log_var, torch.zeros(50), torch.zeros(50))
    assert torch.equal(distributions.gaussian_kl(mean, log_var, 0.0, 0.0), expected)
    assert distributions.gaussian_kl(torch.zeros(1), torch.zeros(1), 0.0, 0.0).item() == 0


def test_gaussian_log_density_equals_the_distribution_library():
    x, mean, log_var, _ = random_gaussians()
    expected = torch.distributions.Normal(mean, (log_var / 2).exp()).log_prob(x)
    torch.testing.assert_close(distributions.gaussian_log_density(x, mean, log_var), expected)


@pytest.mark.parametrize("dimensions", [1, 784, 3072])
def test_uniform_is_exactly_eight_bits(dimensions):
    assert distributions.bits_per_dim(dimensions * np.log(256), dimensions) == 8


def test_half_a_level_is_half_the_distance_between_levels():
    signed = to_signed(LEVELS).double()
    np.testing.assert_allclose(signed.diff().numpy() / 2, distributions.HALF_STEP, rtol=1e-4)
    assert signed[0] == -1 and signed[255] == 1


def test_levels_survive_the_round_trip_to_floats():
    assert torch.equal(to_uint8(to_signed(LEVELS)), LEVELS)


def test_levels_are_clipped_and_rounded_to_the_nearest():
    values = torch.tensor([-9.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 9.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 255]


def test_values_that_are_not_finite_are_no_image():
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(torch.tensor([0.0, float("nan")]))
