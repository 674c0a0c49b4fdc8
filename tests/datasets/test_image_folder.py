"""A folder of one's own images: what is read, what folders mean, how it is split."""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from params_files import COMMITTED
from PIL import Image

from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data
from pipeline.datasets import folder_layout, folder_scan, inputs, sources, splits
from pipeline.datasets.folder_scan import Decoding, Row

WHITE = (255, 255, 255)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "SETTLED_SECONDS", -1.0)


def picture(seed, size=(20, 14), mode="RGB"):
    width, height = size
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def put(place, count, first=0, mode="RGB"):
    folder = Path("mine", place)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        picture(seed, mode=mode).save(folder / f"{seed}.png")
    return folder


def data(**keys):
    return Data(**{"name": "folder", "folder": "mine", "size": 8, **keys})


def source(given):
    return sources.load("folder").configured(given)


def made(given=None):
    """What the two stages make: the splits and the classes."""
    given = given or data()
    with files.replacing_folder(Path("raw")) as raw:
        source(given).fetch(raw)
    read = source(given).read(Path("raw"))
    return splits.split(read, given), read.classes


def table():
    with Path("raw/images.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def same(one, other):
    assert one.keys() == other.keys()
    for part in one:
        np.testing.assert_array_equal(one[part].images, other[part].images)
        np.testing.assert_array_equal(one[part].labels, other[part].labels)


def keys(images):
    return {each.tobytes() for each in images}


# --- splits --------------------------------------------------------------------------------------


def test_all_is_known_before_anything_runs():
    put("cat", 30)
    put("dog", 25, 100)
    expected = source(data()).expected(data())
    parts, classes = made()
    assert classes == ["cat", "dog"]
    assert expected.spec.shape == parts["train"].images.shape[1:] == (3, 8, 8)
    assert expected.by_class == {
        name: np.bincount(part.labels).tolist() for name, part in parts.items()
    }
    assert expected.by_class == {"train": [22, 18], "val": [2, 2], "test": [6, 5]}
    assert not keys(parts["train"].images) & keys(parts["test"].images)


def test_names_and_places_do_not_count():
    put("cat", 30)
    put("dog", 25, 100)
    before, _ = made()
    for place, file in enumerate(sorted(Path("mine").rglob("*.png"))):
        file.rename(file.with_name(f"{-place % 7}-{place}.dat"))
    shutil.move("mine", "other")
    after, _ = made(data(folder="other"))
    same(before, after)


def test_another_seed_is_another_split_and_another_val_leaves_the_test():
    put("", 60)
    before, _ = made()
    other, _ = made(data(seed=1))
    assert keys(before["test"].images) != keys(other["test"].images)
    more, _ = made(data(val_fraction=0.3))
    np.testing.assert_array_equal(before["test"].images, more["test"].images)


def test_one_image_more_moves_few_others():
    put("", 60)
    before, _ = made()
    put("", 1, 500)
    after, _ = made()
    assert len(keys(before["test"].images) - keys(after["test"].images)) <= 1


def test_copies_stay_in_one_split(capsys):
    put("", 40)
    for seed in range(10):
        picture(seed).save(f"mine/copy of {seed}.bmp")
    parts, _ = made()
    assert sum(len(part.images) for part in parts.values()) == 50
    assert not keys(parts["train"].images) & keys(parts["test"].images)
    assert not keys(parts["val"].images) & keys(parts["test"].images)
    assert "duplicates: 10 images are copies of others" in capsys.readouterr().out


def test_copies_in_two_classes_stay_together():
    put("cat", 20)
    put("dog", 20, 100)
    for seed in range(8):
        picture(seed).save(f"mine/dog/{seed}.png")
    parts, _ = made()
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        assert not keys(parts[one].images) & keys(parts[other].images)
    assert any("8 images are in more than one class" in x for x in meta()["notes"])


def meta():
    return json.loads(Path("raw/folder.json").read_text())


def test_folders_of_splits_are_taken_and_copies_left_out_of_train(capsys):
    put("Train/cat", 20)
    put("Train/dog", 20, 100)
    put("Test/cat", 5, 200)
    put("Test/dog", 5, 300)
    picture(7).save("mine/Test/dog/copy.png")
    parts, classes = made()
    assert classes == ["cat", "dog"]
    assert len(parts["test"].images) == 11
    assert np.bincount(parts["train"].labels).tolist() == [17, 18]
    assert np.bincount(parts["val"].labels).tolist() == [2, 2]
    told = capsys.readouterr().out
    assert "1 image is left out of train that test has" in told
    assert [row["split"] for row in table() if row["name"] == "Train/cat/7.png"] == ["left out"]
    assert not keys(parts["train"].images) & keys(parts["test"].images)
    assert source(data()).expected(data()).counts == {"train": 35, "val": 4, "test": 11}


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_val(val):
    put("train", 20)
    put(val, 5, 100)
    put("test", 6, 200)
    parts, _ = made()
    assert {name: len(part.images) for name, part in parts.items()} == {
        "train": 20,
        "val": 5,
        "test": 6,
    }


def test_val_without_test_is_what_was_held_out():
    put("train/a", 20)
    put("train/b", 20, 50)
    put("val/a", 5, 100)
    put("val/b", 5, 200)
    parts, classes = made()
    assert classes == ["a", "b"]
    assert {name: len(part.images) for name, part in parts.items()} == {
        "train": 36,
        "val": 4,
        "test": 10,
    }


def test_what_lies_beside_split_folders_makes_them_classes(capsys):
    put("train", 20)
    put("test", 20, 100)
    put("cat", 20, 200)
    _, classes = made()
    assert classes == ["cat", "test", "train"]
    told = capsys.readouterr().out
    assert "splits: none are taken from test and train, since the folder cat" in told


# --- labels --------------------------------------------------------------------------------------


def labelled(*names, **more):
    rows = [Row(name, "PNG", "RGB", 1, 1, 1, False, False, str(i)) for i, name in enumerate(names)]
    return folder_layout.layout(rows, data(**more))


def many(*folders, n=10):
    return [f"{folder}/{i}.png" for folder in folders for i in range(n)]


def test_folders_in_natural_order_are_classes():
    found = labelled(*many("class 10", "class 2"))
    assert found.classes == ["class 2", "class 10"]
    assert found.labels.tolist() == [1] * 10 + [0] * 10
    assert found.notes == ["labels: 2 classes, the folders class 2 (10) and class 10 (10)"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.png", "b.png"], "lie in no folders"),
        (many("all/of/them"), "lie in no folders"),
        ([*many("cat", "dog"), "x.png"], "1 images lie beside the 2 folders"),
        (many("2019", "2020", "2021", n=3), "most of the 3 folders have fewer than 7 images"),
    ],
)
def test_where_folders_are_no_classes_there_is_one(names, told):
    found = labelled(*names)
    assert found.classes == ["images"] and set(found.labels) == {0}
    assert told in found.notes[0]


