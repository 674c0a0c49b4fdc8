"""Downloads through a loopback server: real files where they are at hand, generated otherwise.

No test can reach the official hosts: their names don't resolve here (see `loopback_only`).
"""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision

from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import sources, splits, torchvision_sets

SHARED = Path(os.environ.get("GENERATIVE_SHARED", "../shared")) / "datasets"
IMAGES = "train-images-idx3-ubyte.gz"
LAST = "t10k-labels-idx1-ubyte.gz"


class Mirror:
    """A loopback HTTP server of bytes by path, with a fault for some paths.

    torchvision asks for each file twice a try: once to follow redirects, once for the content.
    """

    def __init__(self):
        self.content = {}
        self.faults = {}
        self.asked = []
        self.closing = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.asked.append(self.path)
                # The redirect probe leaves without the content.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    mirror.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        fault = self.faults.get(handler.path)
        body = self.content.get(handler.path)
        if callable(fault):
            fault = fault(self.asked.count(handler.path))
        if fault == "silent":
            self.closing.wait(20)
            return
        if body is None or fault == "missing":
            handler.send_error(404)
            return
        if fault == "broken":
            handler.send_error(503)
            return
        if fault == "garbage":
            handler.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        if fault == "truncated":
            body = body[: len(body) // 2]
        elif fault == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fault == "dies":
            handler.wfile.write(body[: len(body) // 2])
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.wfile.write(body)

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    resolve = socket.getaddrinfo

    def guarded(host, *args, **kwargs):
        assert host == "127.0.0.1", f"a test wanted to contact {host}"
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", guarded)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    monkeypatch.setattr(torchvision_sets, "BACKOFF_SECONDS", 0.0)


@pytest.fixture
def mirror():
    server = Mirror()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path):
    raw = tmp_path / "out" / "raw"
    raw.mkdir(parents=True)
    return raw


def idx(array):
    """The bytes of an IDX file of uint8."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


@pytest.fixture
def digits(monkeypatch, mirror):
    """A small generated MNIST, on two official mirrors; its arrays and gzipped files."""
    rng = np.random.default_rng(0)
    arrays, archives = {}, {}
    for part, n in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        arrays[part] = (images, labels)
        archives[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(images))
        archives[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))
    official = torchvision.datasets.MNIST
    names = [name for name, _ in official.resources]
    assert sorted(names) == sorted(archives)
    monkeypatch.setattr(
        official, "resources", [(name, hashlib.md5(archives[name]).hexdigest()) for name in names]
    )
    bases = [f"{mirror.url}/{each}/" for each in ("first", "second")]
    monkeypatch.setattr(official, "mirrors", bases)
    for name, content in archives.items():
        mirror.content[f"/first/{name}"] = content
        mirror.content[f"/second/{name}"] = content
    return arrays, archives


def check_digits(folder, arrays):
    raw = sources.load("mnist").read(folder)
    for split, part in ((raw.train, "train"), (raw.test, "t10k")):
        images, labels = arrays[part]
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, images[:, None])
        np.testing.assert_array_equal(split.labels, labels)
    assert raw.classes == list("0123456789")


def check_nothing_left(folder):
    assert not list(folder.iterdir())
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def check_complete(folder, names):
    """Unpacked files and nothing else: no archive, no temporary file or folder."""
    made = folder / "MNIST" / "raw"
    assert [each.name for each in folder.iterdir()] == ["MNIST"]
    assert [each.name for each in (folder / "MNIST").iterdir()] == ["raw"]
    assert sorted(each.name for each in made.iterdir()) == sorted(Path(n).stem for n in names)


# The real sets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "official", "mean", "train_labels", "test_labels", "classes"),
    [
        ("mnist", "MNIST", 33.318, [5, 0, 4, 1, 9], [7, 2, 1, 0, 4], ("0", "9")),
        (
            "fashion-mnist",
            "FashionMNIST",
            72.940,
            [9, 0, 0, 3, 0],
            [9, 2, 1, 1, 6],
            ("T-shirt/top", "Ankle boot"),
        ),
    ],
)
def test_the_real_files_through_a_mirror(
    mirror, folder, monkeypatch, name, official, mean, train_labels, test_labels, classes
):
    files = sorted((SHARED / name).glob("*.gz"))
    if not files:
        pytest.skip(
            f"needs the real files in {SHARED / name}; GENERATIVE_SHARED may name ../shared"
        )
    monkeypatch.setattr(getattr(torchvision.datasets, official), "mirrors", [])
    mirror.content = {f"/sets/{name}/{file.name}": file.read_bytes() for file in files}
    monkeypatch.setenv("DATA_MIRROR", f"{mirror.url}/sets/")
    sources.load(name).fetch(folder)
    raw = sources.load(name).read(folder)
    assert raw.train.images.shape == (60000, 1, 28, 28)
    assert raw.test.images.shape == (10000, 1, 28, 28)
    assert raw.train.images.dtype == raw.test.images.dtype == np.uint8
    assert raw.train.images.mean() == pytest.approx(mean, abs=0.001)
    assert raw.train.labels[:5].tolist() == train_labels
    assert raw.test.labels[:5].tolist() == test_labels
    assert (raw.classes[0], raw.classes[-1]) == classes
    assert len(raw.classes) == 10
    assert [each.name for each in folder.iterdir()] == [official]
    data = Data(name=name)
    found = sources.load(name).expected(data)
    assert found.spec == ImageSpec(1, 28, 28, 10)
    for part, each in splits.split(raw, data).items():
        assert np.bincount(each.labels).tolist() == found.by_class[part]


# Official mirrors --------------------------------------------------------------------------


def test_the_first_official_mirror_is_enough(mirror, folder, digits):
    arrays, archives = digits
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    check_complete(folder, archives)
    assert all(path.startswith("/first/") for path in mirror.asked)


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        ("missing", 1),
        ("broken", 2),
        ("garbage", 2),
        ("truncated", 2),
        ("corrupt", 2),
        ("dies", 2),
    ],
)
def test_the_next_mirror_helps(mirror, folder, digits, capfd, fault, tries):
    arrays, archives = digits
    mirror.faults[f"/first/{IMAGES}"] = fault
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    check_complete(folder, archives)
    # A server's error ends a try at the redirect probe, wrong content at the second request.
    requests = 1 if fault in ("missing", "broken", "garbage") else 2
    assert mirror.asked.count(f"/first/{IMAGES}") == tries * requests
    assert mirror.asked.count(f"/second/{IMAGES}") == 2
    assert sum(path.startswith("/second/") for path in mirror.asked) == 2
    note = re.escape(f"mnist: {mirror.url}/first/{IMAGES}: ") + ".*; trying the next mirror"
    assert re.search(note, capfd.readouterr().err)


@pytest.mark.parametrize("fault", ["broken", "truncated", "corrupt", "dies"])
def test_a_second_try_helps(mirror, folder, digits, fault):
    arrays, archives = digits
    requests = 1 if fault == "broken" else 2
    mirror.faults[f"/first/{IMAGES}"] = lambda asked: fault if asked <= requests else None
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    check_complete(folder, archives)
    assert not any(path.startswith("/second/") for path in mirror.asked)


def test_a_silent_mirror_is_given_up(mirror, folder, digits, monkeypatch):
    arrays, _ = digits
    monkeypatch.setattr(torchvision_sets, "TIMEOUT_SECONDS", 0.2)
    mirror.faults[f"/first/{IMAGES}"] = "silent"
    start = time.monotonic()
    sources.load("mnist").fetch(folder)
    assert time.monotonic() - start < 5
    check_digits(folder, arrays)


def test_the_socket_timeout_is_restored(mirror, folder, digits):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(17.0)
    try:
        sources.load("mnist").fetch(folder)
        assert socket.getdefaulttimeout() == 17.0
    finally:
        socket.setdefaulttimeout(before)


def test_a_port_where_nobody_listens(mirror, folder, digits, monkeypatch, capfd):
    arrays, _ = digits
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("DATA_MIRROR", url)
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    assert re.search(
        re.escape(f"mnist: {url}/mnist/{IMAGES}: [Errno ") + r"\d+\] Connection refused",
        capfd.readouterr().err,
    )


def test_no_damaged_file_outlives_its_mirror(mirror, folder, digits):
    mirror.faults[f"/first/{IMAGES}"] = "corrupt"
    file = folder / IMAGES
    failure = torchvision_sets._try_mirror(f"{mirror.url}/first/{IMAGES}", file, "0" * 32)
    assert "wrong md5" in failure
    assert not file.exists()


# Every mirror fails ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "HTTP Error 404: Not Found"),
        ("broken", r"HTTP Error 503: Service Unavailable \(2 tries\)"),
        ("garbage", r"BadStatusLine: this is no HTTP \(2 tries\)"),
        ("truncated", r"truncated or corrupt: wrong md5 after [\d,]+ bytes \(2 tries\)"),
        ("corrupt", r"truncated or corrupt: wrong md5 after [\d,]+ bytes \(2 tries\)"),
        ("dies", r"truncated or corrupt: wrong md5 after [\d,]+ bytes \(2 tries\)"),
    ],
)
@pytest.mark.parametrize("name", [IMAGES, LAST])
def test_one_line_says_all(mirror, folder, digits, monkeypatch, tmp_path, fault, reason, name):
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "own"))
    mirror.faults = {f"/{each}/{name}": fault for each in ("first", "second")}
    with pytest.raises(PipelineError) as caught:
        sources.load("mnist").fetch(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"mnist: cannot get {name} (")
    assert f"{tmp_path / 'own' / 'mnist' / name}: no such file; " in message
    for each in ("first", "second"):
        assert re.search(re.escape(f"{mirror.url}/{each}/{name}: ") + reason, message)
    assert "DATA_MIRROR may name" in message
    assert f"mnist/{name}" in message
    (tmp_path / "own").rmdir()
    check_nothing_left(folder)


def test_nothing_is_left_when_unpacking_fails(mirror, folder, digits, monkeypatch):
    """The md5 is right, but the file cannot be unpacked: a defect, and still no half folder."""
    content = b"not gzip at all"
    official = torchvision.datasets.MNIST
    md5 = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(official, "resources", [*official.resources[:3], (LAST, md5)])
    mirror.content[f"/first/{LAST}"] = content
    with pytest.raises(gzip.BadGzipFile):
        sources.load("mnist").fetch(folder)
    check_nothing_left(folder)


# DATA_MIRROR -------------------------------------------------------------------------------


def own_directory(tmp_path, archives):
    place = tmp_path / "own sets" / "mnist"
    place.mkdir(parents=True)
    for name, content in archives.items():
        (place / name).write_bytes(content)
    return place


@pytest.mark.parametrize("how", ["path", "relative path", "file URL"])
def test_a_directory_as_mirror(mirror, folder, digits, monkeypatch, tmp_path, how):
    arrays, archives = digits
    place = own_directory(tmp_path, archives)
    if how == "relative path":
        monkeypatch.chdir(tmp_path)
        value = "own sets"
    else:
        value = place.parent.as_uri() if how == "file URL" else str(place.parent)
    monkeypatch.setenv("DATA_MIRROR", value)
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    check_complete(folder, archives)
    assert mirror.asked == []
    assert {each.name: each.read_bytes() for each in place.iterdir()} == archives


@pytest.mark.parametrize("damage", ["missing", "corrupt", "no folder of this set"])
def test_the_official_mirrors_stand_behind_a_directory(
    mirror, folder, digits, monkeypatch, tmp_path, damage
):
    arrays, archives = digits
    place = own_directory(tmp_path, archives)
    monkeypatch.setenv("DATA_MIRROR", str(place.parent))
    if damage == "missing":
        (place / IMAGES).unlink()
    elif damage == "corrupt":
        (place / IMAGES).write_bytes(archives[IMAGES][:-1])
    else:
        place.rename(tmp_path / "elsewhere")
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    expected = set(archives) if damage == "no folder of this set" else {IMAGES}
    assert set(mirror.asked) == {f"/first/{name}" for name in expected}


def test_the_official_mirrors_stand_behind_a_url(mirror, folder, digits, monkeypatch):
    arrays, _ = digits
    monkeypatch.setenv("DATA_MIRROR", f"{mirror.url}/own")
    sources.load("mnist").fetch(folder)
    check_digits(folder, arrays)
    assert mirror.asked[0] == f"/own/mnist/{IMAGES}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no/such/place", "there is no such directory"),
        ("file:///no/such/place", "there is no such directory"),
        ("~nobody-of-that-name/sets", "there is no such directory"),
        ("s3://bucket/sets", "must be an http, https or file URL, or a directory"),
        ("http://[::1/sets", "no URL"),
    ],
)
def test_a_mirror_that_cannot_be(mirror, folder, digits, monkeypatch, value, message):
    monkeypatch.setenv("DATA_MIRROR", value)
    with pytest.raises(PipelineError, match=message) as caught:
        sources.load("mnist").fetch(folder)
    assert str(caught.value).startswith(f"DATA_MIRROR = '{value}': ")
    assert mirror.asked == []
    check_nothing_left(folder)


def test_an_empty_variable_is_no_mirror(mirror, folder, digits, monkeypatch):
    monkeypatch.setenv("DATA_MIRROR", "")
    sources.load("mnist").fetch(folder)
    assert all(path.startswith("/first/") for path in mirror.asked)


# cifar10 -----------------------------------------------------------------------------------

CIFAR_CLASSES = ["airplane", "automobile", "bird"]


@pytest.fixture
def cifar(monkeypatch, mirror):
    """A generated archive in the official layout; its images [N, C, H, W] and labels."""
    official = torchvision.datasets.CIFAR10
    rng = np.random.default_rng(1)
    arrays = {"train": ([], []), "test": ([], [])}
    members = {}
    md5s = {"train": [], "test": []}
    for part, listed in (("train", official.train_list), ("test", official.test_list)):
        for name, _ in listed:
            images = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
            labels = rng.integers(0, 3, 4).tolist()
            arrays[part][0].append(images)
            arrays[part][1].extend(labels)
            members[name] = pickle.dumps({"data": images.reshape(4, -1), "labels": labels})
            md5s[part].append([name, hashlib.md5(members[name]).hexdigest()])
    meta = official.meta["filename"]
    members[meta] = pickle.dumps({"label_names": CIFAR_CLASSES})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{official.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    archive = buffer.getvalue()
    monkeypatch.setattr(official, "train_list", md5s["train"])
    monkeypatch.setattr(official, "test_list", md5s["test"])
    meta_md5 = hashlib.md5(members[meta]).hexdigest()
    monkeypatch.setattr(official, "meta", official.meta | {"md5": meta_md5})
    monkeypatch.setattr(official, "tgz_md5", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(official, "url", f"{mirror.url}/official/{official.filename}")
    mirror.content[f"/official/{official.filename}"] = archive
    mirror.content[f"/own/cifar10/{official.filename}"] = archive
    return arrays


@pytest.mark.parametrize("place", ["official", "own"])
def test_cifar10(mirror, folder, cifar, monkeypatch, place):
    if place == "own":
        monkeypatch.setenv("DATA_MIRROR", f"{mirror.url}/own")
    sources.load("cifar10").fetch(folder)
    raw = sources.load("cifar10").read(folder)
    for split, part in ((raw.train, "train"), (raw.test, "test")):
        images, labels = cifar[part]
        assert split.images.dtype == np.uint8
        assert split.images.flags["C_CONTIGUOUS"]
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, np.concatenate(images))
        np.testing.assert_array_equal(split.labels, labels)
    assert raw.classes == CIFAR_CLASSES
    assert [each.name for each in folder.iterdir()] == ["cifar-10-batches-py"]
    assert len(list((folder / "cifar-10-batches-py").iterdir())) == 7
    assert all(path.startswith(f"/{place}/") for path in mirror.asked)


@pytest.mark.parametrize("fault", ["truncated", "corrupt", "dies", "missing"])
def test_a_bad_cifar10_archive(mirror, folder, cifar, fault):
    (path,) = (each for each in mirror.content if each.startswith("/official/"))
    mirror.faults[path] = fault
    with pytest.raises(PipelineError, match=r"cifar10: cannot get cifar-10-python\.tar\.gz"):
        sources.load("cifar10").fetch(folder)
    check_nothing_left(folder)


class Exploit:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_an_altered_batch_is_never_unpickled(folder, cifar, tmp_path, name):
    sources.load("cifar10").fetch(folder)
    proof = tmp_path / "unpickled"
    (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Exploit(proof)))
    with pytest.raises(PipelineError, match=r"cifar10: .*does not hold this data set intact"):
        sources.load("cifar10").read(folder)
    assert not proof.exists()


# kmnist ------------------------------------------------------------------------------------


def test_kmnist_is_read_as_mnist_is(mirror, folder, digits, monkeypatch):
    arrays, archives = digits
    official = torchvision.datasets.KMNIST
    assert {name for name, _ in official.resources} == set(archives)
    monkeypatch.setattr(official, "resources", torchvision.datasets.MNIST.resources)
    monkeypatch.setattr(official, "mirrors", [f"{mirror.url}/kuzushiji/"])
    mirror.content = {f"/kuzushiji/{name}": content for name, content in archives.items()}
    sources.load("kmnist").fetch(folder)
    raw = sources.load("kmnist").read(folder)
    np.testing.assert_array_equal(raw.train.images, arrays["train"][0][:, None])
    np.testing.assert_array_equal(raw.test.labels, arrays["t10k"][1])
    assert (raw.classes[0], raw.classes[-1], len(raw.classes)) == ("o", "wo", 10)
    assert [each.name for each in folder.iterdir()] == ["KMNIST"]


# emnist-letters ----------------------------------------------------------------------------

LETTERS = "EMNIST/raw/emnist-letters-{}-idx{}-ubyte"


@pytest.fixture
def letters(monkeypatch, mirror):
    """A generated zip in the official layout; what its letters are, upright and from 0."""
    official = torchvision.datasets.EMNIST
    rng = np.random.default_rng(2)
    arrays, buffer = {}, io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for split in official.splits:
            for part, n in (("train", 52), ("test", 26)):
                images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
                labels = np.resize(np.arange(1, 27), n).astype(np.uint8)
                prefix = f"gzip/emnist-{split}-{part}"
                archive.writestr(f"{prefix}-images-idx3-ubyte.gz", gzip.compress(idx(images)))
                archive.writestr(f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(idx(labels)))
                if split == "letters":
                    arrays[part] = (images.transpose(0, 2, 1)[:, None], labels.astype(int) - 1)
    content = buffer.getvalue()
    monkeypatch.setattr(official, "md5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(official, "url", f"{mirror.url}/official/gzip.zip")
    mirror.content["/official/gzip.zip"] = content
    mirror.content["/own/emnist-letters/gzip.zip"] = content
    return arrays


@pytest.mark.parametrize("place", ["official", "own"])
def test_emnist_letters(mirror, folder, letters, monkeypatch, place):
    if place == "own":
        monkeypatch.setenv("DATA_MIRROR", f"{mirror.url}/own")
    sources.load("emnist-letters").fetch(folder)
    raw = sources.load("emnist-letters").read(folder)
    for split, part in ((raw.train, "train"), (raw.test, "test")):
        images, labels = letters[part]
        assert split.images.flags["C_CONTIGUOUS"]
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert raw.classes == list("abcdefghijklmnopqrstuvwxyz")
    kept = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    assert kept == sorted(
        LETTERS.format(f"{part}-{kind}", dimensions)
        for part in ("train", "test")
        for kind, dimensions in (("images", 3), ("labels", 1))
    )
    assert all(path.startswith(f"/{place}/") for path in mirror.asked)


@pytest.mark.parametrize("fault", ["truncated", "corrupt", "dies", "missing"])
def test_a_bad_emnist_archive(mirror, folder, letters, fault):
    mirror.faults["/official/gzip.zip"] = fault
    with pytest.raises(PipelineError, match=r"^emnist-letters: cannot get gzip\.zip \(") as caught:
        sources.load("emnist-letters").fetch(folder)
    assert "\n" not in str(caught.value)
    check_nothing_left(folder)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (LETTERS.format("train-images", 3), b"PK", "no IDX file of uint8 in 3 dimensions"),
        (LETTERS.format("test-images", 3), None, "cannot be read .No such file"),
        (
            LETTERS.format("train-labels", 1),
            idx(np.arange(52, dtype=np.uint8) % 26),
            "labels from 0 to 25, but there are the classes 1 to 26",
        ),
        (LETTERS.format("test-labels", 1), idx(np.full(26, 27, np.uint8)), "labels from 27 to 27"),
    ],
)
def test_letters_that_are_not_what_they_should_be(folder, letters, file, content, told):
    sources.load("emnist-letters").fetch(folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    told = rf"^emnist-letters: {folder / file}: {told}.*; run `dvc repro"
    with pytest.raises(PipelineError, match=told) as caught:
        sources.load("emnist-letters").read(folder)
    assert "\n" not in str(caught.value)


# svhn --------------------------------------------------------------------------------------


def matlab(images, labels):
    """The bytes of a file as SVHN's: images [H, W, C, N], labels [N, 1] with 10 for the digit 0."""
    buffer = io.BytesIO()
    named = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    content = {"X": images.transpose(2, 3, 1, 0), "y": named}
    scipy.io.savemat(buffer, content, do_compression=True)
    return buffer.getvalue()


def make_official(monkeypatch, mirror, contents):
    """Let torchvision take these bytes, by split, for SVHN's."""
    official = torchvision.datasets.SVHN
    listed = dict(official.split_list)
    for part, content in contents.items():
        name = listed[part][1]
        listed[part] = [f"{mirror.url}/official/{name}", name, hashlib.md5(content).hexdigest()]
        mirror.content[f"/official/{name}"] = mirror.content[f"/own/svhn/{name}"] = content
    monkeypatch.setattr(official, "split_list", listed)


@pytest.fixture
def numbers(monkeypatch, mirror):
    """Generated MATLAB files on the official server; images [N, C, H, W] and labels by split."""
    rng = np.random.default_rng(3)
    arrays = {
        part: (rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10)
        for part, n in (("train", 23), ("test", 11))
    }
    make_official(monkeypatch, mirror, {part: matlab(*each) for part, each in arrays.items()})
    return arrays


@pytest.mark.parametrize("place", ["official", "own"])
def test_svhn(mirror, folder, numbers, monkeypatch, place):
    if place == "own":
        monkeypatch.setenv("DATA_MIRROR", f"{mirror.url}/own")
    sources.load("svhn").fetch(folder)
    raw = sources.load("svhn").read(folder)
    for split, part in ((raw.train, "train"), (raw.test, "test")):
        images, labels = numbers[part]
        assert split.images.dtype == np.uint8
        assert split.images.flags["C_CONTIGUOUS"]
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert raw.classes == list("0123456789")
    assert sorted(each.name for each in folder.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]
    assert all(path.startswith(f"/{place}/") for path in mirror.asked)


@pytest.mark.parametrize("fault", ["truncated", "corrupt", "dies", "missing"])
def test_a_bad_svhn_file(mirror, folder, numbers, fault):
    mirror.faults["/official/test_32x32.mat"] = fault
    with pytest.raises(PipelineError, match=r"^svhn: cannot get test_32x32\.mat \(") as caught:
        sources.load("svhn").fetch(folder)
    assert "\n" not in str(caught.value)
    check_nothing_left(folder)


@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_a_damaged_svhn_file(folder, numbers, damage):
    sources.load("svhn").fetch(folder)
    bad = folder / "train_32x32.mat"
    content = bad.read_bytes()
    bad.unlink()
    if damage != "missing":
        bad.write_bytes(content[:-1] + (b"x" if damage == "altered" else b""))
    told = f"^svhn: {bad}: does not hold this data set intact; run `dvc repro"
    with pytest.raises(PipelineError, match=told) as caught:
        sources.load("svhn").read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", ["no MATLAB file", "labels", "label 11", "shape"])
def test_official_svhn_that_is_not_what_it_should_be(mirror, folder, numbers, monkeypatch, spoil):
    images, labels = numbers["train"]
    content = {
        "no MATLAB file": b"<html>",
        "labels": matlab(images, labels[:-1]),
        "label 11": matlab(images, labels + 2),
        "shape": matlab(images[..., :16], labels),
    }[spoil]
    make_official(monkeypatch, mirror, {"train": content})
    sources.load("svhn").fetch(folder)
    told = {
        "no MATLAB file": "intact",
        "labels": "22 labels for 23 images",
        "label 11": "labels from 0 to 11",
        "shape": r"images of \[3, 32, 16\]",
    }[spoil]
    with pytest.raises(PipelineError, match=f"^svhn: .*{told}.*; run `dvc repro") as caught:
        sources.load("svhn").read(folder)
    assert "\n" not in str(caught.value)


# Reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mnist", "fashion-mnist", "kmnist", "emnist-letters", "cifar10", "svhn"]
)
def test_reading_an_empty_folder(folder, name):
    with pytest.raises(PipelineError, match=f"^{name}: .*run `dvc repro --force") as caught:
        sources.load(name).read(folder)
    assert "\n" not in str(caught.value)


def some(n, dimensions=3, size=28):
    return np.ones((n, size, size) if dimensions == 3 else n, np.uint8)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("train-images-idx3-ubyte", b"", "empty"),
        ("train-labels-idx1-ubyte", b"", "empty"),
        ("t10k-images-idx3-ubyte", b"<!DOCTYPE html><html>", "no IDX file of uint8 in 3 dim"),
        ("t10k-labels-idx1-ubyte", None, "cannot be read .No such file"),
        ("train-images-idx3-ubyte", "folder", "cannot be read .Is a directory"),
        ("train-images-idx3-ubyte", idx(some(30))[:10], "no IDX file"),
        ("train-images-idx3-ubyte", idx(some(30))[:-1], r"23,519 values, .*\[30, 28, 28\]"),
        ("train-images-idx3-ubyte", idx(some(30)) + b"x", r"23,521 values, .*\[30, 28, 28\]"),
        ("train-images-idx3-ubyte", idx(some(30, 1)), "no IDX file of uint8 in 3 dimensions"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\3" + bytes(4 * 3), "no IDX file of uint8"),
        (
            "train-images-idx3-ubyte",
            b"\0\0\x08\3" + b"\xff" * 12,
            r"0 values, .*\[4294967295, 4294967295, 4294967295\]",
        ),
        ("train-labels-idx1-ubyte", idx(some(20, 1)), "20 labels for 30 images"),
        ("t10k-labels-idx1-ubyte", idx(some(20, 1) * 255), "labels from 255 to 255, .* 0 to 9"),
        ("t10k-images-idx3-ubyte", idx(some(20, size=14)), r"images of \[1, 14, 14\], .*1, 28, 28"),
    ],
)
def test_files_that_are_not_what_they_should_be(folder, digits, file, content, told):
    sources.load("mnist").fetch(folder)
    bad = folder / "MNIST" / "raw" / file
    bad.unlink()
    if content == "folder":
        bad.mkdir()
    elif content is not None:
        bad.write_bytes(content)
    with pytest.raises(PipelineError, match=rf"^mnist: {bad}: {told}.*; run `dvc repro") as caught:
        sources.load("mnist").read(folder)
    assert "\n" not in str(caught.value)


