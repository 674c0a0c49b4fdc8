import itertools

import numpy as np
import pytest
import torch
from builders import some_images, some_labels

from pipeline.core import params, seeds
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.evaluation import classifier, judge, trunk

CPU = torch.device("cpu")
SPEC = ImageSpec(1, 12, 10, 4)
SETTINGS = params.Judge(batch=16, features=8, classifier=params.Classifier(steps=4))


def train(spec=SPEC, seed=1, n=64, settings=SETTINGS):
    images, labels = some_images(n, spec), some_labels(n, spec)
    return classifier.train(images, labels, spec, settings, seed, CPU)


def steps(n):
    return SETTINGS.model_copy(update={"classifier": params.Classifier(steps=n)})


def quiet(monkeypatch):
    monkeypatch.setattr(classifier, "MAX_NOISE", 0.0)


def test_augment_shifts_by_up_to_two_pixels_and_repeats_the_border(monkeypatch):
    quiet(monkeypatch)
    images = to_signed(some_images(400, SPEC)[:1].expand(400, -1, -1, -1))
    shifted = classifier.augment(images, torch.Generator().manual_seed(0))
    rows, columns = np.arange(12), np.arange(10)
    candidates = {
        images[0, 0].numpy()[np.ix_((rows + y).clip(0, 11), (columns + x).clip(0, 9))].tobytes()
        for y, x in itertools.product(range(-2, 3), repeat=2)
    }
    assert {image.numpy().tobytes() for image in shifted[:, 0].contiguous()} == candidates


def test_augment_adds_noise_to_about_half_of_the_images():
    images = torch.zeros(2000, 1, 32, 32)
    noisy = classifier.augment(images, torch.Generator().manual_seed(0))
    spread = noisy.flatten(1).std(dim=1)
    touched = spread > 0
    assert touched.float().mean() == pytest.approx(0.5, abs=0.05)
    # On -1..1, where white is 2 above black, a standard deviation of 0.1 of white is 0.2.
    assert spread.max() == pytest.approx(0.2, rel=0.1)
    assert spread[touched].mean() == pytest.approx(0.1, rel=0.1)
    assert noisy[touched].mean().abs() < 0.01


def test_augment_is_a_function_of_its_generator():
    images = to_signed(some_images(20, SPEC))
    first, second, other = (
        classifier.augment(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_training_is_deterministic_and_depends_on_the_seed():
    nets = {seed: train(seed=seed) for seed in (1, 2)}
    again, other = train(seed=1).state_dict(), nets[2].state_dict()
    for name, value in nets[1].state_dict().items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(nets[1].state_dict()["head.weight"], other["head.weight"])


def test_training_learns_what_tells_the_classes_apart():
    labels = some_labels(256, SPEC)
    images = (60 * labels)[:, None, None, None].expand(-1, *SPEC.shape).to(torch.uint8)
    net = classifier.train(images, labels, SPEC, steps(96), 1, CPU)
    assert (judge.embed(net, images.numpy(), CPU)[1] == labels.numpy()).mean() > 0.9


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(PipelineError, match=r"judge\.batch is 16"):
        train(n=15)


def test_the_cost_is_that_of_the_steps_and_every_image_is_shown_before_any_again(monkeypatch):
    shown = []
    monkeypatch.setattr(
        classifier, "to_signed", lambda batch: shown.append(batch) or to_signed(batch)
    )
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, *SPEC.shape)
    labels = some_labels(40, SPEC)
    classifier.train(images, labels, SPEC, steps(5), 1, CPU)
    seen = [batch[:, 0, 0, 0].tolist() for batch in shown]
    assert [len(each) for each in seen] == 5 * [16]
    for epoch, of_epoch in enumerate((seen[:2], seen[2:4], seen[4:])):
        order = torch.randperm(40, generator=seeds.generator(1, "judge", epoch)).tolist()
        assert [*itertools.chain(*of_epoch)] == order[: 16 * len(of_epoch)]


@pytest.mark.parametrize("spec", [ImageSpec(3, 32, 32, 7), ImageSpec(1, 20, 24, 2)])
def test_other_shapes_and_numbers_of_classes(spec):
    net = train(spec, n=32)
    images = some_images(6, spec).numpy()
    features, labels = judge.embed(net, images, CPU)
    assert features.shape == (6, 8)
    assert labels.min() >= 0 and labels.max() < spec.classes
    assert net(to_signed(torch.from_numpy(images))).shape == (6, spec.classes)


@pytest.mark.parametrize(
    ("accuracy", "counts", "expected"),
    [
        (0.55, [250, 250], False),
        (0.62, [250, 250], True),
        (0.62, [20, 20], False),  # as good as that by chance, with so few
        (0.905, [900, 100], False),
        (0.95, [900, 100], True),
        (0.98, 10 * [100], True),
    ],
)
def test_labels_are_learnt_if_classifiers_beat_the_most_frequent_class(accuracy, counts, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    assert classifier.learnt(accuracy, labels) is expected


@pytest.mark.parametrize(
    ("size", "side"), [(7, 7), (8, 4), (28, 7), (32, 4), (64, 4), (100, 7), (128, 4)]
)
def test_a_dense_layer_sees_a_small_map_whatever_the_size(size, side):
    for width in (size, size - 3):
        spec = ImageSpec(3, size, width, 5)
        net = classifier.Classifier(spec, 64).eval()
        found = net.body[:-1](torch.zeros(1, *spec.shape))
        assert found.shape[2] == side and found.shape[3] <= side
        assert net(torch.zeros(2, *spec.shape)).shape == (2, 5)
        assert sum(each.numel() for each in net.parameters()) < 400_000


@pytest.mark.parametrize(("size", "side"), [(28, 28), (40, 40), (41, 20), (64, 32), (128, 64)])
def test_large_images_are_halved_by_the_first_convolution_which_sees_every_pixel(size, side):
    spec = ImageSpec(1, size, size, 5)
    first = trunk.trunk(spec)[0][0]
    images = torch.ones(1, *spec.shape, requires_grad=True)
    found = first(images)
    assert found.shape[2:] == (side, side)
    found.abs().sum().backward()
    assert (images.grad != 0).all()
