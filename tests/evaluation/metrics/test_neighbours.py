import resource
import time
from dataclasses import astuple

import numpy as np
import pytest
from prdc import compute_prdc

from pipeline.evaluation.metrics import neighbours
from pipeline.evaluation.metrics.neighbours import authenticity, copied, nearest, overlap, radii


def features(n, d=8, seed=0, shift=0.0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(n, d)) + shift


@pytest.mark.parametrize("shift", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_the_prdc_package(shift, k):
    samples, real = features(300, shift=shift, scale=0.9), features(300, seed=1)
    found, peer = overlap(samples, real, k), compute_prdc(real, samples, nearest_k=k)
    assert astuple(found) == pytest.approx(
        [peer[key] for key in ("precision", "recall", "density", "coverage")], abs=1e-6
    )


def test_the_order_of_rows_and_the_size_of_chunks_change_nothing(monkeypatch):
    samples, real = features(120, scale=0.8), features(120, seed=1)
    whole = overlap(samples, real)
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    assert overlap(samples, real) == whole
    rng = np.random.default_rng(0)
    assert overlap(rng.permutation(samples), rng.permutation(real)) == whole


@pytest.mark.parametrize(("k", "expected"), [(3, 0.8754), (5, 0.9690), (10, 0.9991)])
def test_coverage_of_equal_distributions_has_the_closed_form(k, expected):
    """Of the k + 1 nearest points of both sets to a real one, the samples must hold one."""
    n = 1000
    missed = np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
    assert 1 - missed == pytest.approx(expected, abs=6e-5)
    found = [
        overlap(features(n, 16, seed=2 * i), features(n, 16, seed=2 * i + 1), k).coverage
        for i in range(12)
    ]
    stderr = np.std(found, ddof=1) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(1 - missed, abs=4 * stderr + 1e-4)


def test_equal_sets_overlap_wholly():
    points = features(100)
    found = overlap(points, points)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(1, abs=0.3)


def test_samples_that_are_all_alike_fool_precision_and_not_coverage():
    real = features(200, d=2)
    found = overlap(np.repeat(real.mean(axis=0)[None], 200, axis=0), real)
    assert found.precision == 1
    assert found.coverage < 0.2
    assert found.recall == 0


def test_half_of_the_modes_are_half_of_the_coverage():
    real = np.concatenate([features(100), features(100, seed=1, shift=50)])
    samples = np.concatenate([features(100, seed=2), features(100, seed=3)])
    found = overlap(samples, real)
    assert found.coverage == pytest.approx(0.5, abs=0.05)
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.precision > 0.9


def test_shifts_of_both_sets_change_nothing():
    samples, real = features(100, scale=0.8), features(100, seed=1)
    found = astuple(overlap(samples + 1e7, real + 1e7))
    assert found == pytest.approx(astuple(overlap(samples, real)), abs=0.01)


def test_a_point_on_the_edge_of_a_ball_is_outside():
    real = np.array([[0.0], [2.0], [10.0]])
    found = overlap(np.array([[-2.0], [100.0], [200.0]]), real, k=1)
    assert (found.precision, found.coverage, found.density) == (0, 0, 0)


def test_radii_are_distances_to_the_kth_other_point():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_allclose(radii(line, 1), [1, 1, 4, 16])
    np.testing.assert_allclose(radii(line, 2), [9, 4, 9, 36])


def test_nearest_finds_index_and_squared_distance():
    index, squared = nearest(np.array([[0.9, 0], [5, 5]]), np.array([[0.0, 0], [1, 0], [5, 2]]))
    assert index.tolist() == [1, 2]
    np.testing.assert_allclose(squared, [0.01, 9])


def test_copies_are_not_authentic_and_far_images_are():
    training = features(200)
    assert authenticity(training[:50], training) == 0
    assert authenticity(training[:50] + 1e-6, training) == 0
    assert authenticity(features(50, shift=30), training) == 1


def test_authenticity_by_hand():
    """On a line: 0 and 1 are 1 apart, 10 is 9 from its nearest."""
    training = np.array([[0.0], [1.0], [10.0]])
    points = np.array([[-0.5], [-1.5], [4.0], [6.0], [30.0]])
    # Distances to the nearest: .5 (of 0: own 1), 1.5 (own 1), 3 (of 1: own 1), 4 (of 10: own 9),
    # 20 (of 10: own 9).
    assert authenticity(points, training) == pytest.approx(3 / 5)
    # As far from 0 as 0 is from 1: not farther.
    assert authenticity(np.array([[-1.0]]), training) == 0


def test_copied_tells_the_image_and_both_distances():
    index, squared, own = copied(np.array([[0.2], [9.0]]), np.array([[0.0], [1.0], [10.0]]))
    assert index.tolist() == [0, 2]
    np.testing.assert_allclose(squared, [0.04, 1])
    np.testing.assert_allclose(own, [1, 81])


def pixels(n, d, seed, values=256):
    return np.random.default_rng(seed).integers(0, values, (n, d), dtype=np.uint8)


def brute_force(points, others, without=None):
    """Integers: the first of the nearest, and its squared distance."""
    found = []
    for i, each in enumerate(points.astype(np.int64)):
        squared = ((each - others) ** 2).sum(axis=1)
        if without is not None:
            squared[without[i]] = 2**62
        found.append((squared.argmin(), squared.min()))
    index, squared = np.array(found).T
    return index, squared.astype(float)


@pytest.mark.parametrize("values", [2, 256])
@pytest.mark.parametrize("d", [1, 5, 1025, 3000])
def test_distances_between_images_are_exact_and_the_first_of_ties_is_taken(monkeypatch, d, values):
    """With few values or dimensions most of the nearest ones are not alone."""
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    monkeypatch.setattr(neighbours, "BLOCK", 9)
    points, others = pixels(20, d, 0, values), pixels(50, d, 1, values)
    others[17] = points[3]
    without = np.arange(20) * 2
    for given in (None, without):
        index, squared = nearest(points, others, given)
        wanted = brute_force(points, others.astype(np.int64), given)
        np.testing.assert_array_equal(index, wanted[0])
        np.testing.assert_array_equal(squared, wanted[1])
    index, squared, own = copied(points, others)
    wanted = brute_force(others[index], others.astype(np.int64), without=index)[1]
    np.testing.assert_array_equal(own, wanted)
    assert authenticity(points, others) == (squared > own).mean()


def test_the_largest_distances_between_images_are_exact():
    black, white = np.zeros((3, 12_288), np.uint8), np.full((4, 12_288), 255, np.uint8)
    white[2, 7] = 254
    index, squared = nearest(black, white)
    assert index.tolist() == [2, 2, 2]
    assert squared.tolist() == [255**2 * 12_287 + 254**2] * 3


def test_blocks_change_no_neighbour_of_features(monkeypatch):
    points, training = features(30), features(200, seed=1)
    whole = copied(points, training)
    monkeypatch.setattr(neighbours, "BLOCK", 33)
    for found, wanted in zip(copied(points, training), whole, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_new_images_of_the_same_distribution_are_not_all_authentic():
    """In one dimension a new point is the nearer one half of the time or so; never always."""
    found = authenticity(features(2000, d=1), features(2000, d=1, seed=1))
    assert 0.3 < found < 0.7


def test_sets_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="same size"):
        overlap(features(20), features(30))


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="too few"):
        overlap(features(5), features(5, seed=1))
    with pytest.raises(ValueError, match="two training images"):
        authenticity(features(5), features(1))


@pytest.mark.parametrize("call", [overlap, nearest, authenticity])
def test_values_that_are_not_finite_and_wrong_shapes_are_refused(call):
    bad = features(20)
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        call(features(20), bad)
    with pytest.raises(ValueError, match="must be"):
        call(features(20), features(20, d=3))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    """150 MB of uint8 images are 1.2 GB as float64."""
    points, training = pixels(200, 1500, 0), pixels(100_000, 1500, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    authenticity(points, training)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2e8


@pytest.mark.slow
def test_ten_thousand_points_take_less_than_a_minute_and_two_gigabytes():
    samples, real = features(10_000, d=64), features(10_000, d=64, seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    overlap(samples, real)
    assert time.process_time() - started < 60
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2e9
