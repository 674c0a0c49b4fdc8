"""mnist, fashion-mnist, kmnist, emnist-letters, cifar10 and svhn, by torchvision's download code.

torchvision knows the official files, their md5 sums and where they are served. Its ``download``
methods give up where a second try or the next mirror would have helped (a truncated file, for
one), so the mirrors are driven from here, one file and one mirror at a time. The environment
variable DATA_MIRROR names a mirror that is tried first, a URL or a directory with the files at
``<DATA_MIRROR>/<data set>/<official file name>``; it has to pass the same checks.
"""

import gzip
import http.client
import math
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import files
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import counts
from pipeline.datasets.sources import Expected, Labelled, RawSplits, Source

MIRROR_VARIABLE = "DATA_MIRROR"
TRIES = 2
BACKOFF_SECONDS = 1.0
REMEDY = "run `dvc repro --force download`"
TIMEOUT_SECONDS = 30.0
"""How long a mirror may stay silent, while connecting or between two packets."""


@dataclass(frozen=True)
class Archive:
    """One official file.

    Attributes:
        name: its file name, on every mirror.
        md5: its md5, in hex.
        folder: where torchvision wants it unpacked, relative to the data set's root.
        urls: where it is served officially.
    """

    name: str
    md5: str
    folder: str
    urls: list[str]


@dataclass(frozen=True)
class TorchvisionSource(Source):
    """A data set that torchvision knows.

    Attributes:
        name: what ``data.name`` calls it.
        class_name: what ``torchvision.datasets`` calls it.
        spec: shape of the images and number of classes.
        train: how many training images of each class there are.
        test: likewise, in the official test split.
    """

    name: str
    class_name: str
    spec: ImageSpec
    train: tuple[int, ...]
    test: tuple[int, ...]

    def expected(self, data: Data) -> Expected:
        """Splits of the official numbers of images."""
        numbered = [str(label) for label in range(self.spec.classes)]
        return Expected(self.spec, counts.of_splits(self.train, self.test, numbered, data))

    @abstractmethod
    def archives(self) -> list[Archive]:
        """The official files."""

    def official(self) -> Any:
        """torchvision's class; torchvision is imported here, since that takes seconds."""
        import torchvision

        return getattr(torchvision.datasets, self.class_name)

    def fetch(self, folder: Path) -> None:
        """Download, check and unpack the official files into the empty ``folder``.

        They end up as torchvision lays them out, so ``folder`` is also a ``root`` for it. The
        archives are not kept: they would double what DVC stores, to no use once checked.

        Raises:
            PipelineError: if a file cannot be had intact from any mirror; ``folder`` is empty
                then.
        """
        own = _own_mirror(self.name)
        with tempfile.TemporaryDirectory(prefix=".partial.", dir=folder) as partial:
            for archive in self.archives():
                file = Path(partial, archive.folder, archive.name)
                file.parent.mkdir(parents=True, exist_ok=True)
                self._obtain(archive, file, own)
                self.unpack(file)
            for made in Path(partial).iterdir():
                made.rename(folder / made.name)

    def unpack(self, file: Path) -> None:
        """Put what an intact official file holds beside it, and remove the file."""
        from torchvision.datasets.utils import extract_archive

        extract_archive(str(file), remove_finished=True)

    def _labelled(
        self, images: np.ndarray, labels: np.ndarray, where: tuple[Path, Path], first: int = 0
    ) -> Labelled:
        """Images uint8 [N, C, H, W] and labels from the files ``where``, if they fit together.

        ``first`` is what the files call the first class, which is 0 here.
        """
        if images.shape[1:] != self.spec.shape:
            raise self._refused(
                where[0],
                f"images of {list(images.shape[1:])}, but those of this data set are "
                f"{list(self.spec.shape)}",
            )
        if len(labels) != len(images):
            raise self._refused(where[1], f"{len(labels)} labels for {len(images)} images")
        if len(labels) == 0:
            raise self._refused(where[1], "no labels")
        last = first + self.spec.classes - 1
        if labels.min() < first or labels.max() > last:
            raise self._refused(
                where[1],
                f"labels from {labels.min()} to {labels.max()}, but there are the classes {first} "
                f"to {last}",
            )
        return Labelled(np.ascontiguousarray(images), labels.astype(np.int64) - first)

    def _refused(self, file: Path, what: str) -> PipelineError:
        return PipelineError(f"{self.name}: {file}: {what}; {REMEDY}")

    def _obtain(self, archive: Archive, file: Path, own: str | Path | None) -> None:
        """Put the intact archive at ``file``, from the first mirror that has it.

        Raises:
            PipelineError: one line that says why each mirror failed.
        """
        mirrors: list[str | Path] = [*archive.urls]
        if isinstance(own, Path):
            mirrors.insert(0, own / archive.name)
        elif own is not None:
            mirrors.insert(0, f"{own}/{archive.name}")
        failures = []
        for mirror in mirrors:
            if failures:
                print(f"{self.name}: {failures[-1]}; trying the next mirror", file=sys.stderr)
            failure = _try_mirror(mirror, file, archive.md5)
            if failure is None:
                return
            failures.append(f"{mirror}: {failure}")
        raise PipelineError(
            f"{self.name}: cannot get {archive.name} ({'; '.join(failures)}); {MIRROR_VARIABLE} "
            f"may name a URL or a directory that has it as {self.name}/{archive.name}"
        )


