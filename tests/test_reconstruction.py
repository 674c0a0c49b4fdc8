import numpy as np
import pytest

from pipeline.metrics import reconstruction


def images(n=5, shape=(1, 6, 7), seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_other_types_than_uint8_are_refused(dtype):
    with pytest.raises(ValueError, match="uint8"):
        reconstruction.check_images(images().astype(dtype))


def test_other_ranks_and_empty_sets_are_refused():
    for bad in (images()[0], images()[:0], images()[None]):
        with pytest.raises(ValueError, match="N >= 1"):
            reconstruction.check_images(bad)


def test_other_shapes_are_refused():
    reconstruction.check_images(images(), (1, 6, 7))
    with pytest.raises(ValueError, match=r"\[1, 7, 6\]"):
        reconstruction.check_images(images(), (1, 7, 6))


def test_pairs_must_fit():
    with pytest.raises(ValueError, match="5 images but 4"):
        reconstruction.squared_errors(images(), images()[:4])
    with pytest.raises(ValueError, match="must be"):
        reconstruction.squared_errors(images(), images(shape=(3, 6, 7)))


def test_squared_errors_are_per_image_and_do_not_wrap():
    a, b = images(seed=0), images(seed=1)
    expected = [np.mean((x / 255.0 - y / 255.0) ** 2) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(reconstruction.squared_errors(a, b), expected, rtol=1e-12)
    white, black = np.full_like(a, 255), np.zeros_like(a)
    np.testing.assert_array_equal(reconstruction.squared_errors(black, white), 1)


def test_psnr_is_the_mean_over_images_and_not_that_of_the_mean_error():
    errors = np.array([1e-1, 1e-3])
    assert reconstruction.psnr(errors) == pytest.approx((10 + 30) / 2)


def test_perfect_reconstruction_has_a_finite_psnr_above_any_imperfect_one():
    perfect = reconstruction.psnr(np.zeros(3))
    one_level_once = reconstruction.psnr(np.full(3, 1 / (255**2 * 784)))
    assert np.isfinite(perfect)
    assert perfect >= one_level_once > 70
