"""Metrics of translation, with translators and judges whose answers are known."""

import numpy as np
import pytest
import torch
from builders import tiny_model

from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation import judge, translation
from pipeline.evaluation.metrics import fid

SHAPE = (1, 4, 4)


def looking(images):
    """Takes the rows' means for features, and the first pixel's level for the label."""
    return images.mean(axis=(1, 3)) / 255.0, images[:, 0, 0, 0] // 26


def judge_by(look, scale=1.0):
    """A judge that looks at images by a function instead of a network."""
    return judge.Judge(look, scale, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _functions_for_networks(monkeypatch):
    monkeypatch.setattr(judge, "embed", lambda look, images, device: look(images))


class Translator:
    """Translates by formulas; every call must be of the same size."""

    spec, device = ImageSpec(*SHAPE, 10), torch.device("cpu")

    def __init__(self, ab, ba):
        self.formulas, self.sizes = {"ab": ab, "ba": ba}, set()

    def translate(self, images, direction):
        self.sizes.add(len(images))
        return self.formulas[direction](images)


def invert(images):
    return 255 - images


def nothing(images):
    return images


def noisy(n, low, high, seed):
    """Images whose first pixel shows their label, int64 [n]."""
    rng = np.random.default_rng(seed)
    images = rng.integers(low, high, (n, *SHAPE), dtype=np.uint8)
    labels = np.arange(n) % 10
    images[:, 0, 0, 0] = labels * 26
    return images, labels


def stored(folder, n=(40, 40), train=60, truth=True):
    """A: rather dark images; B: the negatives of others."""
    splits = {}
    for place, (name, (na, nb)) in enumerate(
        {"train": (train, train), "val": (10, 10), "test": n}.items()
    ):
        a, labels = noisy(na, 0, 150, 2 * place)
        originals, other_labels = noisy(nb, 0, 150, 2 * place + 1)
        known = truth and name != "train"
        splits[name] = Split(
            a,
            labels,
            invert(originals),
            other_labels,
            invert(a) if known else None,
            originals if known else None,
        )
    write(folder, "toy", [str(i) for i in range(10)], splits, ["dark", "light"])
    return Store(folder)


def quality(store, ab, ba, split="test", batch=7, judges=None, seed=0):
    judges = judges or [judge_by(looking)]
    judges = judge.Judges(judges)
    return translation.measure(Translator(ab, ba), judges, store, split, seed=seed, batch=batch)


def distance(one, other):
    return fid.frechet_distance(*(fid.moments(looking(images)[0]) for images in (one, other)))


def test_a_perfect_translation(tmp_path):
    store = stored(tmp_path)
    found, test, train = quality(store, invert, invert), store.split("test"), store.split("train")
    assert found["cycle_mse"] == 0
    assert found["translation_mse"] == found["translation_mse_ab"] == 0
    assert found["translation_label_accuracy"] == found["translation_label_accuracy_real"] == 1
    assert found["translation_n"] == 40
    expected = distance(invert(test.images), test.others)
    assert found["translation_fid_ab"] == pytest.approx(expected)
    assert found["translation_fid_ba"] == pytest.approx(distance(invert(test.others), test.images))
    assert found["translation_fid_identity"] == pytest.approx(distance(test.images, test.others))
    assert found["translation_fid_identity"] > 20 * expected
    # As good as real images of the domain, which the floor tells.
    for direction, real in (("ab", train.others), ("ba", train.images)):
        floor = found[f"translation_fid_{direction}_floor"]
        assert 0 < floor < 3 * found[f"translation_fid_{direction}"]
        assert floor > 0.2 * found[f"translation_fid_{direction}"]
        assert len(real) > 40


def test_leaving_images_as_they_are_scores_the_identity_keys(tmp_path):
    found = quality(stored(tmp_path), nothing, nothing)
    assert found["cycle_mse"] == 0
    for metric in ("mse", "label_accuracy"):
        assert found[f"translation_{metric}"] == found[f"translation_{metric}_identity"]
    for direction in ("ab", "ba"):
        assert found[f"translation_fid_{direction}"] == pytest.approx(
            found["translation_fid_identity"]
        )
    assert found["translation_mse"] > 0.1
    assert found["translation_label_accuracy"] < 0.2 < found["translation_label_accuracy_real"]


def test_errors_against_hand_calculation(tmp_path):
    """A to B is off by 51 levels, a fifth of white; B to A is right."""
    store = stored(tmp_path)
    found = quality(store, lambda x: (255 - x.int() - 51).clamp(0, 255).to(torch.uint8), invert)
    test = store.split("test")
    missed = np.clip(255 - test.images.astype(float) - 51, 0, 255) - test.truth_ab
    assert found["translation_mse_ab"] == pytest.approx((missed**2).mean() / 255**2)
    assert found["translation_mse_ab"] == pytest.approx(0.04, rel=0.01)
    assert found["translation_mse_ba"] == 0
    assert found["translation_mse"] == pytest.approx(found["translation_mse_ab"] / 2)
    around_a = 255 - np.clip(255 - test.images.astype(float) - 51, 0, 255) - test.images
    around_b = np.clip(255 - (255 - test.others.astype(float)) - 51, 0, 255) - test.others
    expected = ((around_a**2).mean() + (around_b**2).mean()) / 2 / 255**2
    assert found["cycle_mse"] == pytest.approx(expected)


def test_directions_are_not_mixed_up(tmp_path):
    """Only A to B is translated: its FID falls, that of B to A stays."""
    found = quality(stored(tmp_path), invert, nothing)
    assert found["translation_fid_ab"] < 0.05 * found["translation_fid_identity"]
    assert found["translation_fid_ba"] == pytest.approx(found["translation_fid_identity"])
    assert found["translation_mse_ab"] == 0 < found["translation_mse_ba"]
    assert found["translation_label_accuracy"] < 0.2


def test_nobody_knows_the_truth(tmp_path):
    found = quality(stored(tmp_path, truth=False), invert, invert)
    unknown = {key for key, value in found.items() if value is None}
    assert unknown == {key for key in translation.KEYS if "_mse" in key or "accuracy" in key} - {
        "cycle_mse"
    }


def test_domains_of_different_sizes_are_judged_on_as_many_of_each(tmp_path):
    store = stored(tmp_path, n=(40, 25))
    found = quality(store, invert, invert)
    assert found["translation_n"] == 25
    again, other = (quality(store, invert, invert, seed=seed) for seed in (0, 1))
    assert found == again
    assert other["translation_fid_ab"] != found["translation_fid_ab"]
    assert other["translation_mse"] == found["translation_mse"]


def test_too_few_training_images_have_no_floor(tmp_path):
    found = quality(stored(tmp_path, train=39), invert, invert)
    assert found["translation_fid_ab_floor"] is found["translation_fid_ba_floor"] is None
    assert found["translation_fid_ab"] is not None


def test_the_split_is_the_one_that_was_asked_for(tmp_path):
    store = stored(tmp_path)
    assert quality(store, invert, invert, split="val")["translation_n"] == 10


def test_judges_are_averaged(tmp_path):
    """FIDs by their geometric mean, accuracies by the arithmetic one."""

    def blind(images):
        return looking(images)[0], np.zeros(len(images))

    store = stored(tmp_path)
    one = quality(store, invert, invert)
    both = quality(store, invert, invert, judges=(judge_by(looking), judge_by(blind, 2.0)))
    assert both["translation_fid_ab"] == pytest.approx(2 * one["translation_fid_ab"])
    assert both["translation_label_accuracy"] == pytest.approx((1 + 0.1) / 2)


def test_batches_have_one_size_and_do_not_matter(tmp_path):
    store = stored(tmp_path)
    translator = Translator(invert, invert)
    found = translation.measure(
        translator, judge.Judges([judge_by(looking)]), store, "test", seed=0, batch=7
    )
    assert translator.sizes == {7}
    assert found == quality(store, invert, invert, batch=100)


def test_results_have_one_set_of_keys(tmp_path):
    found = quality(stored(tmp_path), invert, invert)
    assert tuple(found) == translation.KEYS
    assert all(value is not None for value in found.values())
    assert all(type(value) in (float, int) for value in found.values())


def test_a_family_that_does_not_translate_has_none_of_it(tmp_path):
    found = translation.measure(tiny_model("vae"), [], None, "test", seed=0, batch=7)
    assert found == dict.fromkeys(translation.KEYS)


@pytest.mark.parametrize(
    ("ab", "ba"),
    [
        (lambda x: x[:, :, :3], nothing),
        (nothing, lambda x: x[:, :, :3]),
        (lambda x: x / 255, nothing),
        (nothing, lambda x: x / 255),
    ],
)
def test_what_is_no_translation_is_refused_before_a_judge_sees_it(tmp_path, ab, ba):
    def see(images):
        raise AssertionError("it was shown to a judge")

    with pytest.raises(ValueError, match="images must be"):
        quality(stored(tmp_path), ab, ba, judges=[judge_by(see)])
