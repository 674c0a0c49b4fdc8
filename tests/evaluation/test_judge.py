import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import some_images, some_labels

from pipeline.core import params
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split
from pipeline.evaluation import judge, protocol
from pipeline.evaluation.metrics import fid

CPU = torch.device("cpu")
SPEC = ImageSpec(1, 12, 10, 4)
SETTINGS = params.Judge(seeds=[1, 2], epochs=1, batch=16, learning_rate=0.01, features=8)


def train(spec=SPEC, seed=1, n=64, settings=SETTINGS):
    images, labels = some_images(n, spec), some_labels(n, spec)
    return judge.train_classifier(images, labels, spec, settings, seed, CPU)


def split(spec=SPEC, n=64):
    return Split(some_images(n, spec).numpy(), some_labels(n, spec).numpy())


@pytest.fixture(scope="module")
def nets():
    return {seed: train(seed=seed) for seed in SETTINGS.seeds}


@pytest.fixture(scope="module")
def facts(nets):
    return [judge.facts(net, seed, split(), split(), CPU) for seed, net in nets.items()]


@pytest.fixture(scope="module")
def judges(nets, facts):
    pairs = zip(nets.values(), facts, strict=True)
    return [judge.Judge(net, found["scale"], CPU) for net, found in pairs]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_rest_of_the_batch(nets):
    images = some_images(40, SPEC).numpy()
    together, labels = judge.embed(nets[1], images, CPU)
    alone, alone_labels = judge.embed(nets[1], images[7:8], CPU)
    close(together[7:8], alone)
    assert labels[7] == alone_labels[0]


@pytest.mark.parametrize("n", [1, 9, 10, 11, 20, 25])
def test_the_padded_tail_does_not_leak(nets, n, monkeypatch):
    images = some_images(25, SPEC).numpy()
    expected, expected_labels = judge.embed(nets[1], images, CPU)
    monkeypatch.setattr(judge, "BATCH", 10)
    found, labels = judge.embed(nets[1], images[:n], CPU)
    assert found.shape == (n, 8) and labels.shape == (n,)
    close(found, expected[:n])
    np.testing.assert_array_equal(labels, expected_labels[:n])


def test_features_are_those_under_the_head(nets):
    images = some_images(5, SPEC)
    features, labels = judge.embed(nets[1], images.numpy(), CPU)
    with torch.no_grad():
        logits = nets[1](to_signed(images))
        close(nets[1].head(torch.from_numpy(features)), logits)
    np.testing.assert_array_equal(labels, logits.argmax(dim=1))
    assert (features >= 0).all()


def quiet(monkeypatch):
    monkeypatch.setattr(judge, "MAX_NOISE", 0.0)


def test_augment_shifts_by_up_to_two_pixels_and_repeats_the_border(monkeypatch):
    quiet(monkeypatch)
    images = to_signed(some_images(400, SPEC)[:1].expand(400, -1, -1, -1))
    shifted = judge.augment(images, torch.Generator().manual_seed(0))
    rows, columns = np.arange(12), np.arange(10)
    candidates = {
        images[0, 0].numpy()[np.ix_((rows + y).clip(0, 11), (columns + x).clip(0, 9))].tobytes()
        for y, x in itertools.product(range(-2, 3), repeat=2)
    }
    assert {image.numpy().tobytes() for image in shifted[:, 0].contiguous()} == candidates


