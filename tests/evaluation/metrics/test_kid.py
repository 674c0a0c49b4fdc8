import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from pipeline.evaluation.metrics.kid import kernel_distance


def features(n, d=16, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def by_loops(a, b):
    """The definition, pair by pair (arXiv:1801.01401, equations 3 and 4)."""

    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    def within(rows):
        n = len(rows)
        pairs = [k(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
        return sum(pairs) / (n * (n - 1))

    between = np.mean([k(x, y) for x in a for y in b])
    return within(a) + within(b) - 2 * between


def test_equals_the_definition_pair_by_pair():
    a, b = features(9, 4), features(7, 4, seed=1, shift=0.5)
    assert kernel_distance(a, b) == pytest.approx(by_loops(a, b), rel=1e-12)


def test_equals_torchmetrics_on_the_same_features():
    a, b = features(80), features(80, seed=1, shift=0.3)
    peer = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=80)
    peer.update(torch.from_numpy(b), real=True)
    peer.update(torch.from_numpy(a), real=False)
    assert kernel_distance(a, b) == pytest.approx(peer.compute()[0].item(), rel=1e-5)


def test_equals_torch_fidelity_on_the_same_features():
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = features(80), features(80, seed=1, shift=0.3)
    peer = kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=80, verbose=False
    )
    assert kernel_distance(a, b) == pytest.approx(peer["kernel_inception_distance_mean"], rel=1e-10)


def test_is_unbiased_and_not_clamped():
    """Between sets of one distribution its mean is 0, so about half of its values are below."""
    rng = np.random.default_rng(0)
    found = np.array([kernel_distance(*rng.normal(size=(2, 50, 4))) for _ in range(500)])
    assert abs(found.mean()) < 3 * found.std(ddof=1) / np.sqrt(len(found))
    assert 0.3 < (found < 0).mean() < 0.8


@pytest.mark.parametrize(("d", "expected"), [(64, 0.126948), (128, 0.125891), (2048, 0.124927)])
def test_shifted_normals_have_the_closed_form(d, expected):
    """N(0, I) against N(0.2, I), whose moments up to the third give the expectation."""
    s = 0.04

    def within(shift):
        # x.y/d + 1 of independent rows with mean m has mean 1 + m^2, variance (1 + 2 m^2)/d and
        # third central moment 6 m^2/d^2, m^2 being the product of both means.
        mean, variance, third = 1 + shift, (1 + 2 * shift) / d, 6 * shift / d**2
        return mean**3 + 3 * mean * variance + third

    between = 1 + 3 * (1 + s) / d
    exact = within(0.0) + within(s) - 2 * between
    assert exact == pytest.approx(expected, abs=2e-6)
    rng = np.random.default_rng(0)
    found = [
        kernel_distance(rng.normal(size=(400, d)), rng.normal(size=(400, d)) + 0.2)
        for _ in range(24)
    ]
    assert np.mean(found) == pytest.approx(exact, abs=4 * np.std(found, ddof=1) / np.sqrt(24))


def test_is_symmetric_and_sees_a_shift():
    a, b = features(60), features(40, seed=1, shift=1.0)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-12)
    assert kernel_distance(a, b) > 0.5


def test_float32_features_are_summed_in_float64():
    a, b = features(300).astype(np.float32) + 100, features(300, seed=1).astype(np.float32) + 100
    exact = kernel_distance(a.astype(np.float64), b.astype(np.float64))
    assert kernel_distance(a, b) == exact


@pytest.mark.parametrize(
    ("a", "b"),
    [(features(1), features(5)), (features(5), features(5, d=3)), (features(5)[:, 0], features(5))],
)
def test_wrong_shapes_are_refused(a, b):
    with pytest.raises(ValueError, match="must be"):
        kernel_distance(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    a = features(5)
    a[2, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        kernel_distance(a, features(5))


@pytest.mark.parametrize("pairs", [1, 100, 1000])
def test_of_many_images_some_pairs_are_in_memory_at_a_time(pairs, monkeypatch):
    """The same number as that of all pairs at once."""
    from pipeline.evaluation.metrics import kid

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(70, 5)), rng.normal(0.2, 1, size=(31, 5))
    whole = kernel_distance(a, b)
    monkeypatch.setattr(kid, "PAIRS", pairs)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-12)