def test_folders_that_all_images_share_do_not_count():
    found = labelled(*many("photos/data/cat", "photos/data/dog"))
    assert found.classes == ["cat", "dog"]
    assert labelled(*many("x/train/cat", "x/train/dog", "x/test/cat", "x/test/dog")).official


def test_labels_may_be_switched_off_and_asked_for():
    assert labelled(*many("cat", "dog"), labels="none").classes == ["images"]
    assert labelled(*many("a", "b", "c", n=3), labels="folders").classes == ["a", "b", "c"]
    with pytest.raises(PipelineError, match=r"labels = 'folders': .* lie in no folders"):
        labelled("a.png", labels="folders")
    with pytest.raises(PipelineError, match=r"labels = 'folders': 1 images of mine lie beside"):
        labelled(*many("cat"), "x.png", labels="folders")


def test_cyclegans_four_folders_are_told():
    found = labelled(*many("trainA", "trainB", "testA", "testB"))
    assert "unpaired-folder" in found.notes[0] and found.official == []


def test_a_class_with_too_few_images_is_told_with_what_would_be_right():
    put("cat", 30)
    put("dog", 30, 100)
    put("cow", 4, 200)
    with pytest.raises(PipelineError, match=r"class 'cow' has .* add images.*data\.labels to none"):
        source(data()).expected(data())
    assert source(data(labels="none")).expected(data(labels="none")).spec.classes == 1


