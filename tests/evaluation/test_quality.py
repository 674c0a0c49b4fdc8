import numpy as np
import pytest
import torch
from builders import some_images
from pipeline.core.images import ImageSpec

from pipeline.evaluation import judge, quality
from pipeline.evaluation.metrics import fid, kid, neighbours

SPEC = ImageSpec(1, 12, 10, 4)
FEATURES = 8


@pytest.fixture(scope="module")
def judges():
    """Untrained: random features tell images from darker ones as well."""
    found = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        net = judge.Classifier(SPEC, FEATURES).eval()
        found.append(judge.Judge(net, 1.0 + seed, torch.device("cpu")))
    return found


def images(n, seed=0):
    return some_images(n, SPEC, seed).numpy()


def test_fid_is_the_geometric_mean_and_the_range(judges):
    dark, real = images(30, 1) // 2, images(30, 2)
    each = [
        fid.frechet_distance(fid.moments(j.features(dark)), fid.moments(j.features(real)))
        for j in judges
    ]
    found = quality.measure(judges, dark, real)
    assert found["fid"] == pytest.approx(np.prod(each) ** (1 / 3), rel=1e-9)
    assert (found["fid_min"], found["fid_max"]) == (min(each), max(each))
    assert found["fid_min"] < found["fid"] < found["fid_max"]
    assert quality.distance(judges, dark, real) == found["fid"]


def test_all_else_is_the_mean_over_judges(judges):
    dark, real = images(30, 1) // 2 + 40, images(30, 2)
    pairs = [(j.features(dark), j.features(real)) for j in judges]
    kernels = [kid.kernel_distance(*pair) for pair in pairs]
    overlaps = [neighbours.overlap(*pair) for pair in pairs]
    found = quality.measure(judges, dark, real)
    assert set(found) == set(quality.KEYS)
    assert found["kid"] == pytest.approx(np.mean(kernels))
    assert (found["kid_min"], found["kid_max"]) == (min(kernels), max(kernels))
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name] == pytest.approx(np.mean([getattr(each, name) for each in overlaps]))
    coverages = [each.coverage for each in overlaps]
    assert (found["coverage_min"], found["coverage_max"]) == (min(coverages), max(coverages))


def test_a_set_on_itself_is_perfect_and_fid_never_negative(judges):
    found = quality.measure(judges, images(30, 1), images(30, 1))
    assert 0 <= found["fid_min"] <= found["fid_max"] < 1e-4
    assert 0 <= found["fid"] < 1e-4
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


@pytest.mark.parametrize("call", [quality.measure, quality.distance])
def test_sets_that_cannot_be_compared_are_refused(judges, call):
    with pytest.raises(ValueError, match="sizes must agree"):
        call(judges, images(30), images(29))
    with pytest.raises(ValueError, match="must be uint8"):
        call(judges, images(30).astype(np.float32), images(30))
    with pytest.raises(ValueError, match="images must be"):
        call(judges, images(30)[:, :, :8], images(30))


def test_copies_are_told_from_new_images_on_features_and_pixels(judges):
    training, unseen = images(60, 1), images(20, 2)
    found = quality.copying(judges, training[:20], training, unseen)
    assert set(found) == set(quality.COPYING_KEYS)
    assert found["authenticity"] == found["authenticity_pixels"] == 0
    assert found["authenticity_real"] > 0
    assert found["authenticity_pixels_real"] > 0
    new = quality.copying(judges, unseen, training, unseen)
    assert new["authenticity"] == new["authenticity_real"]
    assert new["authenticity_pixels"] == new["authenticity_pixels_real"]


def labelled(n, seed, classes=3):
    labels = np.arange(n) % classes
    return images(n, seed) // (1 + labels[:, None, None, None]).astype(np.uint8), labels


def test_fid_within_classes_is_over_pairs_of_the_same_class(judges):
    samples, real, training = (labelled(n, seed) for n, seed in ((60, 0), (45, 1), (90, 2)))
    found = quality.by_class(judges, samples, real, training)

    def of(set_, label):
        return set_[0][set_[1] == label][:15]

    each = [quality.distance(judges, of(samples, y), of(real, y)) for y in range(3)]
    floor = [quality.distance(judges, of(training, y), of(real, y)) for y in range(3)]
    assert found["class_fid_n"] == 15
    assert found["class_fid"] == pytest.approx(np.mean(each))
    assert found["class_fid_max"] == max(each)
    assert found["class_fid_worst"] == f"class {np.argmax(each)}"
    assert found["class_fid_real"] == pytest.approx(np.mean(floor))
    assert set(found) == set(quality.CLASS_KEYS)


def test_samples_of_the_wrong_class_are_seen_within_classes_and_not_over_all(judges):
    right, real, training = (labelled(90, seed) for seed in range(3))
    wrong = (right[0], (right[1] + 1) % 3)
    good, bad = (quality.by_class(judges, each, real, training) for each in (right, wrong))
    assert bad["class_fid"] > 3 * good["class_fid"]
    assert bad["class_fid_real"] == good["class_fid_real"]


@pytest.mark.parametrize("n", [3 * FEATURES, 20])
def test_classes_with_too_few_images_have_no_fid(judges, n):
    few, enough = labelled(n, 0), labelled(90, 1)
    assert set(quality.by_class(judges, few, enough, enough).values()) == {None}
    missing = (enough[0], np.where(enough[1] == 2, 0, enough[1]))
    assert set(quality.by_class(judges, enough, missing, enough).values()) == {None}
