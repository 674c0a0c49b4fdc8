import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import some_images
from params_files import changed

from pipeline.core import params, paths
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split, write
from pipeline.evaluation import judge, label_free, protocol
from pipeline.evaluation.metrics import fid
from stages import judge as stage

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SPEC = ImageSpec(1, 16, 12, 1)
SETTINGS = params.Judge(
    seeds=[1, 2], features=8, batch=16, label_free=params.LabelFree(steps=3, learning_rate=0.01)
)


def train(seed=1, n=40, spec=SPEC, settings=SETTINGS):
    return label_free.train(some_images(n, spec), spec, settings, seed, CPU)


@pytest.fixture(scope="module")
def nets():
    return {seed: train(seed) for seed in SETTINGS.seeds}


@pytest.fixture(scope="module")
def facts(nets):
    images = some_images(40, SPEC).numpy()
    return [judge.label_free_facts(net, seed, images, CPU) for seed, net in nets.items()]


def test_the_loss_is_that_of_the_paper():
    """Written out as sums, in float64."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 0.7, (2, 6, 3))
    n, d = one.shape
    invariance = sum((one[i, j] - other[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (one, other):
        means = [sum(z[:, j]) / n for j in range(d)]
        for j in range(d):
            spread = sum((z[i, j] - means[j]) ** 2 for i in range(n)) / (n - 1)
            variance += max(0.0, 1 - math.sqrt(spread + 1e-4)) / d / 2
            for k in range(d):
                if k != j:
                    shared = sum((z[i, j] - means[j]) * (z[i, k] - means[k]) for i in range(n))
                    covariance += (shared / (n - 1)) ** 2 / d
    assert variance > 0
    found = label_free.vicreg(torch.from_numpy(one), torch.from_numpy(other))
    assert float(found) == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-10)


def still(monkeypatch, **but):
    for name in ("TURN", "SHEAR", "SHIFT", "MAX_NOISE"):
        monkeypatch.setattr(label_free, name, but.get(name, 0.0))
    monkeypatch.setattr(label_free, "SCALE", but.get("SCALE", 1.0))


def views(images, seed=0):
    return label_free.distort(images, torch.Generator().manual_seed(seed))


def test_without_any_distortion_a_view_is_the_image(monkeypatch):
    still(monkeypatch)
    images = to_signed(some_images(5, SPEC))
    torch.testing.assert_close(views(images), images, rtol=0, atol=1e-5)


def spot(n=500, size=32):
    """A bright disc in the middle of n dark images."""
    y, x = torch.meshgrid(*2 * [torch.arange(size) - (size - 1) / 2], indexing="ij")
    return (2 * (x**2 + y**2 < 36).float() - 1).expand(n, 1, size, size)


def centres(images):
    """Where the light is, from the middle, in shares of the side: [n] down and [n] across."""
    light = (images[:, 0] + 1).double()
    size = light.shape[-1]
    place = (torch.arange(size) - (size - 1) / 2) / size
    total = light.sum((1, 2))
    return (light.sum(2) * place).sum(1) / total, (light.sum(1) * place).sum(1) / total


def test_shifts_are_shares_of_the_side_in_both_directions(monkeypatch):
    still(monkeypatch, SHIFT=0.2)
    for found in centres(views(spot())):
        assert found.abs().max() == pytest.approx(0.2, abs=0.01)
        assert found.mean() == pytest.approx(0, abs=0.02)


def test_sizes_are_within_the_factor_both_ways(monkeypatch):
    still(monkeypatch, SCALE=1.5)
    area = (views(spot()) + 1).sum((1, 2, 3)) / (spot(1) + 1).sum()
    assert area.min() == pytest.approx(1.5**-2, rel=0.05)
    assert area.max() == pytest.approx(1.5**2, rel=0.05)


@pytest.mark.parametrize("name", ["TURN", "SHEAR"])
def test_turns_and_shears_move_what_is_away_from_the_middle(monkeypatch, name):
    still(monkeypatch, **{name: 0.3})
    dot = -torch.ones(300, 1, 33, 33)
    dot[:, :, 4:7, 15:18] = 1.0  # 11 pixels, a third of the side, above the middle
    down, across = centres(views(dot))
    assert across.abs().max() == pytest.approx(math.sin(0.3) / 3, rel=0.1)
    assert across.mean() == pytest.approx(0, abs=0.02)
    assert (down < -0.2).all()


def test_every_second_view_has_noise_as_the_labelled_judges_see(monkeypatch):
    still(monkeypatch, MAX_NOISE=label_free.MAX_NOISE)
    spread = views(torch.zeros(2000, 1, 32, 32)).flatten(1).std(dim=1)
    touched = spread > 1e-6
    assert touched.float().mean() == pytest.approx(0.5, abs=0.05)
    assert spread.max() == pytest.approx(0.2, rel=0.1)  # 0.1 of white, on -1..1
    assert label_free.MAX_NOISE == judge.MAX_NOISE


@pytest.mark.parametrize("size", [8, 28, 32, 64, 100, 128])
def test_the_dense_layer_sees_a_small_map_whatever_the_size(size):
    spec = ImageSpec(3, size, size - 3, 1)
    net = label_free.Encoder(spec, 64).eval()
    found = net.body[:-1](torch.zeros(1, *spec.shape))
    assert max(found.shape[2:]) <= label_free.LARGEST_MAP
    assert net(torch.zeros(2, *spec.shape)).shape == (2, 64)
    assert sum(each.numel() for each in net.parameters()) < 500_000


def test_training_is_deterministic_and_depends_on_the_seed(nets):
    again = train(1).state_dict()
    for name, value in nets[1].state_dict().items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(nets[1].embed.weight, nets[2].embed.weight)


def test_every_image_is_shown_before_any_again(monkeypatch):
    shown = []
    monkeypatch.setattr(
        label_free, "to_signed", lambda batch: shown.append(batch) or to_signed(batch)
    )
    settings = SETTINGS.model_copy(update={"batch": 10, "label_free": params.LabelFree(steps=4)})
    images = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(-1, *SPEC.shape)
    label_free.train(images, SPEC, settings, 1, CPU)
    seen = torch.cat(shown)[:, 0, 0, 0].tolist()
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20] != seen[20:]


def test_fewer_images_than_a_step_takes_are_refused():
    with pytest.raises(PipelineError, match=r"judge\.batch is 16"):
        train(n=15)


def test_features_do_not_depend_on_the_rest_of_the_batch(nets, monkeypatch):
    images = some_images(25, SPEC).numpy()
    expected = label_free.embed(nets[1], images, CPU)
    monkeypatch.setattr(label_free, "BATCH", 10)
    np.testing.assert_allclose(
        label_free.embed(nets[1], images[:7], CPU), expected[:7], rtol=1e-4, atol=1e-5
    )


def test_loaded_judges_give_identical_features_and_know_no_labels(tmp_path, nets, facts):
    folder = tmp_path / "judge"
    judge.save(folder, nets, SETTINGS, facts, kind="label_free", why="there are none")
    loaded = judge.load(folder, SPEC, CPU)
    images = some_images(30, SPEC, 3).numpy()
    seen = judge.see(loaded, images)
    assert seen.predictions == () and seen.take(np.arange(3)).predictions == ()
    for net, found, features in zip(nets.values(), facts, seen.features, strict=True):
        expected = label_free.embed(net, images, CPU).astype(float) * found["scale"]
        np.testing.assert_array_equal(features, expected)
    known = protocol.judge_facts(folder)
    assert known["kind"] == "label_free" and known["why"] == "there are none"
    assert known["recipe"] == judge.recipe(SETTINGS, "label_free") != judge.recipe(SETTINGS)


def test_scaled_training_features_have_a_covariance_of_trace_d(nets, facts):
    images = some_images(40, SPEC).numpy()
    for net, found in zip(nets.values(), facts, strict=True):
        [features] = judge.see([judge.Judge(net, found["scale"], CPU)], images).features
        assert np.trace(fid.moments(features).covariance) == pytest.approx(8, rel=1e-6)


def test_constant_features_have_no_scale(nets):
    with pytest.raises(PipelineError, match="constant"):
        judge.label_free_facts(nets[1], 1, np.zeros((20, *SPEC.shape), np.uint8), CPU)


def test_the_recipe_is_that_of_this_kind_alone(monkeypatch):
    before = {kind: judge.recipe(SETTINGS, kind) for kind in ("classifier", "label_free")}
    assert judge.recipe(SETTINGS.model_copy(update={"kind": "label_free"})) == before["classifier"]
    epochs = SETTINGS.model_copy(update={"epochs": 2})
    assert judge.recipe(epochs, "label_free") == before["label_free"]
    assert judge.recipe(epochs) != before["classifier"]
    steps = SETTINGS.model_copy(update={"label_free": params.LabelFree(steps=4)})
    assert judge.recipe(steps) == before["classifier"]
    assert judge.recipe(steps, "label_free") != before["label_free"]
    for name in label_free.CONSTANTS:
        with monkeypatch.context() as changed:
            changed.setattr(label_free, name, 7)
            assert judge.recipe(SETTINGS, "label_free") != before["label_free"], name
    with monkeypatch.context() as changed:
        changed.setattr(label_free, "RECIPE", label_free.RECIPE[1:])
        assert judge.recipe(SETTINGS, "label_free") != before["label_free"]


def test_all_constants_of_the_module_are_in_the_recipe():
    numbers = {name for name, value in vars(label_free).items() if isinstance(value, int | float)}
    assert numbers - {"BATCH"} == set(label_free.CONSTANTS)


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
    assert judge.learnt(accuracy, labels) is expected


def stored(labels):
    """A data set of noise, brighter in the second class if labels are ``learnable``."""
    splits = {}
    for seed, name in enumerate(("train", "val", "test")):
        given = np.arange(64) % (1 if labels == "none" else 2)
        light = 100 * given[:, None, None, None] * (labels == "learnable")
        noise = some_images(64, SPEC, seed).numpy() // 8
        splits[name] = Split((noise + light).astype(np.uint8), given)
    write(paths.PROCESSED, "toy", ["a"] if labels == "none" else ["a", "b"], splits)


@pytest.mark.parametrize(
    ("kind", "labels", "expected", "why"),
    [
        ("auto", "learnable", "classifier", "labels that can be learnt"),
        ("auto", "none", "label_free", "no labels"),
        ("auto", "random", "label_free", "cannot be learnt: classifiers name .* % of the test"),
        ("label_free", "learnable", "label_free", "params.yaml says so"),
        ("classifier", "random", "classifier", "params.yaml says so"),
    ],
)
def test_the_stage_takes_judges_that_can_judge(tmp_path, monkeypatch, kind, labels, expected, why):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    small = {"steps": 2, "learning_rate": 0.01}
    settings = {"kind": kind, "seeds": [1], "batch": 16, "epochs": 6, "label_free": small}
    changed(tmp_path, **{f"judge__{key}": value for key, value in settings.items()})
    stored(labels)
    stage.main()
    found = protocol.judge_facts()
    assert found["kind"] == expected
    assert re.search(why, found["why"])
    assert (found["judges"][0]["accuracy"] is None) == (expected == "label_free")
    assert judge.load(paths.JUDGE, ImageSpec(1, 16, 12, 1 if labels == "none" else 2), CPU)