def test_augment_adds_noise_to_about_half_of_the_images():
    images = torch.zeros(2000, 1, 32, 32)
    noisy = judge.augment(images, torch.Generator().manual_seed(0))
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
        judge.augment(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_scaled_training_features_have_a_covariance_of_trace_d(judges):
    for features in judge.see(judges, split().images).features:
        covariance = fid.moments(features).covariance
        assert np.trace(covariance) == pytest.approx(8, rel=1e-6)


def test_every_judge_sees_every_image_in_its_own_scale(nets, judges):
    images = some_images(30, SPEC, 3).numpy()
    seen = judge.see(judges, images)
    assert len(seen) == 30 and seen.images is images
    assert len(seen.features) == len(seen.predictions) == len(judges) == 2
    for i, net in enumerate(nets.values()):
        features, labels = judge.embed(net, images, CPU)
        assert seen.features[i].dtype == np.float64
        np.testing.assert_array_equal(seen.features[i], features.astype(float) * judges[i].scale)
        np.testing.assert_array_equal(seen.predictions[i], labels)
    assert judges[0].scale != judges[1].scale


def test_some_of_the_images_are_seen_as_with_the_others(judges):
    images = some_images(30, SPEC, 3).numpy()
    whole, index = judge.see(judges, images), np.array([4, 4, 29, 0])
    some = whole.take(index)
    np.testing.assert_array_equal(some.images, images[index])
    for name in ("features", "predictions"):
        for one, other in zip(getattr(some, name), getattr(whole, name), strict=True):
            np.testing.assert_array_equal(one, other[index])


def test_constant_features_have_no_scale(nets):
    blank = Split(np.zeros((20, *SPEC.shape), np.uint8), np.zeros(20, np.int64))
    with pytest.raises(PipelineError, match="constant"):
        judge.facts(nets[1], 1, blank, blank, CPU)


def test_accuracy_is_over_the_test_labels(nets, facts):
    predictions = judge.embed(nets[1], split().images, CPU)[1]
    assert facts[0]["accuracy"] == (predictions == split().labels).mean()


def test_loaded_judges_give_identical_features(tmp_path, nets, facts, judges):
    judge.save(tmp_path / "judge", nets, SETTINGS, facts)
    loaded = judge.load(tmp_path / "judge", SPEC, CPU)
    images = some_images(30, SPEC, 3).numpy()
    before, after = judge.see(judges, images), judge.see(loaded, images)
    for name in ("features", "predictions"):
        for one, other in zip(getattr(before, name), getattr(after, name), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_missing_judge_says_what_to_run(tmp_path):
    with pytest.raises(PipelineError, match="dvc repro judge"):
        judge.load(tmp_path, SPEC, CPU)


def test_training_is_deterministic_and_depends_on_the_seed(nets):
    again, other = train(seed=1).state_dict(), nets[2].state_dict()
    for name, value in nets[1].state_dict().items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(nets[1].state_dict()["head.weight"], other["head.weight"])


def test_training_learns_what_tells_the_classes_apart():
    labels = some_labels(256, SPEC)
    images = (60 * labels)[:, None, None, None].expand(-1, *SPEC.shape).to(torch.uint8)
    settings = SETTINGS.model_copy(update={"epochs": 6})
    net = judge.train_classifier(images, labels, SPEC, settings, 1, CPU)
    assert (judge.embed(net, images.numpy(), CPU)[1] == labels.numpy()).mean() > 0.9


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(PipelineError, match=r"judge\.batch is 16"):
        train(n=15)


def test_recipe_depends_on_the_parameters_only(tmp_path, nets, facts):
    before = judge.recipe(SETTINGS)
    assert before != judge.recipe(SETTINGS.model_copy(update={"epochs": 2}))
    judge.save(tmp_path / "a", nets, SETTINGS, facts)
    other = {1: nets[2], 2: nets[1]}
    judge.save(tmp_path / "b", other, SETTINGS, facts)
    recipes = {protocol.judge_facts(tmp_path / name)["recipe"] for name in "ab"}
    assert recipes == {before}


def recipe_of_changed_code(folder, monkeypatch, old, new):
    """The recipe that judge.py would give with another text in place of the first ``old``."""
    text = Path(judge.__file__).read_text()
    assert old in text
    path = folder / "changed_judge.py"
    path.write_text(text.replace(old, new, 1))
    spec = importlib.util.spec_from_file_location("changed_judge", path)
    changed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "changed_judge", changed)
    spec.loader.exec_module(changed)
    return changed.recipe(SETTINGS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[spec.channels, 8, 16, 32]", "[spec.channels, 8, 16, 64]"),
        ('mode="replicate"', 'mode="reflect"'),
        ("weight_decay=1e-2", "weight_decay=1e-3"),
        ("net.features(batch)", "net.body(batch)"),
        ("math.sqrt(features.shape[1] / spread)", "math.sqrt(1 / spread)"),
        ("SHIFT = 2", "SHIFT = 3"),
        ("MAX_NOISE = 0.1", "MAX_NOISE = 0.2"),
    ],
    ids=["network", "augmentation", "training", "features", "scale", "shift", "noise"],
)
def test_recipe_depends_on_the_code_that_makes_a_judge(tmp_path, monkeypatch, old, new):
    assert recipe_of_changed_code(tmp_path, monkeypatch, old, new) != judge.recipe(SETTINGS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Judge:", "class Judge:"),
        ('"""The judges: small networks', '"""Other words: small networks'),
        ("    def take(self", "    def taken(self"),
        ('"""Load what `save` wrote.', '"""Read it again.'),
        ("class Classifier(", "def more():\n    pass\n\n\nclass Classifier("),
    ],
    ids=["nothing", "docstring", "what is seen", "loading", "more code"],
)
def test_recipe_depends_on_nothing_else_in_the_file(tmp_path, monkeypatch, old, new):
    assert recipe_of_changed_code(tmp_path, monkeypatch, old, new) == judge.recipe(SETTINGS)


@pytest.mark.parametrize("spec", [ImageSpec(3, 32, 32, 7), ImageSpec(1, 20, 24, 2)])
def test_other_shapes_and_numbers_of_classes(spec):
    net = train(spec, n=32)
    images = some_images(6, spec).numpy()
    features, labels = judge.embed(net, images, CPU)
    assert features.shape == (6, 8)
    assert labels.min() >= 0 and labels.max() < spec.classes
    assert net(to_signed(torch.from_numpy(images))).shape == (6, spec.classes)
