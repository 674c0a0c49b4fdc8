"""The fingerprint of a person's own folder: what moves it, and what it costs."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from clone import Clone
from PIL import Image

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data
from pipeline.datasets import inputs, sources
from stages import inputs as stage

ROOT = Path(__file__).parents[2]
SETTLED = inputs.SETTLED_SECONDS
COUNTS = {"trainA": 12, "trainB": 13, "testA": 2, "testB": 3}


def save(path, seed):
    """An image of the same length in bytes, whatever the seed."""
    values = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def make(folder):
    for place, (name, n) in enumerate(COUNTS.items()):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            save(folder / name / f"{i}.bmp", 100 * place + i)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "SETTLED_SECONDS", -1.0)  # as if the files had been there long
    return make(tmp_path / "cat2dog")


def data(folder="cat2dog", name="unpaired-folder"):
    return Data(name=name, folder=str(folder), size=12)


@pytest.fixture
def read(monkeypatch):
    """The files whose content is read."""
    seen, sha256 = [], files.sha256

    def counted(path, *rest):
        seen.append(path.name)
        return sha256(path, *rest)

    monkeypatch.setattr(files, "sha256", counted)
    return seen


def test_what_is_counted(folder):
    found = inputs.current(data())
    images = list(folder.rglob("*.bmp"))
    assert found["files"] == len(images) == sum(COUNTS.values())
    assert found["bytes"] == sum(each.stat().st_size for each in images)
    assert len(found["sha256"]) == 64


@pytest.mark.parametrize("name", [name for name in sources.MODULES if "folder" not in name])
def test_data_sets_without_a_folder_of_ones_own_cost_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert inputs.current(data(name=name)) == {}
    assert not list(tmp_path.iterdir())


def replaced(folder):
    save(folder / "trainA" / "3.bmp", 999)


def replaced_at_the_same_time(folder):
    file = folder / "trainA" / "3.bmp"
    before = file.stat()
    save(file, 999)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def moved_over(folder):
    save(folder / "new.bmp", 999)
    (folder / "new.bmp").rename(folder / "testB" / "1.bmp")


def added(folder):
    save(folder / "testA" / "new.bmp", 999)


def removed(folder):
    (folder / "testA" / "0.bmp").unlink()


def renamed(folder):
    (folder / "testA" / "0.bmp").rename(folder / "testA" / "9.bmp")


def swapped(folder):
    one, other = folder / "trainA" / "0.bmp", folder / "trainB" / "0.bmp"
    one.rename(folder / "kept.bmp")
    other.rename(one)
    (folder / "kept.bmp").rename(other)


@pytest.mark.parametrize(
    "change",
    [replaced, replaced_at_the_same_time, moved_over, added, removed, renamed, swapped],
)
def test_another_set_of_photos_is_another_fingerprint(folder, change):
    before = inputs.current(data())
    change(folder)
    after = inputs.current(data())
    assert after["sha256"] != before["sha256"]
    paths.INPUTS_SEEN.unlink()
    assert inputs.current(data()) == after


def test_only_what_the_source_reads_counts(folder):
    before = inputs.current(data())
    (folder / "README.md").write_text("mine")
    (folder / "trainA" / "notes.txt").write_text("mine")
    (folder / "trainA" / ".DS_Store").write_text("a file system's")
    (folder / "trainA" / "more").mkdir()
    save(folder / "trainA" / "more" / "0.bmp", 1)
    for file in folder.rglob("*.bmp"):
        os.utime(file, (1, 1))
    assert inputs.current(data()) == before


def test_another_place_is_the_same_set(folder):
    before = inputs.current(data())
    shutil.copytree(folder, "copy")
    assert inputs.current(data("copy")) == before


def test_content_is_read_where_a_file_moved_and_not_otherwise(folder, read):
    inputs.current(data())
    assert len(read) == sum(COUNTS.values())
    read.clear()
    inputs.current(data())
    assert read == []
    save(folder / "trainB" / "7.bmp", 999)
    inputs.current(data())
    assert read == ["7.bmp"]


def test_what_was_written_this_moment_is_read_again(folder, read, monkeypatch):
    """Within one tick of the disk's clock a second edit leaves the same time."""
    monkeypatch.setattr(inputs, "SETTLED_SECONDS", SETTLED)
    inputs.current(data())
    assert not paths.INPUTS_SEEN.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"files": {"a": 1}}', "\0", None])
