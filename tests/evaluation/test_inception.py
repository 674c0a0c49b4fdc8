import hashlib

import numpy as np
import pytest
import torch

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.evaluation import inception, outside

peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
CPU = torch.device("cpu")


def images(n, seed, channels=3):
    return np.random.default_rng(seed).integers(256, size=(n, channels, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as torch-fidelity's, with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(peer.FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: None)
        torch.manual_seed(0)
        net = peer.FeatureExtractorInceptionV3("random", ["2048"])
    # Initial weights shrink what they are given, layer by layer, down to nothing.
    state = {
        name: value * 3 if name.endswith("conv.weight") else value
        for name, value in net.state_dict().items()
    }
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


def pinned(path):
    return params.Inception(weights=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_against_torch_fidelity(weights):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    drawn, real, training = images(24, 0) // 2, images(24, 1), images(40, 2)
    section = params.Evaluate(inception=pinned(weights))
    found = outside.measure(section, drawn, real, training, CPU)

    class Images(torch.utils.data.Dataset):
        def __init__(self, array):
            self.array = array

        def __len__(self):
            return len(self.array)

        def __getitem__(self, index):
            return torch.from_numpy(self.array[index])

    expected = torch_fidelity.calculate_metrics(
        input1=Images(drawn),
        input2=Images(real),
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=24,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    assert found["inception_fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found["inception_kid"] == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-5
    )
    assert found["inception_fid"] > 2 * found["inception_fid_real"] > 0
    assert found["inception_warnings"] == outside.FEW
    assert "fid" not in found


def test_features_are_those_of_equal_channels(weights):
    embed = outside.Embedder(inception.Inception(pinned(weights)), CPU)
    grey = images(2, 0, 1)
    found = embed(grey)
    assert found.shape == (2, 2048) and found.dtype == np.float64
    np.testing.assert_array_equal(embed(np.repeat(grey, 3, axis=1)), found)
    assert np.ptp(found, axis=0).max() > 0


def test_another_file_is_refused(weights, tmp_path):
    other = params.Inception(weights=str(weights), sha256="0" * 64)
    with pytest.raises(PipelineError, match=r"evaluate.inception.sha256 is 0000.*has [0-9a-f]{64}"):
        inception.Inception(other).check()
    gone = params.Inception(weights="gone.pth", sha256="0" * 64)
    with pytest.raises(PipelineError, match=r"'gone\.pth': no such file"):
        inception.Inception(gone).check()


class Evil:
    def __reduce__(self):
        return (open, ("owned", "w"))


@pytest.mark.parametrize("content", [b"no weights", {"conv.weight": torch.zeros(3)}, [Evil()]])
def test_what_is_no_such_weights_is_refused_and_runs_nothing(tmp_path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(PipelineError, match=r"weights.pth: not (a file of|the) weights"):
        inception.load(path)
    assert not (tmp_path / "owned").exists()


def test_a_missing_package_is_named(weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, peer.__name__, None)
    with pytest.raises(PipelineError, match="pip install torch-fidelity"):
        inception.load(weights)


def test_a_file_must_be_pinned():
    with pytest.raises(PipelineError, match="sha256 must say which file it is"):
        params.section({"evaluate": {"inception": {"weights": "w.pth"}}}, "evaluate")
    with pytest.raises(PipelineError, match=r"evaluate.inception.sha256 = 'abc'"):
        params.section({"evaluate": {"inception": {"weights": "w", "sha256": "abc"}}}, "evaluate")
    assert str(paths.PARAMS) == "params.yaml"
