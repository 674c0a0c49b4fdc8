import time

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from pipeline.evaluation.metrics import fid


def whitened(n, d, seed=0):
    """Normal rows [n, d] whose sample mean is exactly 0 and sample covariance exactly I."""
    rows = np.random.default_rng(seed).normal(size=(n, d))
    rows -= rows.mean(axis=0)
    factor = np.linalg.cholesky(np.linalg.inv(rows.T @ rows / (n - 1)))
    return rows @ factor


def random_features(n, d, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def distance(a, b):
    return fid.frechet_distance(fid.moments(a), fid.moments(b))


def test_isotropic_gaussians_have_the_closed_form():
    a, b = whitened(500, 64, 0), 0.1 + 2 * whitened(300, 64, 1)
    assert distance(a, b) == pytest.approx(64.64, abs=1e-9)


def test_moments_are_numpys():
    features = random_features(50, 6, 0)
    found = fid.moments(features)
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-10)


def test_moments_of_float32_are_accumulated_in_float64():
    features = (1000 + np.random.default_rng(0).normal(size=(5000, 2))).astype(np.float32)
    exact = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(fid.moments(features).covariance, exact, rtol=1e-9)


def test_a_set_is_at_distance_zero_from_itself():
    features = random_features(200, 16, 0)
    assert abs(distance(features, features)) < 1e-6 * np.trace(fid.moments(features).covariance)


@pytest.mark.parametrize("n", [10, 64, 500])
def test_distance_is_symmetric(n):
    a, b = random_features(n, 32, 0), random_features(n, 32, 1)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-6)


def test_singular_covariances_have_the_closed_form():
    """Rank-one covariances u u' and v v' have tr (A B)^(1/2) = |u.v|."""
    d = 8
    u, v = np.random.default_rng(0).normal(size=(2, d))
    zero = np.zeros(d)
    found = fid.frechet_distance(
        fid.Moments(zero, np.outer(u, u)), fid.Moments(zero, np.outer(v, v))
    )
    assert found == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-6)


def test_fewer_samples_than_features():
    a, b = random_features(10, 64, 0), random_features(10, 64, 1)
    assert np.isfinite(distance(a, b))
    scale = np.trace(fid.moments(a).covariance)
    assert abs(distance(a, a)) < 1e-5 * scale


def test_constant_features_leave_the_means():
    a, b = np.ones((20, 4)), np.full((30, 4), 3.0)
    assert distance(a, b) == pytest.approx(16)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    features = random_features(10, 4, 0)
    features[3, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        fid.moments(features)


@pytest.mark.parametrize("shape", [(1, 4), (4,), (2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="features must be"):
        fid.moments(np.zeros(shape))


class PassThrough(torch.nn.Module):
    num_features = 24

    def forward(self, features):
        return features


def test_equals_torchmetrics_on_the_same_features():
    a, b = random_features(400, 24, 0), random_features(300, 24, 1)
    theirs = FrechetInceptionDistance(PassThrough().eval(), normalize=True).set_dtype(torch.float64)
    for features, real in ((a, True), (b, False)):
        theirs.update(torch.from_numpy(features), real=real)
    assert distance(a, b) == pytest.approx(theirs.compute().item(), rel=1e-5)


@pytest.mark.parametrize(("n", "dead"), [(400, 0), (400, 5), (16, 0)])
def test_equals_torch_fidelity_on_the_same_features(n, dead):
    """Also where features are dead, or there are fewer images than features."""
    a, b = random_features(n, 24, 0), random_features(n, 24, 1)
    a[:, :dead] = b[:, :dead] = 0
    statistics = (fid_features_to_statistics(torch.from_numpy(each)) for each in (a, b))
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert distance(a, b) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_ten_thousand_images_take_half_a_second():
    a, b = random_features(10_000, 64, 0), random_features(10_000, 64, 1)
    started = time.process_time()
    distance(a, b)
    assert time.process_time() - started < 0.5
