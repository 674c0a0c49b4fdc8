import json

import pytest

from pipeline.core import files


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
