from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import some_images

from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation import classifier, judge, protocol, quality
from pipeline.evaluation.metrics import fid, kid, neighbours

SPEC = ImageSpec(1, 12, 10, 4)
FEATURES = 8


@pytest.fixture(scope="module")
def judges():
    """Untrained: random features tell images from darker ones as well."""
    found = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        net = classifier.Classifier(SPEC, FEATURES).eval()
        found.append(judge.Judge(net, 1.0 + seed, torch.device("cpu")))
    return judge.Judges(found)


@pytest.fixture(scope="module")
def see(judges):
    """What the judges see of images."""
    return lambda images: judge.see(judges, images)


def images(n, seed=0):
    return some_images(n, SPEC, seed).numpy()


def test_fid_is_the_geometric_mean_and_the_range(see):
    dark, real = see(images(30, 1) // 2), see(images(30, 2))
    each = [
        fid.frechet_distance(*map(fid.moments, pair))
        for pair in zip(dark.features, real.features, strict=True)
    ]
    found = quality.measure(dark, real)
    assert len(each) == 3
    assert found["fid"] == pytest.approx(np.prod(each) ** (1 / 3), rel=1e-9)
    assert (found["fid_min"], found["fid_max"]) == (min(each), max(each))
    assert found["fid_min"] < found["fid"] < found["fid_max"]
    assert quality.distance(dark, real) == found["fid"]


def test_all_else_is_the_mean_over_judges(see):
    dark, real = see(images(30, 1) // 2 + 40), see(images(30, 2))
    pairs = list(zip(dark.features, real.features, strict=True))
    kernels = [kid.kernel_distance(*pair) for pair in pairs]
    overlaps = [neighbours.overlap(*pair) for pair in pairs]
    found = quality.measure(dark, real)
    assert set(found) == set(quality.KEYS)
    assert found["kid"] == pytest.approx(np.mean(kernels))
    assert (found["kid_min"], found["kid_max"]) == (min(kernels), max(kernels))
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name] == pytest.approx(np.mean([getattr(each, name) for each in overlaps]))
    coverages = [each.coverage for each in overlaps]
    assert (found["coverage_min"], found["coverage_max"]) == (min(coverages), max(coverages))


def test_a_set_on_itself_is_perfect_and_fid_never_negative(see):
    found = quality.measure(see(images(30, 1)), see(images(30, 1)))
    assert 0 <= found["fid_min"] <= found["fid_max"] < 1e-4
    assert 0 <= found["fid"] < 1e-4
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


@pytest.mark.parametrize("call", [quality.measure, quality.distance])
def test_sets_that_cannot_be_compared_are_refused(see, call):
    real = see(images(30))
    with pytest.raises(ValueError, match="sizes must agree"):
        call(see(images(29)), real)
    with pytest.raises(ValueError, match="must be uint8"):
        call(see(images(30).astype(np.float32)), real)
    with pytest.raises(ValueError, match="images must be"):
        call(replace(real, images=images(30)[:, :, :8]), real)
    with pytest.raises(ValueError, match="images must be"):
        call(replace(real, images=images(30)[:, 0]), real)


def test_accuracy_is_the_mean_over_judges(see):
    found = see(images(20))
    labels = found.predictions[0]
    each = [(predictions == labels).mean() for predictions in found.predictions]
    assert each[0] == 1 > min(each)
    assert quality.accuracy(found, labels) == pytest.approx(np.mean(each))


def test_copies_are_told_from_new_images_on_features_and_pixels(see):
    training, unseen = see(images(60, 1)), see(images(20, 2))
    found = quality.copying(training.take(np.arange(20)), training, unseen)
    assert set(found) == set(quality.COPYING_KEYS)
    assert found["authenticity"] == found["authenticity_pixels"] == 0
    assert found["authenticity_real"] > 0
    assert found["authenticity_pixels_real"] > 0
    new = quality.copying(unseen, training, unseen)
    assert new["authenticity"] == new["authenticity_real"]
    assert new["authenticity_pixels"] == new["authenticity_pixels_real"]


# --- within classes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(see):
    """n images that are darker the higher their label is, and the labels."""

    def make(n, seed, classes=3):
        labels = np.arange(n) % classes
        darker = images(n, seed) // (1 + labels[:, None, None, None]).astype(np.uint8)
        return see(darker), labels

    return make


def test_fid_within_classes_is_over_pairs_of_the_same_class(see, labelled):
    samples, real, training = (labelled(n, seed) for n, seed in ((60, 0), (45, 1), (90, 2)))
    found = quality.by_class(samples, real, training)

    def of(set_, label):
        return see(set_[0].images[set_[1] == label][:15])

    each = [quality.distance(of(samples, y), of(real, y)) for y in range(3)]
    floor = [quality.distance(of(training, y), of(real, y)) for y in range(3)]
    assert found["class_fid_n"] == 15
    assert found["class_fid"] == pytest.approx(np.mean(each))
    assert found["class_fid_max"] == pytest.approx(max(each))
    assert found["class_fid_worst"] == f"class {np.argmax(each)}"
    assert found["class_fid_real"] == pytest.approx(np.mean(floor))
    assert set(found) == set(quality.CLASS_KEYS)


def test_samples_of_the_wrong_class_are_seen_within_classes_and_not_over_all(labelled):
    right, real, training = (labelled(90, seed) for seed in range(3))
    wrong = (right[0], (right[1] + 1) % 3)
    good, bad = (quality.by_class(each, real, training) for each in (right, wrong))
    assert bad["class_fid"] > 3 * good["class_fid"]
    assert bad["class_fid_real"] == good["class_fid_real"]


@pytest.mark.parametrize("n", [3 * FEATURES, 20])
def test_classes_with_too_few_images_have_no_fid(labelled, n):
    few, enough = labelled(n, 0), labelled(90, 1)
    assert set(quality.by_class(few, enough, enough).values()) == {None}
    missing = (enough[0], np.where(enough[1] == 2, 0, enough[1]))
    assert set(quality.by_class(enough, missing, enough).values()) == {None}


# --- all of it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "processed"
    parts = {
        name: Split(images(n, seed), np.arange(n) % SPEC.classes)
        for seed, (name, n) in enumerate({"train": 60, "val": 20, "test": 40}.items(), start=1)
    }
    write(folder, "toy", list("abcd"), parts)
    return Store(folder)


def test_of_very_many_training_images_a_part_is_looked_at_and_that_is_said(
    store, judges, see, monkeypatch
):
    samples = see(images(40, 9))
    whole = quality.real_images(store, judges, "test", 40, seed=0)
    assert "authenticity_n" not in quality.of_samples(samples, None, whole)
    monkeypatch.setattr(protocol, "MOST_TRAINING", 20)
    real = quality.real_images(store, judges, "test", 40, seed=0)
    assert (len(real.train), real.trained_on) == (20, 60)
    chosen = [
        next(i for i, each in enumerate(store.split("train").images) if (each == image).all())
        for image in real.train.images
    ]
    assert len(set(chosen)) == 20
    assert real.train_labels.tolist() == [i % SPEC.classes for i in chosen]
    found = quality.of_samples(samples, None, real)
    assert found["authenticity_n"] == 20
    assert found["fid"] == quality.of_samples(samples, None, whole)["fid"]


def test_of_very_many_samples_the_first_are_looked_at_for_copies(store, judges, see, monkeypatch):
    real = quality.real_images(store, judges, "test", 40, seed=0)
    copies = np.array(real.train.images[:12])
    samples = see(np.concatenate([images(6, 9), copies, images(22, 8)]))
    whole = quality.of_samples(samples, None, real)
    assert "authenticity_samples" not in whole
    monkeypatch.setattr(protocol, "MOST_SUSPECTS", 40)
    assert quality.of_samples(samples, None, real) == whole
    monkeypatch.setattr(protocol, "MOST_SUSPECTS", 16)
    found = quality.of_samples(samples, None, real)
    assert found.pop("authenticity_samples") == 16
    assert found["authenticity_pixels"] <= 6 / 16 < whole["authenticity_pixels"]
    # Real images at even distances, since those of one class may follow each other.
    evenly = real.reference.take(np.array([40 * k // 16 for k in range(16)]))
    assert evenly.images[-1].tobytes() == real.reference.images[37].tobytes()
    monkeypatch.undo()
    expected = quality.copying(samples.take(np.arange(16)), real.train, evenly)
    assert found == {**whole, **expected}
    assert expected != {key: whole[key] for key in expected}


def assert_seen_alike(one, other):
    np.testing.assert_array_equal(one.images, other.images)
    for name in ("features", "predictions"):
        for first, second in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_real_images_are_those_of_the_protocol(store, judges, see):
    found = quality.real_images(store, judges, "test", 25, seed=3)
    split, train = store.split("test"), store.split("train")
    assert_seen_alike(found.split, see(np.array(split.images)))
    assert_seen_alike(found.train, see(np.array(train.images)))
    assert_seen_alike(found.reference, see(protocol.reference_images(store, "test", 25, 3)))
    np.testing.assert_array_equal(found.labels, split.labels)
    np.testing.assert_array_equal(found.train_labels, train.labels)
    with pytest.raises(PipelineError, match=r"sample\.n = 41"):
        quality.real_images(store, judges, "test", 41, seed=3)


def test_every_judge_sees_every_real_image_once(store, judges, monkeypatch):
    shown, embed = [], judge.embed

    def counted(net, images_, device):
        shown.append((net, len(images_)))
        return embed(net, images_, device)

    monkeypatch.setattr(judge, "embed", counted)
    real = quality.real_images(store, judges, "test", 40, seed=0)
    assert len(shown) == 2 * len(judges.headline)
    assert set(shown) == {(each.net, n) for each in judges.headline for n in (40, 60)}
    quality.of_samples(real.split, real.labels, real)
    assert len(shown) == 2 * len(judges.headline)


@pytest.fixture(scope="module")
def real(store, judges):
    return quality.real_images(store, judges, "test", 20, seed=0)


def test_samples_are_measured_and_looked_for_among_the_training_images(see, real):
    samples = see(images(20, 5) // 2)
    found = quality.of_samples(samples, None, real)
    assert found == {
        **quality.measure(samples, real.reference),
        **quality.copying(samples, real.train, real.reference),
        "label_accuracy": None,
    }


def test_what_was_asked_for_is_compared_with_what_the_judges_see(judges, store, labelled):
    """Of the first judge alone, so that its predictions may stand for labels."""
    first = judge.Judges(judges.headline[:1])
    real = quality.real_images(store, first, "test", 40, seed=0)
    real = replace(real, labels=real.split.predictions[0], train_labels=real.train.predictions[0])
    samples = judge.see(first, images(40, 5))
    asked = samples.predictions[0]
    found = quality.of_samples(samples, asked, real)
    assert found["label_accuracy"] == found["label_accuracy_real"] == 1
    half = np.where(np.arange(40) < 20, asked, (asked + 1) % SPEC.classes)
    found = quality.of_samples(samples, half, real)
    assert (found["label_accuracy"], found["label_accuracy_real"]) == (0.5, 1)
    within = quality.by_class(
        (samples, half), (real.split, real.labels), (real.train, real.train_labels)
    )
    assert found.items() >= within.items()
    assert found.items() >= quality.of_samples(samples, None, real).items() - {
        ("label_accuracy", None)
    }


def test_fid_within_classes_is_against_the_split_and_its_floor_is_of_training_images(
    see, labelled, real
):
    split, training, samples = labelled(60, 1), labelled(90, 2), labelled(20, 3)
    real = replace(
        real, split=split[0], labels=split[1], train=training[0], train_labels=training[1]
    )
    few = quality.of_samples(*samples, real)
    assert {few[key] for key in quality.CLASS_KEYS} == {None}
    samples = labelled(60, 3)
    real = replace(real, reference=real.split)
    found = quality.of_samples(*samples, real)
    assert found["class_fid"] > 0
    assert found.items() >= quality.by_class(samples, split, training).items()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x.astype(np.float32),
        lambda x: x[:, :, :7],
        lambda x: x[:5],
        lambda x: x[:, 0],
    ],
    ids=["floats", "another height", "too few", "no channels"],
)
def test_samples_that_are_not_like_the_reference_are_refused(see, real, spoil):
    samples = see(images(20, 5))
    with pytest.raises(ValueError, match="images"):
        quality.of_samples(replace(samples, images=spoil(samples.images)), None, real)


def test_a_model_that_draws_nothing_has_none_of_what_samples_have(see, real):
    assert set(quality.NOTHING.values()) == {None}
    assert quality.NOTHING.keys() == quality.of_samples(see(images(20)), None, real).keys()