def test_a_broken_memory_is_nobodys_problem(folder, content):
    before = inputs.current(data())
    if content is None:
        paths.INPUTS_SEEN.unlink()
        paths.INPUTS_SEEN.mkdir()
    else:
        paths.INPUTS_SEEN.write_text(content)
    assert inputs.current(data()) == before


def test_where_nothing_can_be_remembered_the_answer_is_the_same(folder):
    before = inputs.current(data())
    shutil.rmtree(paths.WORK)
    paths.WORK.write_text("in the way")
    assert inputs.current(data()) == before


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda folder: shutil.rmtree(folder),
            r"data\.folder = 'cat2dog': there is no such folder",
        ),
        (lambda folder: shutil.rmtree(folder / "testB"), "it has no folder testB"),
        (lambda folder: (folder / "testB/odd.png").symlink_to("x"), r"odd\.png: a link that leads"),
    ],
)
def test_what_download_would_refuse_is_refused(folder, spoil, told):
    spoil(folder)
    with pytest.raises(PipelineError, match=told):
        inputs.current(data())


def test_the_order_of_files_does_not_count():
    hashes = {"a/b.png": "1", "a.png": "2", "c.png": "3"}
    assert inputs.digest(hashes) == inputs.digest(dict(reversed(hashes.items())))
    assert inputs.digest(hashes) != inputs.digest(hashes | {"c.png": "4"})


def test_one_hash_over_a_folder_is_that_of_all_its_files(tmp_path):
    put = {"a/b.png": b"1", "a.png": b"2", "a.b/c.png": b"3"}
    for name, content in put.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    hashes = {name: files.sha256(tmp_path / name) for name in put}
    assert inputs.digest(hashes) == files.sha256(tmp_path)


def test_the_stage_writes_the_fingerprint(folder, capsys):
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, file)
    stage.main()
    assert json.loads(paths.INPUTS.read_text()) == {}
    home = paths.Results("mnist-5k")
    assert home.external.is_dir() and home.thorough.is_dir(), "what compare reads is there"
    assert capsys.readouterr().out == ""
    text = paths.PARAMS.read_text().replace("name: mnist-5k", "name: unpaired-folder", 1)
    text = text.replace("title: mnist-5k", "title: photos", 1)
    paths.PARAMS.write_text(text.replace('folder: ""', "folder: cat2dog", 1))
    stage.main()
    assert json.loads(paths.INPUTS.read_text()) == inputs.current(data())
    assert capsys.readouterr().out.startswith("cat2dog: 30 images, 0.0 MB")


@pytest.mark.slow
def test_dvc_sees_photos_that_were_replaced(tmp_path):
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone", ("vae",))
    folder = make(tmp_path / "cat2dog")
    clone.params["data"] |= {
        "name": "unpaired-folder",
        "title": "photos",
        "folder": str(folder),
        "size": 12,
    }
    clone.write_params()

    def ran():
        told = clone.run("dvc", "repro", "preprocess").stdout
        return [line.split("'")[1] for line in told.splitlines() if line.startswith("Running")]

    assert ran() == ["inputs", "download", "preprocess"]
    before = clone.text("dvc.lock")
    (folder / "README.md").write_text("mine")
    assert ran() == ["inputs"]
    assert clone.text("dvc.lock") == before
    save(folder / "trainA" / "3.bmp", 999)
    assert ran() == ["inputs", "download", "preprocess"]
    assert clone.text("dvc.lock") != before
    raw = clone.folder / paths.RAW / "trainA" / "3.bmp"
    assert raw.read_bytes() == (folder / "trainA" / "3.bmp").read_bytes()
    save(folder / "trainA" / "3.bmp", 3)
    assert ran() == ["inputs"]  # what DVC knows comes from its cache
    assert clone.text("dvc.lock") == before
