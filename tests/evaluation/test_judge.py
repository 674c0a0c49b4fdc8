from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import some_images, some_labels

from pipeline.core import params
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split
from pipeline.evaluation import classifier, judge, label_free, protocol, trunk
from pipeline.evaluation.metrics import fid

CPU = torch.device("cpu")
SPEC = ImageSpec(1, 12, 10, 4)
SETTINGS = params.Judge(
    seeds=[1, 2],
    batch=16,
    features=8,
    classifier=params.Classifier(steps=4),
    label_free=params.LabelFree(steps=3),
)


KIND = "classifier"


def train(spec=SPEC, seed=1, n=64, settings=SETTINGS):
    images, labels = some_images(n, spec), some_labels(n, spec)
    return classifier.train(images, labels, spec, settings, seed, CPU)


def split(spec=SPEC, n=64):
    return Split(some_images(n, spec).numpy(), some_labels(n, spec).numpy())


@pytest.fixture(scope="module")
def nets():
    return {seed: train(seed=seed) for seed in SETTINGS.seeds}


@pytest.fixture(scope="module")
def facts(nets):
    return [judge.facts(net, KIND, seed, split(), split(), CPU) for seed, net in nets.items()]


@pytest.fixture(scope="module")
def judges(nets, facts):
    pairs = zip(nets.values(), facts, strict=True)
    return judge.Judges([judge.Judge(net, found["scale"], CPU) for net, found in pairs])


@pytest.fixture(scope="module")
def encoders():
    """Networks of the other kind."""
    return {
        seed: label_free.train(some_images(64, SPEC), SPEC, SETTINGS, seed, CPU)
        for seed in SETTINGS.seeds
    }


@pytest.fixture(scope="module")
def both(judges, encoders):
    others = [judge.Judge(net, 2.0, CPU) for net in encoders.values()]
    return judge.Judges(judges.headline, others)


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


def test_scaled_training_features_have_a_covariance_of_trace_d(judges):
    for features in judge.see(judges, split().images).features:
        covariance = fid.moments(features).covariance
        assert np.trace(covariance) == pytest.approx(8, rel=1e-6)


def test_every_judge_sees_every_image_in_its_own_scale(nets, judges):
    images = some_images(30, SPEC, 3).numpy()
    seen = judge.see(judges, images)
    assert len(seen) == 30 and seen.images is images
    assert len(seen.features) == len(seen.predictions) == 2 and seen.second == ()
    for i, net in enumerate(nets.values()):
        features, labels = judge.embed(net, images, CPU)
        assert seen.features[i].dtype == np.float64
        np.testing.assert_array_equal(
            seen.features[i], features.astype(float) * judges.headline[i].scale
        )
        np.testing.assert_array_equal(seen.predictions[i], labels)
    one, other = judges.headline
    assert one.scale != other.scale


def test_the_other_kind_sees_beside_and_takes_no_part(judges, encoders, both):
    images = some_images(30, SPEC, 3).numpy()
    seen, alone = judge.see(both, images), judge.see(judges, images)
    for name in ("features", "predictions"):
        for here, there in zip(getattr(seen, name), getattr(alone, name), strict=True):
            np.testing.assert_array_equal(here, there)
    for found, net in zip(seen.second, encoders.values(), strict=True):
        np.testing.assert_array_equal(found, 2.0 * judge.embed(net, images, CPU)[0].astype(float))
    other = seen.by_second()
    assert other.features is seen.second and other.second == () and other.images is images


def test_labels_are_named_by_whoever_knows_them(both):
    """Also where the judges of the headline know none."""
    images = some_images(30, SPEC, 3).numpy()
    turned = judge.see(judge.Judges(both.second, both.headline), images)
    for here, there in zip(turned.predictions, judge.see(both, images).predictions, strict=True):
        np.testing.assert_array_equal(here, there)
    assert judge.see(judge.Judges(both.second), images).predictions == ()


def test_some_of_the_images_are_seen_as_with_the_others(both):
    images = some_images(30, SPEC, 3).numpy()
    whole, index = judge.see(both, images), np.array([4, 4, 29, 0])
    some = whole.take(index)
    np.testing.assert_array_equal(some.images, images[index])
    for name in ("features", "predictions", "second"):
        for one, other in zip(getattr(some, name), getattr(whole, name), strict=True):
            np.testing.assert_array_equal(one, other[index])


def test_constant_features_have_no_scale(nets):
    blank = Split(np.zeros((20, *SPEC.shape), np.uint8), np.zeros(20, np.int64))
    with pytest.raises(PipelineError, match=r"judge\.classifier\.learning_rate"):
        judge.facts(nets[1], KIND, 1, blank, blank, CPU)


def test_accuracy_is_over_the_test_labels(nets, facts):
    predictions = judge.embed(nets[1], split().images, CPU)[1]
    assert facts[0]["accuracy"] == (predictions == split().labels).mean()


