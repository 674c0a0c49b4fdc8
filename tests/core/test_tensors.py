import pytest
import torch
from safetensors.torch import save_file

from pipeline.core import tensors

STATE = {
    "weights": torch.arange(12.0).reshape(3, 4),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 2),
    "half": torch.ones(4).bfloat16(),
    "mask": torch.tensor([True, False]),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.save(path, STATE, name="a")
    return path


def test_what_is_saved_is_read_back(path):
    found, text = tensors.load(path, "")
    assert text == {"name": "a"}
    assert found.keys() == STATE.keys()
    for name, each in STATE.items():
        assert torch.equal(found[name], each)
        assert found[name].dtype == each.dtype


def test_the_order_in_memory_is_not_part_of_it(tmp_path):
    plain = torch.randn(2, 3, 4, 5)
    for name, each in (("a", plain), ("b", plain.contiguous(memory_format=torch.channels_last))):
        tensors.save(tmp_path / name, {"x": each})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_is_written_in_place_and_as_the_library_would(path, tmp_path):
    """What the library writes beside it, to be moved there, would outlive a kill."""
    there = path.stat().st_ino
    tensors.save(path, STATE, name="b")
    assert path.stat().st_ino == there
    header = {"name": "b", "sha256": tensors.digest(STATE, {"name": "b"})}
    save_file(STATE, tmp_path / "other", header)
    assert len(path.read_bytes()) == (tmp_path / "other").stat().st_size
    tensors.load(tmp_path / "other", "")


def test_every_flipped_bit_is_noticed(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(tensors.Damaged, match=f"{path}: damaged .*; do this") as caught:
            tensors.load(path, "do this")
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 100, -1])
def test_every_cut_is_noticed(path, n):
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(tensors.Damaged):
        tensors.load(path, "")


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {k: v for k, v in state.items() if k != "scalar"},
        lambda state: {**state, "more": torch.zeros(1)},
        lambda state: {("other" if k == "scalar" else k): v for k, v in state.items()},
        lambda state: {**state, "weights": state["weights"].reshape(4, 3)},
        lambda state: {**state, "weights": state["weights"].view(torch.int32)},
    ],
    ids=["missing", "more", "renamed", "reshaped", "of another type"],
)
def test_other_tensors_under_the_same_digest_are_noticed(path, change):
    save_file(change(STATE), path, {"name": "a", "sha256": tensors.digest(STATE, {"name": "a"})})
    with pytest.raises(tensors.Damaged, match="not what was saved"):
        tensors.load(path, "")


def test_a_file_without_a_digest_is_not_believed(path):
    save_file(STATE, path)
    with pytest.raises(tensors.Damaged, match="no digest"):
        tensors.load(path, "")


def test_a_folder_is_damaged_and_nothing_is_missing(tmp_path):
    with pytest.raises(tensors.Damaged):
        tensors.load(tmp_path, "")
    with pytest.raises(FileNotFoundError):
        tensors.load(tmp_path / "a", "")


def test_an_interrupt_is_no_damage(path, monkeypatch):
    """Whoever presses Ctrl-C must not be told to delete what is whole."""

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "frombuffer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tensors.load(path, "")