def test_no_images_at_all(folder, digits):
    sources.load("mnist").fetch(folder)
    for file, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
        (folder / "MNIST" / "raw" / f"train-{file}-ubyte").write_bytes(idx(some(0, dimensions)))
    with pytest.raises(PipelineError, match="train-labels-idx1-ubyte: no labels"):
        sources.load("mnist").read(folder)


@pytest.mark.parametrize("spoil", ["labels", "label 10", "shape"])
def test_batches_that_are_not_what_they_should_be(folder, cifar, monkeypatch, spoil):
    """Whatever passes for official is still looked at."""
    official = torchvision.datasets.CIFAR10
    sources.load("cifar10").fetch(folder)
    batch = folder / official.base_folder / "data_batch_1"
    content = pickle.loads(batch.read_bytes())
    if spoil == "shape":
        content["data"] = content["data"][:, :-1]
    else:
        content["labels"] = content["labels"][:-1] + [10] * (spoil == "label 10")
    batch.write_bytes(pickle.dumps(content))
    md5s = dict(official.train_list) | {batch.name: hashlib.md5(batch.read_bytes()).hexdigest()}
    monkeypatch.setattr(official, "train_list", [list(each) for each in md5s.items()])
    told = {"labels": "19 labels for 20 images", "label 10": "to 10, ", "shape": "intact"}[spoil]
    with pytest.raises(PipelineError, match=f"^cifar10: .*{told}.*; run `dvc repro") as caught:
        sources.load("cifar10").read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "spec", "counts", "val"),
    [
        ("kmnist", (1, 28, 28, 10), (54_000, 6_000, 10_000), [600] * 10),
        ("emnist-letters", (1, 28, 28, 26), (112_320, 12_480, 20_800), [480] * 26),
        ("cifar10", (3, 32, 32, 10), (45_000, 5_000, 10_000), [500] * 10),
        (
            "svhn",
            (3, 32, 32, 10),
            (65_931, 7_326, 26_032),
            [495, 1386, 1058, 850, 746, 688, 573, 560, 504, 466],
        ),
    ],
)
def test_what_will_come_of_it_is_known_before(name, spec, counts, val):
    found = sources.load(name).expected(Data(name=name))
    assert found.spec == ImageSpec(*spec)
    assert tuple(found.counts[part] for part in ("train", "val", "test")) == counts
    assert found.by_class["val"] == val


def test_importing_the_module_is_cheap():
    code = (
        "import sys, pipeline.datasets.torchvision_sets\n"
        "print([name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
