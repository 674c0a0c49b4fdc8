import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.core import seeds


def test_other_names_give_other_seeds():
    names = [(0,), (1,), (0, "noise"), (0, "noise", 1), (0, "noise", 11), (0, "order", 1), (0, 1)]
    found = [seeds.derive(*name) for name in names]
    assert len(set(found)) == len(names)
    assert all(0 <= each < 2**63 for each in found)


def test_a_name_always_gives_the_same_seed():
    assert seeds.derive(0, "noise", 1) == 7999921939291604395


def test_generators_of_a_name_agree():
    first, second = (torch.rand(5, generator=seeds.generator(3, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(5, generator=seeds.generator(3, "y")))


def test_image_seeds_are_distinct_in_the_bits_that_the_generator_uses():
    for run in range(20):
        found = seeds.image_seeds(10_000, run, "sample")
        assert len(set(found.tolist())) == 10_000
        assert found.min() >= 0 and found.max() < 2**32


def test_first_images_do_not_depend_on_how_many_there_are():
    assert torch.equal(seeds.image_seeds(5, 0, "x"), seeds.image_seeds(50, 0, "x")[:5])


FROZEN = [151, 164, 481, 634, 823]


def test_subsets_are_uniform():
    counts = np.bincount(
        np.concatenate([seeds.subset(10, 3, seed, "test") for seed in range(2000)]), minlength=10
    )
    assert counts.sum() == 6000
    # Seven standard deviations of a binomial with 2000 trials of probability 0.3.
    assert abs(counts - 600).max() < 7 * np.sqrt(2000 * 0.3 * 0.7)


def test_a_subset_is_ascending_without_repeats_and_may_be_all():
    found = seeds.subset(100, 40, 0, "test")
    assert found.dtype == np.int64
    assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < 100
    assert seeds.subset(7, 7, 3).tolist() == list(range(7))
    assert seeds.subset(7, 0, 3).tolist() == []


def test_a_subset_never_changes():
    """Frozen, since committed results depend on it."""
    assert seeds.subset(1000, 5, 0, "reference", "test").tolist() == FROZEN


@pytest.mark.parametrize("n", [-1, 11])
def test_impossible_subsets_are_refused(n):
    with pytest.raises(ValueError, match=f"cannot take {n} of 10"):
        seeds.subset(10, n, 0)


def test_noise_of_an_image_is_independent_of_its_neighbours():
    every = seeds.image_seeds(6, 0, "x")
    together, alone = seeds.ImageNoise(every), seeds.ImageNoise(every[4:5])
    for draw in (
        lambda noise: noise.normal(3, 4),
        lambda noise: noise.uniform(2),
        lambda noise: noise.integers(10, 7),
    ):
        assert torch.equal(draw(together)[4:5], draw(alone))


def test_noise_follows_the_order_of_the_seeds():
    every = seeds.image_seeds(6, 0, "x")
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(
        seeds.ImageNoise(every).normal(4)[shuffled], seeds.ImageNoise(every[shuffled]).normal(4)
    )


def test_consecutive_seeds_give_independent_normals():
    noise = seeds.ImageNoise(seeds.image_seeds(10_000, 0, "x")).normal(4).numpy()
    for column in noise.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    correlations = np.corrcoef(np.concatenate([noise[:-1], noise[1:]], axis=1), rowvar=False)
    assert abs(correlations - np.eye(8)).max() < 0.045


def test_consecutive_seeds_give_independent_uniforms():
    noise = seeds.ImageNoise(seeds.image_seeds(10_000, 0, "x")).uniform(4).numpy()
    assert noise.min() >= 0 and noise.max() < 1
    for column in noise.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(np.concatenate([noise[:-1], noise[1:]], axis=1), rowvar=False)
    assert abs(correlations - np.eye(8)).max() < 0.045


def test_modules_draw_as_after_torchs_own_seed():
    device = torch.device("cpu")
    for seed in (0, 7, 2**63 - 1):
        torch.manual_seed(seed)
        wanted = torch.rand(3)
        seeds.seed_modules(seed, device)
        assert torch.equal(torch.rand(3), wanted)
