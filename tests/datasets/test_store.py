import hashlib
import json

import numpy as np
import pytest

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
    save, calls = np.save, []

    def failing(file, array):
        calls.append(file)
        if len(calls) == 4:
            raise OSError("no space left")
        save(file, array)

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(OSError, match="no space left"):
        write(folder, "new", CLASSES, parts(seed=1))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]
