import hashlib

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import counts
from pipeline.datasets.sources import Expected, Labelled, RawSplits, Source
from pipeline.datasets.splits import split

FROZEN = {
    "train": "49e8c1d55968510f",
    "val": "7e295f1edcd1766d",
    "test": "d28be7ec60ca5be4",
}


def labelled(counts, first=0):
    """Images [N, 1, 2, 2] that hold their own number (from ``first``), ordered by class."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    numbers = np.arange(first, first + len(labels), dtype="<u4")
    images = numbers.view(np.uint8).reshape(-1, 1, 2, 2)
    return Labelled(images, labels)


def numbers(part):
    """The numbers that `labelled` wrote into the images."""
    return part.images.ravel().view("<u4")


def raw(counts, test_counts=None):
    test = None if test_counts is None else labelled(test_counts, first=1_000_000)
    return RawSplits(labelled(counts), test, [str(i) for i in range(len(counts))])


def data(seed=0, val_fraction=0.1):
    return Data(name="toy", seed=seed, val_fraction=val_fraction)


def per_class(part, classes):
    return np.bincount(part.labels, minlength=classes).tolist()


def test_mnist_5k_counts():
    parts = split(raw([500] * 10), data())
    assert list(parts) == ["train", "val", "test"]
    assert per_class(parts["train"], 10) == [360] * 10
    assert per_class(parts["val"], 10) == [40] * 10
    assert per_class(parts["test"], 10) == [100] * 10


def test_counts_follow_the_size_of_each_class():
    parts = split(raw([50, 200, 333]), data(val_fraction=0.25))
    assert per_class(parts["test"], 3) == [10, 40, 67]
    assert per_class(parts["val"], 3) == [10, 40, 66]
    assert per_class(parts["train"], 3) == [30, 120, 200]


@pytest.mark.parametrize("test_counts", [None, [7, 9, 11]])
def test_every_image_is_in_one_split_with_its_own_label(test_counts):
    source = raw([40, 60, 100], test_counts)
    parts = split(source, data())
    pool = [source.train] + ([source.test] if source.test else [])
    expected = {
        int(number): label
        for each in pool
        for number, label in zip(numbers(each), each.labels, strict=True)
    }
    found = [
        (int(number), label)
        for part in parts.values()
        for number, label in zip(numbers(part), part.labels, strict=True)
    ]
    assert len(found) == len(expected)
    assert dict(found) == expected


@pytest.mark.parametrize("test_counts", [None, [7, 0, 11]])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.33, 0.499])
def test_the_counts_are_known_without_the_images(test_counts, fraction):
    rng = np.random.default_rng(0)
    for _ in range(30):
        there = rng.integers(25, 200, 3).tolist()
        given = data(val_fraction=fraction)
        parts = split(raw(there, test_counts), given)
        assert counts.of_splits(there, test_counts, list("012"), given) == {
            name: per_class(part, 3) for name, part in parts.items()
        }


def test_types():
    for part in split(raw([50, 50]), data()).values():
        assert part.images.dtype == np.uint8
        assert part.images.shape[1:] == (1, 2, 2)
        assert part.labels.dtype == np.int64


def test_an_official_test_split_is_untouched():
    source = raw([100, 100], [30, 20])
    shuffled = np.random.default_rng(0).permutation(50)
    source = RawSplits(
        source.train,
        Labelled(source.test.images[shuffled], source.test.labels[shuffled]),
        source.classes,
    )
    parts = split(source, data(val_fraction=0.2))
    np.testing.assert_array_equal(parts["test"].images, source.test.images)
    np.testing.assert_array_equal(parts["test"].labels, source.test.labels)
    assert per_class(parts["val"], 2) == [20, 20]
    assert per_class(parts["train"], 2) == [80, 80]


def test_an_official_test_split_may_be_empty_of_a_class():
    parts = split(raw([100, 100], [0, 0]), data())
    assert len(parts["test"]) == 0


def test_the_splits_that_are_made_are_shuffled():
    for name, part in split(raw([500] * 10), data()).items():
        # 10 classes in random order: neighbours agree one time in ten; by class, nearly always.
        assert (part.labels[1:] == part.labels[:-1]).mean() < 0.15, name
        assert set(part.labels[:60]) == set(range(10)), name
        own = numbers(part)[part.labels == 0]
        assert (np.diff(own.astype(int)) > 0).mean() < 0.7, name


def test_same_seed_same_splits():
    first, second = (split(raw([80] * 5), data(seed=3)) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name].images, second[name].images)
        np.testing.assert_array_equal(first[name].labels, second[name].labels)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_another_seed_other_members(name):
    first, second = (set(numbers(split(raw([80] * 5), data(seed=s))[name])) for s in (0, 1))
    assert first != second


def test_the_members_are_chosen_evenly_over_the_source():
    """Over many seeds, each image is as likely as any other to be in test, and to be in val."""
    hits = {"val": np.zeros(40), "test": np.zeros(40)}
    for seed in range(400):
        parts = split(raw([20, 20]), data(seed=seed, val_fraction=0.25))
        for name, count in hits.items():
            count[numbers(parts[name])] += 1
    # 400 draws with p = 0.2: mean 80, standard deviation 8.
    for name, count in hits.items():
        assert count.min() > 45, name
        assert count.max() < 115, name


def test_classes_are_carved_independently():
    parts = split(raw([50, 50]), data())
    first, second = (
        set(numbers(parts["test"])[parts["test"].labels == label] % 50) for label in (0, 1)
    )
    assert first != second


def test_val_fraction_leaves_the_test_split_alone_and_widens_val():
    small, large = (split(raw([200] * 3), data(val_fraction=f)) for f in (0.1, 0.3))
    np.testing.assert_array_equal(small["test"].images, large["test"].images)
    assert set(numbers(small["val"])) < set(numbers(large["val"]))


def test_the_membership_is_frozen():
    """Committed results rest on these very splits: another order would void them all."""
    parts = split(raw([500] * 10), data(seed=0))
    digests = {
        name: hashlib.sha256(np.ascontiguousarray(part.images).tobytes()).hexdigest()[:16]
        for name, part in parts.items()
    }
    assert digests == FROZEN


@pytest.mark.parametrize(
    ("there", "test_counts", "message"),
    [
        ([50, 0], None, "class '1' has 0 images to carve a test split"),
        ([50, 2], None, "class '1' has 2 images to carve a test split"),
        ([50, 5], None, "class '1' has 4 images to carve a val split"),
        ([50, 0], [5, 5], "class '1' has 0 images to carve a val split"),
        ([50, 1], [5, 5], "class '1' has 1 images to carve a val split"),
        ([4, 50], [5, 5], "class '0' has 4 images to carve a val split"),
    ],
)
def test_a_class_with_too_few_images(there, test_counts, message):
    with pytest.raises(PipelineError, match=message) as caught:
        split(raw(there, test_counts), data())
    assert "\n" not in str(caught.value)
    with pytest.raises(PipelineError, match=message):
        counts.of_splits(there, test_counts, [str(i) for i in range(2)], data())


def test_a_label_of_no_class():
    source = raw([50, 50])
    with pytest.raises(PipelineError, match="labels that stand for no class"):
        split(RawSplits(source.train, None, ["0"]), data())


@pytest.mark.parametrize(
    ("there", "most", "left"),
    [
        ([500, 300, 200], 0, [500, 300, 200]),
        ([500, 300, 200], 1000, [500, 300, 200]),
        ([500, 300, 200], 100, [50, 30, 20]),
        ([500, 300, 200], 7, [4, 2, 1]),
        ([1000, 1, 0], 10, [9, 1, 0]),
        ([5, 5, 5], 2, [1, 1, 0]),
        ([3, 3, 3], 4, [2, 1, 1]),
    ],
)
def test_a_limit_leaves_classes_in_their_shares(there, most, left):
    assert counts.limited(there, most) == left


@pytest.mark.parametrize("test_counts", [None, [40, 20]])
def test_limits_leave_so_many_images_of_train_and_of_test(test_counts):
    whole = split(raw([400, 200], test_counts), data())
    limit = {"limit": 60, "test_limit": 15}
    parts = split(raw([400, 200], test_counts), data().model_copy(update=limit))
    assert per_class(parts["train"], 2) == [40, 20] and per_class(parts["test"], 2) == [10, 5]
    np.testing.assert_array_equal(numbers(parts["val"]), numbers(whole["val"]))
    for name in ("train", "test"):
        some, every = numbers(parts[name]).tolist(), numbers(whole[name]).tolist()
        assert some == [each for each in every if each in set(some)], "in the same order"


def test_fewer_images_are_among_more_of_them():
    def taken(limit):
        return set(numbers(split(raw([400, 200]), data().model_copy(update=limit))["train"]))

    assert taken({"limit": 30}) < taken({"limit": 90}) < taken({"limit": 300}) < taken({})
    other = split(raw([400, 200]), data(seed=1).model_copy(update={"limit": 30}))["train"]
    assert set(numbers(other)) != taken({"limit": 30})


def test_limited_counts_are_known_without_the_images():
    class Known(Source):
        def expected(self, data):
            spec = ImageSpec(1, 2, 2, 2)
            return Expected(spec, counts.of_splits([400, 200], None, ["0", "1"], data))

        fetch = read = None

    limited = data().model_copy(update={"limit": 77, "test_limit": 9})
    parts = split(raw([400, 200]), limited)
    assert Known().limited(limited).by_class == {
        name: per_class(part, 2) for name, part in parts.items()
    }