def test_a_class_without_test_images_is_told():
    put("train/cat", 30)
    put("train/dog", 30, 100)
    put("test/cat", 4, 200)
    with pytest.raises(PipelineError, match=r"class 'dog' has no images in the test split of mine"):
        source(data()).expected(data())


def test_few_images_of_one_class_are_told():
    put("", 6)
    with pytest.raises(PipelineError, match="put at least 7 different images there"):
        source(data()).expected(data())


def test_images_that_are_all_the_same_are_told():
    for i in range(20):
        picture(0).save(put("", 0) / f"{i}.png")
    with pytest.raises(PipelineError, match=r"only 1 of them differ.* at least 7 different images"):
        source(data()).expected(data())


# --- what is skipped and refused -----------------------------------------------------------------


def test_broken_files_are_skipped_counted_and_listed():
    put("", 60)
    Path("mine/empty.png").write_bytes(b"")
    Path("mine/notes.txt").write_text("mine")
    Path("mine/._1.png").write_bytes(b"a file system's")
    put("__MACOSX", 3)
    put(".ipynb_checkpoints", 3)
    with pytest.raises(PipelineError) as caught:
        source(data()).expected(data())
    assert "data.max_broken = 0.01: 1 of 61 images in mine cannot be read: mine/empty.png: " in (
        str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert "empty.png" in paths.SKIPPED.read_text()
    given = data(max_broken=0.02)
    assert sum(source(given).expected(given).counts.values()) == 60
    parts, _ = made(given)
    assert sum(len(part.images) for part in parts.values()) == 60 == len(table())
    assert [each["name"] for each in meta()["skipped"]] == ["empty.png"]


def test_images_of_kinds_that_are_not_read_count_as_broken():
    put("", 30)
    for i in range(3):
        Path(f"mine/{i}.heic").write_bytes(b"x")
    with pytest.raises(PipelineError, match=r"3 of 33 images .*0\.heic: HEIC, which is not read"):
        source(data()).expected(data())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda: shutil.rmtree("mine"), r"data\.folder = 'mine': there is no such folder"),
        (lambda: [each.unlink() for each in Path("mine").iterdir()], "there are no images in it"),
        (lambda: Path("mine/odd.png").symlink_to("nowhere"), r"odd\.png: a link that leads"),
        (lambda: os.mkfifo("mine/odd.png"), "neither a file nor a folder"),
        (lambda: Path("mine/odd").symlink_to("."), "images would count twice"),
    ],
)
def test_what_cannot_be_read_at_all_is_one_line(spoil, told):
    put("", 10)
    spoil()
    with pytest.raises(PipelineError, match=told) as caught:
        source(data()).expected(data())
    assert "\n" not in str(caught.value)


def test_the_section_must_name_a_folder_that_is_ones_own():
    with pytest.raises(PipelineError, match=r"params\.yaml: data\.folder = '': folder needs"):
        source(data(folder=""))
    with pytest.raises(PipelineError, match=r"data\.folder = 'data/raw': .* removes"):
        source(data(folder="data/raw"))
    with pytest.raises(PipelineError, match=r"data\.background = 'blau': no colour"):
        source(data(background="blau"))


# --- reading -------------------------------------------------------------------------------------


def test_grey_images_have_one_channel_and_colour_may_be_dropped():
    put("", 20, mode="L")
    parts, _ = made()
    assert parts["train"].images.shape[1:] == (1, 8, 8)
    assert len(keys(parts["train"].images)) == 14
    in_colour, _ = made(data(channels=3))
    np.testing.assert_array_equal(
        *(each(in_colour["test"].images, axis=1) for each in (np.min, np.max))
    )
    picture(99).save("mine/99.png")
    assert made()[0]["train"].images.shape[1:] == (3, 8, 8)
    assert made(data(channels=1))[0]["train"].images.shape[1:] == (1, 8, 8)


