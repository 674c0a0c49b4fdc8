import re

import numpy as np
import pytest

from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation import ladders, verdict
from pipeline.evaluation.judge import Judges

N = 150


def images(n, seed, light=0.0):
    """Smooth blobs of three colours on grey, uint8 [n, 3, 16, 16], and which colour each is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    y, x = np.mgrid[:16, :16]
    centre = rng.uniform(5, 11, (n, 2, 1, 1))
    blob = np.exp(-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 4)
    colour = 0.3 + np.eye(3)[labels] * 0.7
    texture = rng.normal(0, 6, (n, 3, 16, 16))
    found = 60 + light + 150 * colour[:, :, None, None] * blob[:, None] + texture
    return found.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("data"))


def stored(folder, light=0.0):
    sizes = {"train": 400, "val": 20, "test": N}
    parts = {
        name: Split(*images(n, seed, light * (name == "test")))
        for seed, (name, n) in enumerate(sizes.items())
    }
    write(folder / "processed", "blobs", ["a", "b", "c"], parts)
    return Store(folder / "processed")


class Sharp:
    """Sees colours, places and texture."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def look(self, images):
        return self.scale * self.features(images / 255.0), None

    def features(self, x):
        colour = x.mean((2, 3))
        fine = 4 * np.sqrt(np.square(np.diff(x, axis=3)).mean((2, 3)))
        coarse = x.reshape(len(x), 3, 4, 4, 4, 4).mean((3, 5)).reshape(len(x), -1)[:, ::4]
        return np.concatenate([20 * colour, fine, 4 * coarse], axis=1)


class ShortSighted(Sharp):
    """Sees no blur."""

    def features(self, x):
        return super().features(x)[:, :3]


def judged(store, *headline, second=(), seed=0):
    known = [
        {"kind": kind, "judges": [{"accuracy": 0.5 + i / 10} for i, _ in enumerate(judges)]}
        for kind, judges in (("classifier", headline), ("label_free", second))
        if judges
    ]
    judges = Judges(headline, second)
    return verdict.judge_the_judges(store, judges, known, n=N, split="test", seed=seed)


def test_judges_that_see_everything_judge(store):
    found = judged(store, Sharp(), Sharp())
    assert found.kinds[0].reasons == []
    facts = found.facts()
    assert facts["ranks"] is True and facts["shifted"] is False
    assert found.shift == pytest.approx(1, abs=0.5)
    [of_kind] = facts["kinds"]
    assert of_kind["kind"] == "classifier" and of_kind["accuracy"] == [0.5, 0.6]
    assert all(len(each["fid"]) == 2 for each in of_kind["rungs"])
    assert list(dict.fromkeys(each["ladder"] for each in of_kind["rungs"])) == [
        "real",
        "noise",
        "blur",
        "colour",
        "missing",
        "mean",
        "uniform",
    ]


def test_a_judge_that_sees_no_blur_does_not(store):
    found = judged(store, Sharp(), ShortSighted())
    assert any("1 of 2 judges hardly see blur of 2 px" in each for each in found.kinds[0].reasons)
    assert found.facts()["ranks"] is False


def test_judges_that_disagree_by_a_factor_are_told(store):
    found = judged(store, Sharp(), Sharp(scale=4.0))
    assert [each for each in found.kinds[0].reasons if each.startswith("the judges disagree")]
    assert not [
        each for each in judged(store, Sharp(), Sharp(1.1)).kinds[0].reasons if "disagree" in each
    ]


REAL = [1.0, 1.2]
GOOD = {
    ladders.REAL: {"real": REAL},
    "noise": {"a little noise": [1.0, 1.1], "noise": [3.0, 4.0]},
    "blur": {"blur": [9.0, 9.0]},
    "missing": {"without 1 of 3": [1.5, 1.5], "one kind alone": [20.0, 20.0]},
    "mean": {"the mean image": [50.0, 60.0]},
    "uniform": {"uniform noise": [90.0, 99.0]},
}


@pytest.mark.parametrize(
    ("ladder", "rungs", "told"),
    [
        (
            "noise",
            {"a": [5.0, 5.0], "b": [4.0, 4.0]},
            "b scores better than a: FID 4.00 after 5.00",
        ),
        ("noise", {"a": [0.4, 1.0], "b": [4.0, 4.0]}, "a scores better than real images"),
        ("noise", {"a": [1.2, 1.2], "b": [1.2, 4.0]}, "1 of 2 judges hardly see b"),
        ("missing", {"without 1 of 3": [1.0, 2.0], "b": [9.0, 9.0]}, "1 of 2 .* without 1 of 3"),
        ("blur", {"blur": [70.0, 70.0]}, "blur has FID 70.00, and the mean image"),
        ("uniform", {"uniform noise": [1.1, 1.1]}, "2 of 2 judges hardly see uniform noise"),
        ("mean", {"the mean image": [12.0, 90.0]}, "disagree: the mean image has FID 12.00 to 90"),
    ],
)
def test_each_known_order_is_looked_at(ladder, rungs, told):
    assert verdict._reasons(GOOD) == []
    [reason] = verdict._reasons({**GOOD, ladder: rungs})
    assert re.search(told, reason)


def test_a_test_split_of_other_images_is_a_shift(tmp_path):
    found = judged(stored(tmp_path, light=25.0), Sharp())
    assert found.shift > 5 and found.facts()["shifted"] is True


def test_it_depends_on_the_seed_alone(store):
    one, again = (judged(store, Sharp()) for _ in range(2))
    assert one == again
    assert judged(store, Sharp(), seed=1).kinds != one.kinds


def test_both_kinds_are_judged_and_the_headline_decides(store):
    """A second opinion that sees nothing is said to see nothing, and spoils nothing."""
    found = judged(store, Sharp(), second=(ShortSighted(),)).facts()
    assert found["ranks"] is True
    assert [each["ranks"] for each in found["kinds"]] == [True, False]
    turned = judged(store, ShortSighted(), second=(Sharp(),)).facts()
    assert turned["ranks"] is False and turned["reasons"] == turned["kinds"][0]["reasons"]
    assert turned["kinds"][0]["rungs"] == found["kinds"][1]["rungs"]


def test_the_floor_is_what_halves_of_the_training_images_have(store):
    found = judged(store, Sharp()).facts()
    assert found["floor_n"] == N and len(found["floor"]) == verdict.HALVES
    assert len(set(found["floor"])) == verdict.HALVES


@pytest.mark.parametrize(("across", "shifted"), [(0.7, False), (1.9, False), (2.1, True)])
def test_a_shift_begins_at_twice_what_halves_of_one_set_differ_by(across, shifted):
    kinds = [verdict.OfKind("classifier", [0.9], {**GOOD})]
    facts = verdict.Verdict(kinds, N, [1.0], [across]).facts()
    assert facts["shifted"] is shifted and facts["shift"] == across
