import numpy as np
import pytest
import torch

from pipeline.blocks.mixture import CodeMixture
from pipeline.core import seeds
from pipeline.core.errors import PipelineError


def known(groups=2, components=3, dimensions=2):
    mixture = CodeMixture(groups, components, dimensions)
    rng = torch.Generator().manual_seed(0)
    shares = torch.rand(mixture.weights.shape, generator=rng)
    mixture.weights.copy_(shares / shares.sum(1, keepdim=True))
    mixture.means.copy_(3 * torch.randn(mixture.means.shape, generator=rng))
    lower = torch.randn(mixture.factors.shape, generator=rng).tril(-1)
    mixture.factors.copy_(lower + torch.eye(dimensions) * 0.7)
    return mixture


def as_torchs(mixture, group):
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights[group]),
        torch.distributions.MultivariateNormal(
            mixture.means[group], scale_tril=mixture.factors[group]
        ),
    )


def test_density_is_torchs():
    mixture = known()
    codes = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) * 3
    for group in (0, 1):
        found = mixture.log_density(codes, torch.full((50,), group))
        torch.testing.assert_close(found, as_torchs(mixture, group).log_prob(codes))


def test_density_integrates_to_one():
    mixture = known()
    axis = torch.linspace(-20, 20, 801)
    grid = torch.cartesian_prod(axis, axis)
    density = mixture.log_density(grid, torch.ones(len(grid), dtype=torch.long)).double().exp()
    assert density.sum().item() * (40 / 800) ** 2 == pytest.approx(1, abs=1e-4)


def test_draws_have_the_mixtures_moments():
    mixture = known()
    noise = seeds.ImageNoise(seeds.image_seeds(6000, 0, "draw"))
    groups = torch.arange(6000) % 2
    codes = mixture.draw(noise, groups)
    for group in (0, 1):
        exact = as_torchs(mixture, group)
        drawn = codes[groups == group]
        tolerance = 5 * exact.variance.sqrt() / 3000**0.5
        assert ((drawn.mean(0) - exact.mean).abs() < tolerance).all()
        centred = mixture.means[group] - exact.mean
        covariance = (
            mixture.weights[group][:, None, None]
            * (
                mixture.factors[group] @ mixture.factors[group].mT
                + centred[:, :, None] * centred[:, None]
            )
        ).sum(0)
        torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0.15, atol=0.3)


def test_a_code_depends_on_its_seed_and_group_alone():
    mixture, every = known(), seeds.image_seeds(6, 0, "draw")
    together = mixture.draw(seeds.ImageNoise(every), torch.tensor([0, 1, 0, 1, 0, 1]))
    alone = mixture.draw(seeds.ImageNoise(every[3:4]), torch.tensor([1]))
    assert torch.equal(together[3:4], alone)


def test_fit_finds_the_clusters_of_each_group():
    rng = np.random.default_rng(0)
    centres = np.array([[-5.0, 0.0], [5.0, 1.0]])
    codes = [
        np.concatenate([centre + shift + 0.3 * rng.normal(size=(200, 2)) for centre in centres])
        for shift in (0.0, 20.0)
    ]
    mixture = CodeMixture(2, 2, 2)
    assert not mixture.fitted
    mixture.fit(codes, floor=1e-6, model="m")
    assert mixture.fitted
    for group, shift in enumerate((0.0, 20.0)):
        found = mixture.means[group][mixture.means[group][:, 0].argsort()].numpy()
        np.testing.assert_allclose(found, centres + shift, atol=0.1)
        covariance = mixture.factors[group] @ mixture.factors[group].mT
        np.testing.assert_allclose(covariance.numpy(), [0.09 * np.eye(2)] * 2, atol=0.03)


def test_one_gaussian_has_the_moments_of_the_codes_and_the_floor():
    codes = np.random.default_rng(0).normal(size=(500, 3)) @ np.diag([1.0, 2.0, 0.0])
    mixture = CodeMixture(1, 1, 3)
    mixture.fit([codes], floor=0.1, model="m")
    floor = 0.1 * codes.var(axis=0).mean()
    expected = np.cov(codes.T, bias=True) + floor * np.eye(3)
    found = (mixture.factors @ mixture.factors.mT)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_fit_is_repeatable_and_survives_saving():
    codes = [np.random.default_rng(0).normal(size=(300, 4))]
    one, other = CodeMixture(1, 3, 4), CodeMixture(1, 3, 4)
    one.fit(codes, 0.01, "m")
    other.fit(codes, 0.01, "m")
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    loaded = CodeMixture(1, 3, 4)
    loaded.load_state_dict(one.state_dict())
    assert loaded.fitted and torch.equal(loaded.factors, one.factors)


def test_too_few_codes_are_refused():
    with pytest.raises(
        PipelineError, match=r"models\.ae\.network\.components = 5: there are only 3 codes"
    ):
        CodeMixture(1, 5, 2).fit([np.zeros((3, 2))], 0.01, "ae")


def test_a_group_without_codes_stays_standard_normal():
    mixture = CodeMixture(2, 1, 2)
    mixture.fit([np.random.default_rng(0).normal(3, 2, size=(50, 2)), np.zeros((0,))], 0.01, "m")
    codes = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    found = mixture.log_density(codes, torch.ones(5, dtype=torch.long))
    torch.testing.assert_close(found, torch.distributions.Normal(0, 1).log_prob(codes).sum(1))


def test_it_says_what_it_is():
    assert str(CodeMixture(1, 1, 2)) == "full-covariance Gaussian"
    assert str(CodeMixture(1, 20, 2)) == "mixture of 20 full-covariance Gaussians"


def test_codes_that_are_not_finite_are_one_line():
    codes = np.array([[0.0, 1.0], [np.nan, 2.0], [3.0, 4.0]])
    with pytest.raises(PipelineError, match=r"^ae: codes are not finite: .*learning_rate$"):
        CodeMixture(1, 2, 2).fit([codes], 0.01, "ae")


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_gaussian_that_collapses_is_one_line():
    """Where all codes are one point, there is no variance of which the floor is a share."""
    with pytest.raises(PipelineError, match=r"models\.ae\.network\.components = 2: .*collapsed"):
        CodeMixture(1, 2, 2).fit([np.zeros((9, 2))], 0.01, "ae")