def test_the_accuracy_of_a_judge_without_labels_is_that_of_a_probe(encoders):
    """A linear one: where features are the class itself, all is right; where they are not, not."""

    def of(labels):
        images = some_images(200, SPEC, 1).numpy() // 8
        images += (90 * labels[:, None, None, None]).astype(np.uint8)
        return Split(images, labels)

    told = np.arange(200) % 2
    train, test = of(told), of(told[::-1].copy())
    found = judge.facts(encoders[1], "label_free", 1, train, test, CPU)
    assert found["accuracy"] > 0.95
    other = Split(test.images, np.random.default_rng(0).permutation(told))
    assert judge.facts(encoders[1], "label_free", 1, train, other, CPU)["accuracy"] < 0.7
    alone = Split(train.images, np.zeros(200, np.int64))
    assert judge.facts(encoders[1], "label_free", 1, alone, alone, CPU)["accuracy"] is None


@pytest.mark.parametrize("turned", [False, True])
def test_loaded_judges_give_identical_features(tmp_path, nets, encoders, facts, turned):
    images = some_images(30, SPEC, 3).numpy()
    known = [{"seed": seed, "scale": 0.5, "accuracy": None} for seed in encoders]
    kinds = [
        judge.Trained(KIND, nets, facts),
        judge.Trained("label_free", encoders, known),
    ]
    judge.save(tmp_path / "judge", kinds[::-1] if turned else kinds, SETTINGS, "since")
    found = judge.see(judge.load(tmp_path / "judge", SPEC, CPU), images)
    first, second = (found.second, found.features) if turned else (found.features, found.second)
    for net, fact, features in zip(nets.values(), facts, first, strict=True):
        expected, labels = judge.embed(net, images, CPU)
        np.testing.assert_array_equal(features, expected.astype(float) * fact["scale"])
        assert any((labels == each).all() for each in found.predictions)
    for net, features in zip(encoders.values(), second, strict=True):
        np.testing.assert_array_equal(
            features, judge.embed(net, images, CPU)[0].astype(float) * 0.5
        )
    told = protocol.judge_facts(tmp_path / "judge")
    assert told["why"] == "since"
    assert [each["recipe"] for each in told["kinds"]] == [
        judge.recipe(SETTINGS, each["kind"]) for each in told["kinds"]
    ]


def test_one_kind_may_be_all_there_is(tmp_path, nets, facts):
    judge.save(tmp_path / "judge", [judge.Trained(KIND, nets, facts)], SETTINGS)
    loaded = judge.load(tmp_path / "judge", SPEC, CPU)
    assert len(loaded.headline) == 2 and loaded.second == ()


def test_a_missing_judge_says_what_to_run(tmp_path):
    with pytest.raises(PipelineError, match="dvc repro judge"):
        judge.load(tmp_path, SPEC, CPU)


def same_recipe(of, **changes):
    return judge.recipe(SETTINGS.model_copy(update=changes), of) == judge.recipe(SETTINGS, of)


@pytest.mark.parametrize(("kind", "other"), [(KIND, "label_free"), ("label_free", KIND)])
def test_the_recipe_is_that_of_one_kind_alone(kind, other):
    def steps(name):
        return {name: getattr(SETTINGS, name).model_copy(update={"steps": 7})}

    assert judge.recipe(SETTINGS, kind) != judge.recipe(SETTINGS, other)
    assert same_recipe(kind, kind="label_free") and same_recipe(kind, **steps(other))
    assert not same_recipe(kind, **steps(kind))
    for name, value in {"seeds": [3], "batch": 8, "features": 16}.items():
        assert not same_recipe(kind, **{name: value}), name


MODULES = {"classifier": classifier, "label_free": label_free}


@pytest.mark.parametrize("kind", MODULES)
def test_the_recipe_depends_on_the_code_that_makes_a_judge(monkeypatch, kind):
    before = judge.recipe(SETTINGS, kind)
    for module in (trunk, MODULES[kind]):
        for name in module.CONSTANTS:
            with monkeypatch.context() as changed:
                changed.setattr(module, name, 1001)
                assert judge.recipe(SETTINGS, kind) != before, name
        for left in module.RECIPE:
            with monkeypatch.context() as changed:
                rest = tuple(each for each in module.RECIPE if each is not left)
                changed.setattr(module, "RECIPE", rest)
                assert judge.recipe(SETTINGS, kind) != before, left
    for name in ("embed", "facts"):
        with monkeypatch.context() as changed:
            changed.setattr(judge, name, lambda: SimpleNamespace())
            assert judge.recipe(SETTINGS, kind) != before, name
    assert judge.recipe(SETTINGS, kind) == before


def test_all_that_makes_a_judge_is_in_its_recipe():
    """Every number of the modules, and every function and network."""
    for module in (trunk, classifier, label_free):
        mine = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float) or getattr(value, "__module__", "") == module.__name__
        }
        made_by = {each.__name__ for each in module.RECIPE}
        assert set(mine) - {"learnt"} == {*module.CONSTANTS, *made_by}, module