class IdxSource(TorchvisionSource):
    """MNIST and the sets that share its format: four gzipped IDX files."""

    def archives(self) -> list[Archive]:
        """Images and labels of both splits."""
        official = self.official()
        return [
            Archive(name, md5, f"{self.class_name}/raw", [base + name for base in official.mirrors])
            for name, md5 in official.resources
        ]

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, C, H, W] and labels int64 [N], in official order.

        Raises:
            PipelineError: if a file is missing, damaged, or not what the data set is.
        """
        # torchvision's names for the digits are '0 - zero' and so on.
        classes = [each.split(" - ")[0] for each in self.official().classes]
        raw = folder / self.class_name / "raw"
        train, test = (self._labelled(*self._part(raw, kind)) for kind in ("train", "t10k"))
        return RawSplits(train, test, classes)

    def _part(self, raw: Path, kind: str) -> tuple[np.ndarray, np.ndarray, tuple[Path, Path]]:
        """Images uint8 [N, 1, H, W] and labels uint8 [N] of the files ``<kind>-...``, and these."""
        where = raw / f"{kind}-images-idx3-ubyte", raw / f"{kind}-labels-idx1-ubyte"
        return self._idx(where[0], 3)[:, None], self._idx(where[1], 1), where

    def _idx(self, file: Path, dimensions: int) -> np.ndarray:
        """The uint8 array of an IDX file: 0, 0, 8, its dimensions, their sizes, and the values."""
        try:
            content = file.read_bytes()
        except OSError as error:
            raise self._refused(file, f"cannot be read ({files.reason(error)})") from None
        begin = 4 * (1 + dimensions)
        if not content.startswith(bytes([0, 0, 8, dimensions])) or len(content) < begin:
            what = "empty" if not content else f"no IDX file of uint8 in {dimensions} dimensions"
            raise self._refused(file, what)
        shape = np.frombuffer(content[4:begin], ">u4").tolist()
        if len(content) - begin != math.prod(shape):
            raise self._refused(
                file, f"{len(content) - begin:,} values, where its header says {shape}"
            )
        return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


class EmnistLettersSource(IdxSource):
    """The letters of EMNIST: one zip file of all its splits, with four gzipped IDX files for each.

    The files hold every image with rows and columns exchanged, and count classes from 1.
    """

    PARTS = ("emnist-letters-train", "emnist-letters-test")

    def archives(self) -> list[Archive]:
        """The one archive, which is the same for all splits of EMNIST."""
        official = self.official()
        name = official.url.rpartition("/")[2]
        return [Archive(name, official.md5, f"{self.class_name}/raw", [official.url])]

    def unpack(self, file: Path) -> None:
        """Only the letters: all splits together are six times as large."""
        with zipfile.ZipFile(file) as archive:
            for part in self.PARTS:
                for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
                    with (
                        archive.open(f"gzip/{name}.gz") as packed,
                        gzip.open(packed) as content,
                        open(file.parent / name, "wb") as out,
                    ):
                        shutil.copyfileobj(content, out)
        file.unlink()

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, C, H, W], upright, and labels int64 [N] from 0, in official order.

        Raises:
            PipelineError: if a file is missing, damaged, or not what the data set is.
        """
        raw = folder / self.class_name / "raw"
        found = []
        for part in self.PARTS:
            images, labels, where = self._part(raw, part)
            found.append(self._labelled(images.swapaxes(2, 3), labels, where, first=1))
        return RawSplits(*found, self.official().classes_split_dict["letters"][1:])


