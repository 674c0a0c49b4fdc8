"""Two unpaired domains: who is in which, what is hidden from training, and how it is stored."""

import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import Domains
from pipeline.datasets import domains
from pipeline.datasets.store import SPLITS, Split, Store, write
from stages import domains as stage

ROOT = Path(__file__).parents[2]
CLASSES = ["zero", "one", "two"]
TRANSFORMED = [name for name in domains.MAKERS if name != "classes"]


def images(n, shape=(1, 6, 6), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def stored(folder, shape=(1, 6, 6), counts=(20, 12, 7), classes=CLASSES, labels=None):
    """A store whose images all differ, with labels in random order."""
    every = images(sum(counts), shape)
    assert len({each.tobytes() for each in every}) == len(every)
    rng, splits, start = np.random.default_rng(1), {}, 0
    for name, n in zip(SPLITS, counts, strict=True):
        given = rng.permutation(np.arange(n) % len(classes)) if labels is None else labels(n)
        splits[name] = Split(every[start : start + n], given.astype(np.int64))
        start += n
    write(folder, "toy", list(classes), splits)
    return Store(folder)


@pytest.fixture
def store(tmp_path):
    return stored(tmp_path / "processed")


def keys(array):
    return [each.tobytes() for each in np.asarray(array)]


# Transformations ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 5, 4)])
def test_outline_is_the_external_gradient(shape):
    found = images(6, shape)
    largest = ndimage.maximum_filter(found, size=(1, 1, 3, 3), mode="constant", cval=0)
    np.testing.assert_array_equal(domains.outline(found), largest - found)


def test_outline_of_a_block_is_the_ring_around_it():
    image = np.zeros((1, 1, 6, 6), np.uint8)
    image[0, 0, 2:4, 2:4] = 200
    ring = np.zeros_like(image)
    ring[0, 0, 1:5, 1:5] = 200
    ring[0, 0, 2:4, 2:4] = 0
    np.testing.assert_array_equal(domains.outline(image), ring)


def test_rotate_is_a_quarter_turn_counter_clockwise():
    image = np.array([[[[1, 2], [3, 4]]]], np.uint8)
    np.testing.assert_array_equal(domains.rotate(image), [[[[2, 4], [1, 3]]]])
    assert domains.rotate(image).flags["C_CONTIGUOUS"]


def test_invert_is_the_negative():
    image = np.array([[[[0, 1], [128, 255]]]], np.uint8)
    found = domains.invert(image)
    np.testing.assert_array_equal(found, [[[[255, 254], [127, 0]]]])
    assert found.dtype == np.uint8


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("channels", [1, 3])
def test_transformations_leave_their_input_and_its_type_alone(name, channels):
    before = images(4, (channels, 6, 6))
    given = before.copy()
    found = domains.MAKERS[name].transform(given)
    assert found.dtype == np.uint8 and found.shape == given.shape
    np.testing.assert_array_equal(given, before)
    assert not np.array_equal(found, given)


def test_params_name_every_transformation_and_no_other():
    options = get_args(Domains.model_fields["transformation"].annotation)
    assert set(options) == set(domains.MAKERS)


# Halves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMED)
def test_domains_share_no_image_and_lose_none(store, name):
    splits, _ = domains.make(store, Domains(transformation=name))
    for part in SPLITS:
        whole = dict(zip(keys(store.split(part).images), store.split(part).labels, strict=True))
        first, second = splits[part], set()
        for key, label in zip(keys(first.images), first.labels, strict=True):
            assert whole[key] == label
        inverse = {
            domains.MAKERS[name]
            .transform(np.frombuffer(key, np.uint8).reshape(1, 1, 6, 6))[0]
            .tobytes(): key
            for key in whole
        }
        for key, label in zip(keys(first.others), first.other_labels, strict=True):
            assert whole[inverse[key]] == label
            second.add(inverse[key])
        assert not set(keys(first.images)) & second
        assert set(keys(first.images)) | second == set(whole)


@pytest.mark.parametrize("counts", [(20, 12, 7), (9, 11, 13)])
def test_each_class_is_halved_and_so_is_the_whole(tmp_path, counts):
    splits, _ = domains.make(stored(tmp_path / "p", counts=counts), Domains())
    for each in splits.values():
        first, second = (np.bincount(x, minlength=3) for x in (each.labels, each.other_labels))
        assert abs(first - second).max() <= 1
        assert abs(len(each.images) - len(each.others)) <= 1


def test_halves_keep_the_order_of_the_split(store):
    splits, _ = domains.make(store, Domains())
    for part in SPLITS:
        place = {key: i for i, key in enumerate(keys(store.split(part).images))}
        order = [place[key] for key in keys(splits[part].images)]
        assert order == sorted(order)


def test_halves_depend_on_the_seed_and_the_split_alone():
    labels = np.arange(40) % 2
    one = domains.halves(labels, ["a", "b"], 0, "train")
    for other, same in (
        (domains.halves(labels, ["a", "b"], 0, "train"), True),
        (domains.halves(labels, ["a", "b"], 1, "train"), False),
        (domains.halves(labels, ["a", "b"], 0, "test"), False),
    ):
        assert np.array_equal(one[0], other[0]) == same


def test_halves_are_what_they_always_were():
    """Other halves would be another data set under the same name."""
    first, second = domains.halves(np.arange(12) % 3, CLASSES, 0, "test")
    assert first.tolist() == HALF
    assert sorted([*first, *second]) == list(range(12))


HALF = [0, 2, 4, 5, 7, 9]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_the_truth_is_known_where_it_is_tested_and_hidden_from_training(store, name):
    transform = domains.MAKERS[name].transform
    splits, _ = domains.make(store, Domains(transformation=name))
    assert splits["train"].truth_ab is None and splits["train"].truth_ba is None
    for part in ("val", "test"):
        each = splits[part]
        np.testing.assert_array_equal(each.truth_ab, transform(each.images))
        np.testing.assert_array_equal(transform(each.truth_ba), each.others)
        assert set(keys(each.truth_ba)) <= set(keys(store.split(part).images))


def test_rotating_takes_square_images(tmp_path):
    oblong = stored(tmp_path / "p", shape=(1, 4, 6))
    with pytest.raises(PipelineError, match=r"domains\.transformation = 'rotate'.*square"):
        domains.make(oblong, Domains(transformation="rotate"))
    domains.make(oblong, Domains(transformation="outline"))


def test_a_domain_without_images_is_refused(tmp_path):
    small = stored(tmp_path / "p", counts=(8, 1, 4), classes=["only"])
    with pytest.raises(PipelineError, match="the val split has no image of 'toy'"):
        domains.make(small, Domains())


# Classes as domains ------------------------------------------------------------------------


def test_classes_are_the_first_two_and_nobody_knows_the_truth(store):
    splits, names = domains.make(store, Domains(transformation="classes"))
    assert names == ["zero", "one"]
    for part in SPLITS:
        whole, each = store.split(part), splits[part]
        np.testing.assert_array_equal(each.images, whole.images[whole.labels == 0])
        np.testing.assert_array_equal(each.others, whole.images[whole.labels == 1])
        assert (each.labels == 0).all() and (each.other_labels == 1).all()
        assert each.truth_ab is None and each.truth_ba is None


def test_one_class_is_not_two_domains(tmp_path):
    single = stored(tmp_path / "p", classes=["only"])
    with pytest.raises(PipelineError, match=r"domains\.transformation = 'classes'.*one class"):
        domains.make(single, Domains(transformation="classes"))


def test_a_split_that_lacks_a_class_is_refused(tmp_path):
    lacking = stored(tmp_path / "p", classes=["cat", "dog"], labels=np.zeros)
    with pytest.raises(PipelineError, match="the train split has no image of 'dog'"):
        domains.make(lacking, Domains(transformation="classes"))


# The store and the stage -------------------------------------------------------------------


def test_both_domains_are_read_back(store, tmp_path):
    splits, names = domains.make(store, Domains())
    write(tmp_path / "domains", "toy", CLASSES, splits, names)
    found = Store(tmp_path / "domains")
    assert found.domains == ["toy", "outline of other images of toy"]
    assert found.spec == store.spec and found.classes == store.classes
    for part in SPLITS:
        for kind, expected in vars(splits[part]).items():
            value = getattr(found.split(part), kind)
            if expected is None:
                assert value is None
            else:
                np.testing.assert_array_equal(value, expected)
                assert isinstance(value, np.memmap)


def test_a_plain_data_set_has_no_second_domain(store):
    assert store.domains is None
    assert all(getattr(store.split("test"), kind) is None for kind in ("others", "truth_ab"))
    assert "domains" not in store.meta


@pytest.mark.parametrize("kind", ["others", "other_labels", "truth_ab", "truth_ba"])
def test_the_hash_sees_the_second_domain(store, tmp_path, kind):
    for folder in ("a", "b"):
        splits, names = domains.make(store, Domains())
        if folder == "b":
            getattr(splits["test"], kind).flat[0] ^= 1
        write(tmp_path / folder, "toy", CLASSES, splits, names)
    assert Store(tmp_path / "a").sha256 != Store(tmp_path / "b").sha256


def test_missing_domains_name_their_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="run `dvc repro domains`"):
        Store(paths.DOMAINS)


def test_the_stage_writes_the_domains_that_params_describe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, file)
    whole = stored(paths.PROCESSED)
    stage.main()
    section = params.section(params.read(), "domains")
    splits, _ = domains.make(whole, section)
    found = Store(paths.DOMAINS)
    np.testing.assert_array_equal(found.split("train").others, splits["train"].others)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "domain A: toy: 10 train, 6 val, 3 test images in data/domains",
        "domain B: outline of other images of toy: 10 train, 6 val, 4 test images in data/domains",
    ]