def test_hashes_are_those_of_the_rows():
    put("", 12, mode="L")
    made()
    images = np.load("raw/images.npy")
    assert [hashlib.sha256(each.tobytes()).hexdigest() for each in images] == [
        row["sha256"] for row in table()
    ]
    assert [row["name"] for row in table()] == [f"{i}.png" for i in range(12)]


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (16, 16), (300, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_how_images_fit(size, fit):
    Path("mine").mkdir()
    Image.new("RGB", size, (10, 20, 30)).save("mine/a.png")
    _, found = folder_scan.decoded(Path("mine/a.png"), Decoding(16, fit, "auto", WHITE))
    assert found.shape == (3, 16, 16) and found.dtype == np.uint8
    white = (found == 255).all(axis=0)
    if fit == "pad":
        assert white.mean() == pytest.approx(1 - max(min(size) / max(size), 1 / 16), abs=0.01)
        assert (found[:, ~white].T == [10, 20, 30]).all()
    else:
        assert not white.any()


def test_many_images_are_read_by_processes_with_the_same_result(monkeypatch, capfd):
    put("cat", 70)
    put("dog", 70, 100)
    Path("mine/dog/5.png").write_bytes(b"broken")
    given = data(max_broken=0.1)
    alone, _ = made(given)
    first = Path("raw/images.csv").read_bytes()
    shutil.rmtree("work")
    monkeypatch.setattr(folder_scan, "ALONE_SECONDS", -1.0)
    monkeypatch.setattr(folder_scan, "CHUNK", 9)
    together, _ = made(given)
    same(alone, together)
    assert Path("raw/images.csv").read_bytes() == first
    assert "100% 141 of 141 images" in capfd.readouterr().err


@pytest.fixture
def count(monkeypatch):
    """How many images are decoded."""
    done, decoded = [], folder_scan.decoded

    def counted(path, how):
        done.append(path.name)
        return decoded(path, how)

    monkeypatch.setattr(folder_scan, "decoded", counted)
    return done


def test_images_are_decoded_once_and_again_where_something_moved(count):
    put("", 20)
    source(data()).expected(data())
    assert len(count) == 20
    source(data()).expected(data())
    made()  # takes the array that `expected` left
    source(data(seed=5)).expected(data(seed=5, val_fraction=0.3))
    assert len(count) == 20
    made()  # which needs it again
    assert len(count) == 40
    source(data(size=12)).expected(data(size=12))
    assert len(count) == 60
    put("", 1, 99)
    source(data()).expected(data())
    assert len(count) == 81


@pytest.mark.parametrize("content", ["", "{", '{"rows": 1}', None])
def test_a_broken_memory_is_nobodys_problem(count, content):
    put("", 20)
    before = source(data()).expected(data())
    for file in paths.FOLDERS.rglob("*"):
        if file.is_file():
            file.write_text(content) if content is not None else file.unlink()
    assert source(data()).expected(data()) == before
    made()


def test_another_array_in_its_place_is_not_taken(count):
    put("", 20)
    source(data()).expected(data())
    (file,) = paths.FOLDERS.rglob("images.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    made()
    assert len(count) == 40


def test_a_folder_that_changes_while_it_is_read_is_told(monkeypatch):
    put("", 20)
    decoded = folder_scan.decoded

    def changing(path, how):
        if path.name == "7.png":
            picture(777).save("mine/3.png")
        return decoded(path, how)

    monkeypatch.setattr(folder_scan, "decoded", changing)
    with pytest.raises(PipelineError, match="mine: it changed while it was read"):
        source(data()).expected(data())
    assert not [each for each in paths.FOLDERS.rglob("*") if each.is_file()]


def test_damage_to_what_was_fetched_is_told():
    put("", 20)
    made()
    for name in ("images.npy", "images.csv"):
        content = Path("raw", name).read_bytes()
        Path("raw", name).write_bytes(content[:-3] + b"abc")
        with pytest.raises(PipelineError, match=rf"raw/{name}: damaged.*dvc repro --force") as told:
            source(data()).read(Path("raw"))
        assert "\n" not in str(told.value)
        Path("raw", name).write_bytes(content)
    Path("raw/folder.json").unlink()
    with pytest.raises(PipelineError, match=r"raw/folder\.json: missing"):
        source(data()).read(Path("raw"))


def test_every_key_of_the_section_has_a_default_that_the_file_shows():
    section = params.section(params.read(COMMITTED), "data")
    assert section == Data()
