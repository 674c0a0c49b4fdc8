import hashlib
import json

import numpy as np
import pytest

from pipeline.core import arrays
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import SPLITS, Split, Store, write

CLASSES = ["cat", "dog", "owl"]


def parts(seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: Split(
            rng.integers(0, 256, (n, 3, 4, 5), dtype=np.uint8),
            rng.integers(0, len(CLASSES), n, dtype=np.int64),
        )
        for name, n in zip(SPLITS, (6, 2, 3), strict=True)
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "processed"


def test_what_is_written_is_read_back(folder):
    written = parts()
    write(folder, "toy", CLASSES, written)
    store = Store(folder)
    assert store.name == "toy"
    assert store.classes == CLASSES
    assert store.spec == ImageSpec(channels=3, height=4, width=5, classes=3)
    for name in SPLITS:
        read = store.split(name)
        assert len(read) == len(written[name])
        assert read.images.dtype == np.uint8
        assert read.labels.dtype == np.int64
        np.testing.assert_array_equal(read.images, written[name].images)
        np.testing.assert_array_equal(read.labels, written[name].labels)


def test_arrays_are_memory_mapped_and_read_only(folder):
    write(folder, "toy", CLASSES, parts())
    read = Store(folder).split("train")
    assert isinstance(read.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        read.images[0] = 0


def test_meta_describes_the_files(folder):
    write(folder, "toy", CLASSES, parts())
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["counts"] == {"train": 6, "val": 2, "test": 3}
    assert meta["shape"] == [3, 4, 5]
    arrays = {file.name: file for file in folder.glob("*.npy")}
    assert set(arrays) == {f"{s}.{kind}.npy" for s in SPLITS for kind in ("images", "labels")}
    assert {each.name for each in folder.iterdir()} == {*arrays, "meta.json"}
    for name, file in arrays.items():
        assert meta["sha256"][name] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_same_data_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, "toy", CLASSES, parts())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    assert Store(tmp_path / "a").sha256 == Store(tmp_path / "b").sha256


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_the_hash_sees_every_array(tmp_path, name, kind):
    write(tmp_path / "a", "toy", CLASSES, parts())
    changed = parts()
    getattr(changed[name], kind).flat[0] ^= 1
    write(tmp_path / "b", "toy", CLASSES, changed)
    assert Store(tmp_path / "a").sha256 != Store(tmp_path / "b").sha256


def test_writing_again_leaves_nothing_of_the_old(folder):
    write(folder, "old", CLASSES, parts() | {"extra": parts()["val"]})
    write(folder, "new", CLASSES, parts(seed=1))
    assert Store(folder).name == "new"
    assert not list(folder.glob("extra*"))
    np.testing.assert_array_equal(Store(folder).split("val").images, parts(seed=1)["val"].images)


def test_a_failed_write_leaves_the_old_and_nothing_else(folder, monkeypatch):
    write(folder, "old", CLASSES, parts())
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    save, calls = arrays.write, []

    def failing(file, array):
        calls.append(file)
        if len(calls) == 4:
            raise OSError("no space left")
        save(file, array)

    monkeypatch.setattr(arrays, "write", failing)
    with pytest.raises(PipelineError, match="processed: cannot be written: no space left"):
        write(folder, "new", CLASSES, parts(seed=1))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("place", [3, 60, -1])
def test_a_flipped_bit_is_no_other_image(folder, kind, place):
    write(folder, "toy", CLASSES, parts())
    file = folder / f"train.{kind}.npy"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(PipelineError, match=rf"train\.{kind}\.npy: damaged .*; delete"):
        Store(folder).split("train")
    assert len(Store(folder).split("val")) == 2


def test_a_missing_array_is_named(folder):
    write(folder, "toy", CLASSES, parts())
    (folder / "train.labels.npy").unlink()
    with pytest.raises(PipelineError, match=r"train\.labels\.npy: no such file; delete"):
        Store(folder).split("train")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"toy"', "5", "name = 5"),
        ('"counts"', '"count"', "counts: missing"),
        ("{", "[", "not valid JSON"),
        ("5\n", "NaN\n", "NaN is no finite number"),
    ],
)
def test_a_broken_description_is_one_line(folder, old, new, told):
    write(folder, "toy", CLASSES, parts())
    file = folder / "meta.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(PipelineError, match=told) as caught:
        Store(folder)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1
