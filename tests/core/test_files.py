import json
import os
from pathlib import Path

import pytest

from pipeline.core import files
from pipeline.core.errors import PipelineError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    folder = tmp_path / "out"
    with files.replacing_folder(folder) as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(RuntimeError), files.replacing_folder(folder) as temporary:
        (temporary / "x").write_text("half")
        raise RuntimeError
    assert (folder / "x").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_json_refuses_nan_and_is_sorted(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    assert not path.exists()
    files.write_json(path, {"b": 1, "a": 2})
    assert list(json.loads(path.read_text())) == ["a", "b"]


def test_a_folders_hash_sees_names_and_bytes(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = files.sha256(folder)
    (folder / "a").rename(folder / "b")
    second = files.sha256(folder)
    (folder / "b").write_text("2")
    assert len({first, second, files.sha256(folder)}) == 3


def test_rounded_names_what_is_not_finite():
    assert files.rounded({"a": 1 / 3, "n": 12345678901, "t": None})["a"] == 0.33333333
    with pytest.raises(ValueError, match="fid"):
        files.rounded({"fid": float("inf"), "x": 1.0})


def test_what_belongs_together_appears_together_or_not_at_all(tmp_path):
    folder, file = tmp_path / "weights", tmp_path / "curves" / "a.csv"

    def write(text, fail=False):
        with files.together() as made:
            (made.folder(folder) / "x").write_text(text)
            made.file(file).write_text(text)
            if fail:
                raise RuntimeError

    write("old")
    with pytest.raises(RuntimeError):
        write("half", fail=True)
    assert (folder / "x").read_text() == file.read_text() == "old"
    write("new")
    assert (folder / "x").read_text() == file.read_text() == "new"
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a.csv", "curves", "weights", "x"]


def test_a_move_that_fails_brings_all_of_it_back(tmp_path, monkeypatch):
    folder, file = tmp_path / "weights", tmp_path / "a.csv"
    with files.together() as made:
        (made.folder(folder) / "x").write_text("old")
        made.file(file).write_text("old")
    move = os.replace

    def failing(source, target):
        if Path(target) == file:
            raise OSError(28, "No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with (
        pytest.raises(PipelineError, match="cannot be written: No space left on device"),
        files.together() as made,
    ):
        (made.folder(folder) / "x").write_text("new")
        made.file(file).write_text("new")
    assert (folder / "x").read_text() == file.read_text() == "old"
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a.csv", "weights", "x"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(PipelineError) as caught, files.replacing(path):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "work").write_text("")
    with pytest.raises(PipelineError, match=r"work/a\.json: cannot be written: File exists"):
        files.write_json(tmp_path / "work" / "a.json", {})


def test_what_killed_writers_left_is_swept_away_and_nothing_else(tmp_path):
    dead = 2**22 + 1  # no process can have this number
    for name in (f".a.{dead}.tmp.json", f".a.{os.getppid()}.tmp.json", f".ab.{dead}.tmp.json"):
        (tmp_path / name).write_text("half")
    (tmp_path / f".f.{dead}.xyz.tmp").mkdir()
    files.write_json(tmp_path / "a.json", {})
    with files.replacing_folder(tmp_path / "f") as folder:
        (folder / "x").write_text("")
    left = {each.name for each in tmp_path.iterdir()}
    assert left == {"a.json", "f", f".a.{os.getppid()}.tmp.json", f".ab.{dead}.tmp.json"}


def test_a_folder_is_not_lost_if_its_writer_is_killed_between_two_steps(tmp_path):
    dead = 2**22 + 1
    old = tmp_path / f".f.{dead}.xyz.tmp.old"
    old.mkdir()
    (old / "x").write_text("old")
    with pytest.raises(RuntimeError), files.replacing_folder(tmp_path / "f"):
        raise RuntimeError
    assert (tmp_path / "f" / "x").read_text() == "old"


def test_removing_never_follows_a_link(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo").write_text("")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    with files.replacing_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("")
    assert (tmp_path / "mine" / "photo").exists()
    assert not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": -Infinity}', "-Infinity is no finite number"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": 1, "a": 2}', "'a' stands there twice"),
        (b"<<<<<<< HEAD\n{}", "not valid JSON"),
        (b"\x00", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not valid JSON"),
    ],
)
def test_json_that_is_none_is_one_line(tmp_path, content, told):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=told) as caught:
        files.read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(PipelineError, match="cannot be read"):
        files.read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "not there")
