"""mnist, fashion-mnist and cifar10, by torchvision's own download and reading code.

torchvision knows the official files, their md5 sums and where they are served. Its ``download``
methods give up where a second try or the next mirror would have helped (a truncated file, for
one), so the mirrors are driven from here, one file and one mirror at a time. The environment
variable DATA_MIRROR names a mirror that is tried first, a URL or a directory with the files at
``<DATA_MIRROR>/<data set>/<official file name>``; it has to pass the same checks.
"""

import http.client
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PipelineError
from pipeline.datasets.sources import Labelled, RawSplits, Source

MIRROR_VARIABLE = "DATA_MIRROR"
TRIES = 2
BACKOFF_SECONDS = 1.0
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
    """

    name: str
    class_name: str

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
        from torchvision.datasets.utils import extract_archive

        own = _own_mirror(self.name)
        with tempfile.TemporaryDirectory(prefix=".partial.", dir=folder) as partial:
            for archive in self.archives():
                file = Path(partial, archive.folder, archive.name)
                file.parent.mkdir(parents=True, exist_ok=True)
                self._obtain(archive, file, own)
                extract_archive(str(file), remove_finished=True)
            for made in Path(partial).iterdir():
                made.rename(folder / made.name)

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, C, H, W] and labels int64 [N], in official order.

        cifar10's batches are pickles, which must never be loaded from an unknown origin.
        torchvision's class compares the md5 of each with the official one before it unpickles
        it, so what runs is what CIFAR-10's authors published, or nothing.

        Raises:
            PipelineError: if the files are missing or damaged.
        """
        try:
            train, test = (self.official()(root=str(folder), train=part) for part in (True, False))
        except RuntimeError:
            # torchvision's own message tells people to pass an argument that they cannot reach.
            raise PipelineError(
                f"{self.name}: {folder} does not hold this data set intact; "
                "run the download stage again"
            ) from None
        # torchvision's names for the digits are '0 - zero' and so on.
        classes = [each.split(" - ")[0] for each in train.classes]
        return RawSplits(_labelled(train), _labelled(test), classes)

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


class CifarSource(TorchvisionSource):
    """CIFAR: one tar file of pickled batches."""

    def archives(self) -> list[Archive]:
        """The one archive, which unpacks to a folder of its own."""
        official = self.official()
        return [Archive(official.filename, official.tgz_md5, "", [official.url])]


def _own_mirror(name: str) -> str | Path | None:
    """The URL or directory of one data set on the user's mirror, or None if there is no mirror.

    Raises:
        PipelineError: if DATA_MIRROR is neither an http or file URL nor an existing directory.
    """
    value = os.environ.get(MIRROR_VARIABLE, "")
    if not value:
        return None
    url = urllib.parse.urlsplit(value)
    if url.scheme in ("http", "https"):
        return f"{value.rstrip('/')}/{name}"
    if "://" in value and url.scheme != "file":
        raise PipelineError(
            f"{MIRROR_VARIABLE} = '{value}': must be an http, https or file URL, or a directory"
        )
    path = urllib.request.url2pathname(url.path) if url.scheme == "file" else value
    directory = Path(path).expanduser()
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
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            # OSError includes URLError and timeouts; RuntimeError is torchvision's word for a
            # wrong md5 and for endless redirects.
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


def _labelled(dataset: Any) -> Labelled:
    """torchvision's arrays, [N, H, W] or [N, H, W, C], as ours."""
    images = np.asarray(dataset.data, dtype=np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    return Labelled(
        images=np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        labels=np.asarray(dataset.targets, dtype=np.int64),
    )


SOURCES = {
    source.name: source
    for source in (
        IdxSource("mnist", "MNIST"),
        IdxSource("fashion-mnist", "FashionMNIST"),
        CifarSource("cifar10", "CIFAR10"),
    )
}
