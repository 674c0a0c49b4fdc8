import numpy as np
import pytest
import torch

from pipeline.core.mapped import Mapped


def on_disk(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def test_rows_are_those_of_the_tensor(tmp_path):
    images = torch.arange(5 * 12, dtype=torch.uint8).reshape(5, 3, 2, 2)
    mapped = Mapped(on_disk(tmp_path / "a.npy", images.numpy()))
    index = torch.tensor([4, 0, 0])
    assert torch.equal(mapped[index], images[index])
    assert (len(mapped), mapped.shape) == (5, images.shape)
    mapped[index].zero_()
    assert torch.equal(mapped[index], images[index]), "what is given is a copy"


@pytest.mark.cuda
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_gpu_has_it_as_a_whole_if_it_fits(tmp_path, monkeypatch, share):
    from pipeline.core import mapped

    monkeypatch.setattr(mapped, "RESIDENT", share)
    monkeypatch.setattr(mapped, "AT_A_TIME", 100)
    device = torch.device("cuda")
    images = torch.arange(5 * 12, dtype=torch.uint8).reshape(5, 3, 2, 2)
    found = Mapped(on_disk(tmp_path / "a.npy", images.numpy())).to(device)
    assert isinstance(found, torch.Tensor) == (share > 0)
    index = torch.tensor([4, 0, 0])
    assert found[index].device.type == "cuda"
    assert torch.equal(found[index].cpu(), images[index])


def test_rows_that_were_asked_for_ahead_are_the_same(tmp_path, monkeypatch):
    from pipeline.core import mapped

    monkeypatch.setattr(mapped, "LARGE", 1)
    images = np.random.default_rng(0).integers(256, size=(300, 3, 32, 32), dtype=np.uint8)
    whole = on_disk(tmp_path / "a.npy", images)
    index = torch.tensor([299, 0, 17])
    for array, wanted in ((whole, images), (whole[1:], images[1:])):
        found = Mapped(array)
        found.ahead(index.clamp(max=len(array) - 1))
        assert found._map is not None
        chosen = index.clamp(max=len(array) - 1)
        assert torch.equal(found[chosen], torch.from_numpy(wanted[chosen.numpy()]))
        advised = []

        class Told:
            @staticmethod
            def madvise(what, start, length, advised=advised):
                advised.append((start, start + length))

        found._map = Told
        found.ahead(chosen)
        header = (
            (tmp_path / "a.npy").stat().st_size
            - images.nbytes
            + images[0].nbytes * (len(images) - len(array))
        )
        for (begin, end), row in zip(advised, chosen.tolist(), strict=True):
            assert begin % 4096 == 0
            assert begin <= header + row * 3072 < header + (row + 1) * 3072 == end
