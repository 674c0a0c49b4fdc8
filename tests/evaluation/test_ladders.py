import numpy as np
import pytest

from pipeline.datasets.store import Split
from pipeline.evaluation import ladders


def textured(n=120, classes=3, channels=3, size=16, seed=0):
    """Images of ``classes`` kinds, each noise around a brightness of its own, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), n // classes)
    light = 60 + 50 * labels[:, None, None, None]
    noise = rng.normal(0, 20, (len(labels), channels, size, size))
    return Split((light + noise).clip(0, 255).astype(np.uint8), labels)


def climbed(split, n=90, seed=0):
    found = {}
    for rung in ladders.rungs(split, n, seed):
        found.setdefault(rung.ladder, []).append(rung)
    return found


def test_every_ladder_is_there_and_keeps_number_shape_and_type():
    split = textured()
    found = climbed(split)
    assert list(found) == ["real", "noise", "blur", "colour", "missing", "mean", "uniform"]
    for rungs in found.values():
        for rung in rungs:
            assert rung.images.shape == (90, 3, 16, 16) and rung.images.dtype == np.uint8


def test_damage_grows_from_rung_to_rung():
    found = climbed(textured())
    [real] = found["real"]
    for ladder in ("noise", "blur", "colour"):
        errors = [
            np.square(rung.images.astype(float) - real.images).mean() for rung in found[ladder]
        ]
        assert errors == sorted(set(errors)) and errors[0] > 0


def test_noise_has_the_share_of_white_that_its_label_says():
    flat = Split(np.full((50, 1, 16, 16), 128, np.uint8), np.arange(50) % 2)
    for rung, percent in zip(climbed(flat, 50)["noise"], ladders.NOISE_PERCENT, strict=True):
        assert rung.images.std() == pytest.approx(2.55 * percent, rel=0.03)
        assert f"{percent:g} %" in rung.label


def test_blur_is_as_wide_a_share_of_larger_images():
    dot = np.zeros((1, 1, 64, 64), np.uint8)
    dot[:, :, 31:33, 31:33] = 255
    small = ladders._blur(dot, 1.0).astype(float)
    columns = np.arange(64) - 31.5
    spread = (small[0, 0].sum(axis=0) * columns**2).sum() / small.sum()
    assert np.sqrt(spread) == pytest.approx(2.0, rel=0.1)  # 64 pixels are twice 32


def test_colour_makes_the_first_channel_brighter_and_grey_darker():
    [*_, most] = climbed(textured())["colour"]
    [real] = climbed(textured())["real"]
    change = most.images.mean((0, 2, 3)) / real.images.mean((0, 2, 3))
    np.testing.assert_allclose(change, [1.4, 0.8, 0.8], atol=0.05)
    grey = climbed(textured(channels=1))
    assert grey["colour"][-1].images.mean() == pytest.approx(
        0.6 * grey["real"][0].images.mean(), rel=0.02
    )


def test_missing_kinds_are_the_most_frequent_classes_in_turn():
    split = textured(n=300, classes=6)
    keep = np.r_[0:300][~np.isin(np.arange(300), np.arange(250, 290))]  # class 5 is the rarest
    split = Split(split.images[keep], split.labels[keep])
    rungs = climbed(split, 40)["missing"]
    assert [rung.label for rung in rungs] == ["without 1 of 6", "without 2 of 6", "one kind alone"]
    kept = [
        {
            int(split.labels[np.flatnonzero((split.images == each).all((1, 2, 3)))[0]])
            for each in rung.images
        }
        for rung in rungs
    ]
    assert kept == [{1, 2, 3, 4, 5}, {2, 3, 4, 5}, {5}]


def test_without_labels_groups_of_like_images_stand_for_classes():
    labelled = textured(n=150, classes=5)
    split = Split(labelled.images, np.zeros(150, np.int64))
    rungs = climbed(split, 30)["missing"]
    assert len(rungs) == 2 + (rungs[1].label != "one kind alone")
    alone = rungs[-1].images.mean((1, 2, 3))
    assert np.ptp(alone) < 10  # one brightness


def test_the_mean_image_is_that_of_all_images():
    split = textured()
    [mean] = climbed(split)["mean"]
    np.testing.assert_array_equal(mean.images[0], np.rint(split.images.mean(0)))
    assert (mean.images == mean.images[0]).all()


def test_uniform_noise_has_all_levels():
    [noise] = climbed(textured())["uniform"]
    counts = np.bincount(noise.images.ravel(), minlength=256)
    assert counts.min() > 0.6 * counts.mean()


def test_the_same_seed_spoils_alike_and_another_does_not():
    one, again, other = (climbed(textured(), seed=seed) for seed in (1, 1, 2))
    for name, rungs in one.items():
        for a, b in zip(rungs, again[name], strict=True):
            np.testing.assert_array_equal(a.images, b.images)
    assert (one["noise"][0].images != other["noise"][0].images).any()


def test_more_images_than_there_are_is_all_of_them():
    [real] = climbed(textured(n=30), n=90)["real"]
    assert len(real.images) == 30
