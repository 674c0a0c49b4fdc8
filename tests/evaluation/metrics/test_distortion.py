import numpy as np
import pytest
import torch

from pipeline.evaluation.metrics import distortion


def images(n=5, shape=(1, 6, 7), seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_other_types_than_uint8_are_refused(dtype):
    with pytest.raises(ValueError, match="uint8"):
        distortion.check_images(images().astype(dtype))


def test_other_ranks_and_empty_sets_are_refused():
    for bad in (images()[0], images()[:0], images()[None]):
        with pytest.raises(ValueError, match="N >= 1"):
            distortion.check_images(bad)


def test_other_shapes_are_refused():
    distortion.check_images(images(), (1, 6, 7))
    with pytest.raises(ValueError, match=r"\[1, 7, 6\]"):
        distortion.check_images(images(), (1, 7, 6))


def test_pairs_must_fit():
    with pytest.raises(ValueError, match="5 images but 4"):
        distortion.squared_errors(images(), images()[:4])
    with pytest.raises(ValueError, match="must be"):
        distortion.squared_errors(images(), images(shape=(3, 6, 7)))


def test_squared_errors_are_per_image_and_do_not_wrap():
    a, b = images(seed=0), images(seed=1)
    expected = [np.mean((x / 255.0 - y / 255.0) ** 2) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(distortion.squared_errors(a, b), expected, rtol=1e-12)
    white, black = np.full_like(a, 255), np.zeros_like(a)
    np.testing.assert_array_equal(distortion.squared_errors(black, white), 1)


def test_psnr_is_the_mean_over_images_and_not_that_of_the_mean_error():
    errors = np.array([1e-1, 1e-3])
    assert distortion.psnr(errors) == pytest.approx((10 + 30) / 2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 13, 20), (1, 11, 11)])
def test_ssim_is_that_of_torchmetrics(shape):
    torchmetrics = pytest.importorskip("torchmetrics.functional.image")
    a = images(6, shape)
    b = np.clip(a + np.random.default_rng(1).normal(0, 30, a.shape), 0, 255).astype(np.uint8)
    b[3] = 255 - a[3]
    b[4] = 128
    _, everywhere = torchmetrics.structural_similarity_index_measure(
        torch.from_numpy(b).double(),
        torch.from_numpy(a).double(),
        data_range=255.0,
        reduction="none",
        return_full_image=True,
    )
    # It goes on beyond the border by reflection, which the paper does not.
    expected = everywhere[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))
    found = distortion.structural_similarities(a, b)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-9)
    assert found[3] < 0 < found[0], "the inverse is worse than none"


def test_ssim_of_equal_images_is_one_and_of_tiny_ones_unknown():
    a = images(shape=(1, 12, 12))
    np.testing.assert_allclose(distortion.structural_similarities(a, a), 1)
    assert distortion.structural_similarities(images(), images()) is None


def test_distortion_in_parts_is_that_of_the_whole():
    a, b = images(7, (1, 12, 12), 0), images(7, (1, 12, 12), 1)
    whole = distortion.distortion(a, b).keys("code", prefix="inversion")
    parts = [distortion.distortion(a[i], b[i]) for i in (slice(0, 3), slice(3, 7))]
    assert distortion.joined(parts).keys("code", prefix="inversion") == pytest.approx(whole)
    assert tuple(whole) == distortion.keys("inversion")
    assert whole["inversion_mse"] == distortion.squared_errors(a, b).mean()


def test_perfect_reconstruction_has_a_finite_psnr_above_any_imperfect_one():
    perfect = distortion.psnr(np.zeros(3))
    one_level_once = distortion.psnr(np.full(3, 1 / (255**2 * 784)))
    assert np.isfinite(perfect)
    assert perfect >= one_level_once > 70
