import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core import params
from pipeline.core.errors import PipelineError
from pipeline.evaluation import outside
from pipeline.evaluation.imagenet import Lite0
from pipeline.evaluation.inception import Inception
from pipeline.evaluation.metrics import fid, kid

CPU = torch.device("cpu")


def images(n, seed, channels=3):
    return np.random.default_rng(seed).integers(256, size=(n, channels, 4, 4), dtype=np.uint8)


class Corners(nn.Module):
    """The first pixel of each channel, and the sums of two."""

    def forward(self, images):
        corner = images[:, :, 0, 0].float() / 255
        return torch.cat([corner, corner[:, :2] + corner[:, 1:]], dim=1)


class Fake:
    name, title, size = "fake", "a fake", 5

    def __init__(self, sha256="f" * 64):
        self.sha256 = sha256
        self.built = 0

    def check(self):
        if self.sha256 == "bad":
            raise PipelineError("no weights")

    def network(self):
        self.built += 1
        return Corners()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch):
    made = Fake()
    monkeypatch.setattr(outside, "asked_for", lambda section: [made])
    return made


def features(given):
    return Corners()(torch.from_numpy(given)).double().numpy()


def test_nothing_is_asked_for_unless_the_parameters_say_so():
    assert outside.asked_for(params.Evaluate()) == []
    assert outside.measure(params.Evaluate(), images(2, 0), images(2, 1), images(2, 2), CPU) == {}
    both = params.Evaluate(imagenet=True, inception={"weights": "w.pth", "sha256": "0" * 64})
    assert [type(each) for each in outside.asked_for(both)] == [Inception, Lite0]


def test_a_model_without_samples_has_nothing(fake):
    assert outside.measure(params.Evaluate(), None, images(2, 1), images(2, 2), CPU) == {}
    assert fake.built == 0


def test_each_value_is_of_its_own_images(fake):
    drawn, real, training = images(40, 0) // 2, images(40, 1), images(60, 2)
    found = outside.measure(params.Evaluate(), drawn, real, training, CPU)
    assert tuple(found) == outside.keys("fake")
    flat = [features(each) for each in (drawn, real, training[:40])]
    assert found["fake_fid"] == fid.frechet_distance(*map(fid.moments, flat[:2]))
    assert found["fake_fid_real"] == fid.frechet_distance(*map(fid.moments, flat[:0:-1]))
    assert found["fake_kid"] == kid.kernel_distance(flat[0], flat[1])
    assert found["fake_kid_real"] == kid.kernel_distance(flat[2], flat[1])
    assert found["fake_sha256"] == "f" * 16
    assert found["fake_warnings"] is None
    assert fake.built == 1


def test_what_misleads_is_told(fake):
    few = outside.measure(params.Evaluate(), images(5, 0), images(5, 1), images(6, 2), CPU)
    assert few["fake_warnings"] == outside.FEW
    grey = [images(6, seed, channels=1) for seed in range(3)]
    found = outside.measure(params.Evaluate(), *grey, CPU)
    assert found["fake_warnings"] == "grey images, of which a fake never saw any"


def test_grey_images_are_three_equal_channels_and_features_are_remembered():
    network, grey = Fake(), images(120, 0, channels=1)
    found = outside.Embedder(network, CPU)(grey)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, features(np.repeat(grey, 3, axis=1)))
    assert network.built == 1
    again = outside.Embedder(network, CPU)
    np.testing.assert_array_equal(again(np.ascontiguousarray(grey)), found)
    assert network.built == 1
    again(images(3, 1))
    assert network.built == 2


def test_features_of_other_weights_are_not_those_remembered():
    first, other = Fake(), Fake("0" * 64)
    for network in (first, other, first):
        outside.Embedder(network, CPU)(images(2, 0))
    assert (first.built, other.built) == (1, 1)


def test_missing_weights_are_told_before_anything_is_done():
    with pytest.raises(PipelineError, match="no weights"):
        outside.Embedder(Fake("bad"), CPU)
