import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core import arrays
from pipeline.core.errors import PipelineError

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def told(call, *arguments, **options):
    with pytest.raises(PipelineError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_is_saved_is_read_back_as_a_map(tmp_path):
    arrays.save(tmp_path, {"images": IMAGES, "labels": np.arange(2)})
    found = arrays.load(tmp_path, "images", "", (None, 3, 4))
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, IMAGES)
    assert arrays.names(tmp_path, "") == ["images", "labels"]
    assert arrays.names(tmp_path / "nothing", "") == []


@pytest.mark.parametrize("place", [2, 40, 130, -1])
def test_a_flipped_bit_is_noticed(tmp_path, place):
    arrays.save(tmp_path, {"images": IMAGES})
    content = bytearray((tmp_path / "images.npy").read_bytes())
    content[place] ^= 1
    (tmp_path / "images.npy").write_bytes(content)
    assert "images.npy: damaged" in told(arrays.load, tmp_path, "images", "do this")


def test_what_is_missing_or_another_is_told(tmp_path):
    assert "images.npy: missing; do this" in told(arrays.load, tmp_path, "images", "do this")
    arrays.save(tmp_path, {"images": IMAGES})
    assert "images.npy: shape [2, 3, 4], but it should be [N, 5, 4]" in told(
        arrays.load, tmp_path, "images", "", (None, 5, 4)
    )
    (tmp_path / "images.npy").unlink()
    assert "no such file" in told(arrays.load, tmp_path, "images", "")
    index = (tmp_path / "arrays.json").read_text()
    for broken in ("[]", index.replace("uint8", "uilt8"), index.replace("sha256", "sha")):
        (tmp_path / "arrays.json").write_text(broken)
        assert "arrays.json" in told(arrays.load, tmp_path, "images", "")


def huge(path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 3), }"
    header = header.ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + b"\0")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"junk" * 100), "no .npy file"),
        (lambda path: path.write_bytes(b"<html>"), "no .npy file"),
        (lambda path: np.savez(path.open("wb"), a=IMAGES), "an .npz archive"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "not a readable .npy file"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"), "not a readable"),
        (huge, "not a readable .npy file"),
        (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "not a readable"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: None, "no such file"),
    ],
)
def test_a_file_that_is_no_array_is_one_line(tmp_path, write, words):
    path = tmp_path / "a.npy"
    write(path)
    message = told(arrays.read, path, remedy="do this")
    assert message.startswith(f"{path}: ")
    assert words in message
    assert message.endswith("; do this")


@pytest.mark.parametrize("array", [IMAGES, np.float64(3), np.arange(9.0)[::2], IMAGES.T])
def test_the_bytes_are_those_of_numpy(tmp_path, array):
    arrays.write(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize("n", [930, 1000, 2000])
def test_a_file_that_was_cut_is_noticed(tmp_path, n):
    """numpy.save loses the last bytes of the first two without a word."""
    code = (
        "import resource, signal, sys; from pathlib import Path; import numpy as np\n"
        "from pipeline.core import arrays\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (7501, -1))\n"
        f"arrays.write(Path(sys.argv[1]), np.zeros({n}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.npy"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert "File too large" in done.stderr


def test_types_and_shapes_are_demanded(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, IMAGES)
    assert "uint8 values, but they should be int64" in told(
        arrays.read, path, dtype=np.int64, remedy=""
    )
    assert "should be [N]" in told(arrays.read, path, shape=(None,), remedy="")
    assert arrays.read(path, dtype=np.uint8, shape=(2, None, 4), remedy="").shape == (2, 3, 4)


def test_rows_are_the_bytes_of_the_whole_and_may_be_fewer_than_thought(tmp_path):
    values = np.arange(7 * 6, dtype=np.uint8).reshape(7, 2, 3)
    with arrays.Rows(tmp_path / "rows.npy", np.uint8, (2, 3), 1_000_000) as rows:
        rows.append(values[:3])
        rows.append(values[3:])
    np.save(tmp_path / "whole.npy", values)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with (
        pytest.raises(ValueError, match="not uint8"),
        arrays.Rows(tmp_path / "odd.npy", np.uint8, (2, 3), 5) as rows,
    ):
        rows.append(values.astype(np.int64))


def test_chosen_rows_of_a_file_are_written_as_if_they_were_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "AT_A_TIME", 100)  # eight rows
    whole = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), dtype=np.uint8)
    np.save(tmp_path / "whole.npy", whole)
    there = np.load(tmp_path / "whole.npy", mmap_mode="r")
    index = np.random.default_rng(1).permutation(50)[:31]
    some = arrays.chosen(there, index)
    assert isinstance(some, arrays.Chosen) and len(some) == 31 and some.shape == (31, 3, 2, 2)
    np.testing.assert_array_equal(some, whole[index])
    np.testing.assert_array_equal(some[4:9], whole[index[4:9]])
    again = arrays.chosen(some, np.array([3, 0, 30]))
    np.testing.assert_array_equal(again, whole[index[[3, 0, 30]]])
    arrays.write(tmp_path / "some.npy", some)
    arrays.write(tmp_path / "same.npy", whole[index])
    assert (tmp_path / "some.npy").read_bytes() == (tmp_path / "same.npy").read_bytes()
    assert isinstance(arrays.chosen(whole, index), np.ndarray)