class CifarSource(TorchvisionSource):
    """CIFAR: one tar file of pickled batches."""

    def archives(self) -> list[Archive]:
        """The one archive, which unpacks to a folder of its own."""
        official = self.official()
        return [Archive(official.filename, official.tgz_md5, "", [official.url])]

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, C, H, W] and labels int64 [N], in official order.

        The batches are pickles, which must never be loaded from an unknown origin. torchvision's
        class compares the md5 of each with the official one before it unpickles it, so what runs
        is what CIFAR-10's authors published, or nothing.

        Raises:
            PipelineError: if a file is missing, damaged, or not what the data set is.
        """
        official = self.official()
        where = folder / official.base_folder
        try:
            found = [official(root=str(folder), train=part) for part in (True, False)]
            arrays = [
                (np.asarray(each.data, np.uint8).transpose(0, 3, 1, 2), np.asarray(each.targets))
                for each in found
            ]
        except Exception:
            # torchvision's own message tells people to pass an argument that they cannot reach.
            raise self._refused(where, "does not hold this data set intact") from None
        train, test = (self._labelled(*each, where=(where, where)) for each in arrays)
        return RawSplits(train, test, found[0].classes)


def _own_mirror(name: str) -> str | Path | None:
    """The URL or directory of one data set on the user's mirror, or None if there is no mirror.

    Raises:
        PipelineError: if DATA_MIRROR is neither an http or file URL nor an existing directory.
    """
    value = os.environ.get(MIRROR_VARIABLE, "")
    if not value:
        return None
    try:
        url = urllib.parse.urlsplit(value)
    except ValueError as error:
        raise PipelineError(f"{MIRROR_VARIABLE} = '{value}': no URL ({error})") from None
    if url.scheme in ("http", "https"):
        return f"{value.rstrip('/')}/{name}"
    if "://" in value and url.scheme != "file":
        raise PipelineError(
            f"{MIRROR_VARIABLE} = '{value}': must be an http, https or file URL, or a directory"
        )
    path = urllib.request.url2pathname(url.path) if url.scheme == "file" else value
    directory = Path(os.path.expanduser(path))
    if not directory.is_dir():
        raise PipelineError(f"{MIRROR_VARIABLE} = '{value}': there is no such directory")
    return directory / name


def _try_mirror(mirror: str | Path, file: Path, md5: str) -> str | None:
    """Get one file from one mirror; None if it is there and intact, or else why it is not.

    Another try is made where it may help: not for what a server refuses or a directory holds.
    """
    tries = 1 if isinstance(mirror, Path) else TRIES
    for attempt in range(1, tries + 1):
        try:
            _get(mirror, file, md5)
            return None
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            # OSError includes URLError and timeouts; RuntimeError is torchvision's word for a
            # wrong md5 and for endless redirects; ValueError is of a URL that is none.
            failure = _reason(error)
            file.unlink(missing_ok=True)
            if isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500:
                return failure
        if attempt < tries:
            time.sleep(BACKOFF_SECONDS * attempt)
    return failure if tries == 1 else f"{failure} ({tries} tries)"


def _get(mirror: str | Path, file: Path, md5: str) -> None:
    """Copy or download ``mirror``, itself the whole path or URL, to ``file``.

    Raises:
        OSError, RuntimeError, http.client.HTTPException: if that fails or the md5 is wrong.
    """
    from torchvision.datasets.utils import check_integrity, download_url

    if isinstance(mirror, Path):
        if not mirror.is_file():
            raise RuntimeError("no such file")
        shutil.copyfile(mirror, file)
        if not check_integrity(file, md5):
            raise RuntimeError(_wrong_md5(file))
        return
    try:
        with _socket_timeout(TIMEOUT_SECONDS):
            download_url(mirror, str(file.parent), file.name, md5)
    except RuntimeError:
        # torchvision says 'not found or corrupted'; the size tells a cut from a wrong file.
        if not file.exists():
            raise
        raise RuntimeError(_wrong_md5(file)) from None


def _wrong_md5(file: Path) -> str:
    return f"truncated or corrupt: wrong md5 after {file.stat().st_size:,} bytes"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Let no socket wait longer; torchvision's download takes no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception | str) -> str:
    """What went wrong, on one line."""
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        error = error.reason
    text = " ".join(str(error).split())
    # What http.client raises holds the server's words or nothing; its type says what is wrong.
    if isinstance(error, http.client.HTTPException) or not text:
        return f"{type(error).__name__}: {text}".rstrip(": ")
    return text


class SvhnSource(TorchvisionSource):
    """SVHN, cropped digits: one MATLAB file for each split."""

    def archives(self) -> list[Archive]:
        """Both splits, without the easier images that are published beside them."""
        official = self.official()
        return [
            Archive(name, md5, "", [url])
            for url, name, md5 in (official.split_list[part] for part in ("train", "test"))
        ]

    def unpack(self, file: Path) -> None:
        """They are read as they are."""

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, C, H, W] and labels int64 [N], in official order.

        torchvision's class compares the md5 of a file with the official one before it reads it,
        and calls the digit 0, which is 10 in the files, 0.

        Raises:
            PipelineError: if a file is missing, damaged, or not what the data set is.
        """
        official = self.official()
        found = []
        for part in ("train", "test"):
            where = folder / official.split_list[part][1]
            try:
                read = official(root=str(folder), split=part)
                images, labels = np.asarray(read.data, np.uint8), np.atleast_1d(read.labels)
            except Exception:  # see `CifarSource.read`
                raise self._refused(where, "does not hold this data set intact") from None
            found.append(self._labelled(images, labels, (where, where)))
        return RawSplits(*found, [str(digit) for digit in range(10)])


DIGITS = ImageSpec(1, 28, 28, 10)
SOURCES = {
    source.name: source
    for source in (
        IdxSource(
            "mnist",
            "MNIST",
            DIGITS,
            train=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            test=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        ),
        IdxSource("fashion-mnist", "FashionMNIST", DIGITS, (6000,) * 10, (1000,) * 10),
        IdxSource("kmnist", "KMNIST", DIGITS, (6000,) * 10, (1000,) * 10),
        EmnistLettersSource(
            "emnist-letters", "EMNIST", ImageSpec(1, 28, 28, 26), (4800,) * 26, (800,) * 26
        ),
        CifarSource("cifar10", "CIFAR10", ImageSpec(3, 32, 32, 10), (5000,) * 10, (1000,) * 10),
        SvhnSource(
            "svhn",
            "SVHN",
            ImageSpec(3, 32, 32, 10),
            train=(4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
            test=(1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
        ),
    )
}
