"""The images of a folder, decoded once: an array that is streamed to the disk, and a table.

Both stand below ``work/``, under what pixels depend on: the content of the folder, and how it is
read. `check` and `inspect` look at the table; the download stage takes the array over.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps

from pipeline.core import arrays, files, paths, records
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data
from pipeline.core.progress import Progress
from pipeline.datasets import image_files, inputs

IMAGES, TABLE = "images.npy", "table.json"
VERSION = 1
"""Raised by hand when the same files become other pixels."""
CHUNK = 32
"""Images that a process reads at a time."""
ALONE_SECONDS = 3.0
"""What takes this process no longer it reads itself: others would take longer to start."""
KEPT = 20
"""Tables of other folders that are kept."""


class Row(NamedTuple):
    """One image that was read; its place in the table is that in the array."""

    name: str
    format: str
    mode: str
    width: int
    height: int
    frames: int
    clear: bool
    grey: bool
    sha256: str


class Skipped(records.Record):
    """A file that was not read, and why."""

    name: str
    reason: str


class Table(records.Record):
    """What is known of a folder; rows as lists, since there may be many."""

    sha256: str
    channels: int
    rows: list[list[Any]]
    skipped: list[Skipped]


@dataclass(frozen=True)
class Scan:
    """A folder whose images were read.

    Attributes:
        rows: the images, in the natural order of their names.
        skipped: files that are broken, or of a kind of images that is not read.
        others: how many files are no images.
        channels: 1 or 3.
        place: the folder below ``work/`` with the array, if nobody has taken it yet.
    """

    rows: list[Row]
    skipped: list[Skipped]
    others: int
    channels: int
    place: Path

    @property
    def several(self) -> int:
        """How many files hold several pictures, of which the first was read."""
        return sum(row.frames > 1 for row in self.rows)


@dataclass(frozen=True)
class Decoding:
    """What the pixels of an image depend on, beside its file."""

    size: int
    fit: str
    channels: str | int
    background: tuple[int, int, int]


def decoded(path: Path, how: Decoding) -> tuple[image_files.Picture, np.ndarray]:
    """An image in its final size, uint8 [C, size, size], three channels where they are open.

    ``crop`` scales the shorter side to the size and keeps the centre; ``pad`` scales the longer
    side and puts the background around; ``stretch`` scales both. All by Pillow's bicubic filter,
    which averages over all pixels when it shrinks.

    Raises:
        PipelineError: if it cannot be read.
    """
    size = (how.size, how.size)
    found = image_files.first(path, how.background, how.size)
    picture, bicubic = found.image, Image.Resampling.BICUBIC
    if how.fit == "crop":
        picture = ImageOps.fit(picture, size, bicubic)
    elif how.fit == "pad":
        scale = how.size / max(picture.size)
        inner = [max(1, round(each * scale)) for each in picture.size]
        scaled = picture.resize(inner, bicubic)
        picture = Image.new("RGB", size, how.background)
        picture.paste(scaled, [(how.size - each) // 2 for each in inner])
    else:
        picture = picture.resize(size, bicubic)
    if how.channels == 1:
        return found, np.asarray(picture.convert("L"))[None]
    return found, np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def look(folder: Path) -> image_files.Found:
    """The files below a folder.

    Raises:
        PipelineError: if there is no such folder or no image in it, or a file cannot be one.
    """
    here = f"{paths.PARAMS}: data.folder = {str(folder)!r}"
    if not os.path.isdir(folder):
        raise PipelineError(f"{here}: there is no such folder")
    found = image_files.look(folder, inside=True)
    if not found.images:
        kinds = ", ".join(image_files.FORMATS)
        told = f"; {image_files.foreign(found.foreign[0])}" if found.foreign else ""
        raise PipelineError(f"{here}: there are no images in it ({kinds}){told}")
    return found


def named(folder: Path, found: Sequence[Path]) -> dict[str, Path]:
    """Files by their names below a folder."""
    begin = len(folder.as_posix()) + 1
    return {each.as_posix()[begin:]: each for each in found}


def scanned(folder: Path, data: Data, *, array: bool = False) -> Scan:
    """All images of a folder, read, or remembered from the last time.

    Args:
        folder: where.
        data: the section of params.yaml, which says how they are read.
        array: whether the array must be there, too.

    Raises:
        PipelineError: as `look`; if the folder changes while it is read.
    """
    colour = image_files.colour(data.background, f"{paths.PARAMS}: data.background")
    how = Decoding(data.size, data.fit, data.channels, colour)
    found = look(folder)
    images = named(folder, found.images)
    content = inputs.current(data, images)
    key = files.sha256_of(
        {"files": content["sha256"], "how": vars(how), "version": VERSION, "by": PIL.__version__}
    )
    place = paths.FOLDERS / key[:16]
    table = _remembered(place)
    if table is None or (array and not _intact(place / IMAGES, table.sha256)):
        with files.replacing_folder(place) as made:
            _scan(images, f"reading {image_files.shown(folder)}", how, made)
            if inputs.current(data) != content:
                raise PipelineError(
                    f"{data.folder}: it changed while it was read; run this again when it is still"
                )
        _forget(place)
        table = _remembered(place)
        if table is None:
            raise PipelineError(f"{place}: it is gone; run this again")
    rows = list(map(Row._make, table.rows))
    unread = [
        Skipped(name=name, reason=image_files.foreign(each))
        for name, each in named(folder, found.foreign).items()
    ]
    return Scan(rows, [*table.skipped, *unread], found.others, table.channels, place)


def _remembered(place: Path) -> Table | None:
    try:
        return records.read(place / TABLE, Table, "")
    except (FileNotFoundError, PipelineError):
        return None


def _intact(path: Path, sha256: str) -> bool:
    try:
        return files.sha256(path) == sha256
    except OSError:
        return False


def _forget(place: Path) -> None:
    """Remove the arrays of other folders that nobody took, and the oldest tables."""
    with suppress(OSError):
        others = [each for each in paths.FOLDERS.iterdir() if each != place and each.is_dir()]
        others.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        for each in others:
            files.remove(each / IMAGES)
        for each in others[KEPT:]:
            files.remove(each)


def _scan(images: dict[str, Path], label: str, how: Decoding, made: Path) -> None:
    """Read all images into ``made``; memory does not grow with their number, but for the table."""
    names = list(images)
    channels = 1 if how.channels == 1 else 3
    rows: list[Row] = []
    skipped: list[Skipped] = []
    file = made / IMAGES
    with (
        arrays.Rows(file, np.uint8, (channels, how.size, how.size), len(names)) as array,
        Progress(label, len(names)) as progress,
    ):
        for chunk in _chunks(list(images.values()), how):
            for name, (result, pixels) in zip(
                names[progress.done : progress.done + len(chunk)], chunk, strict=True
            ):
                if isinstance(result, str):
                    skipped.append(Skipped(name=name, reason=result))
                    continue
                array.append(pixels[None])
                rows.append(_row(name, result, pixels))
            progress.advance(len(chunk))
    if how.channels == "auto" and rows and all(row.grey for row in rows):
        channels = 1
        rows = _first_channel(file, rows)
    table = {
        "sha256": files.sha256(file),
        "channels": channels,
        "rows": rows,
        "skipped": [each.model_dump() for each in skipped],
    }
    files.write_json(made / TABLE, table)


def _row(name: str, found: image_files.Picture, pixels: np.ndarray) -> Row:
    grey = len(pixels) == 1 or bool((pixels == pixels[:1]).all())
    return Row(
        name=name,
        format=found.format,
        mode=found.mode,
        width=found.size[0],
        height=found.size[1],
        frames=found.frames,
        clear=found.clear,
        grey=grey,
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )


def _first_channel(file: Path, rows: list[Row]) -> list[Row]:
    """Keep the first of three equal channels, of the array and in the hashes of its rows."""
    old = file.with_name("three.npy")
    os.replace(file, old)
    whole = np.load(old, mmap_mode="r")
    made = []
    with arrays.Rows(file, np.uint8, (1, *whole.shape[2:]), len(rows)) as array:
        for row, image in zip(rows, whole, strict=True):
            pixels = np.ascontiguousarray(image[:1])
            array.append(pixels[None])
            sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
            made.append(row._replace(sha256=sha256))
    del whole
    old.unlink()
    return made


Result = tuple[image_files.Picture | str, np.ndarray | None]
"""An image and its pixels, or why it cannot be read."""


def _chunks(paths: Sequence[Path], how: Decoding) -> Iterator[list[Result]]:
    """What is read of all files, `CHUNK` at a time, in their order."""
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    began, alone = time.monotonic(), 0
    while chunks and (time.monotonic() - began) * len(chunks) <= ALONE_SECONDS * max(alone, 1):
        yield _read(chunks.pop(0), how)
        alone += 1
    if not chunks:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(1, min(cores or 1, len(chunks)))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    waiting: list[Future[list[Result]]] = []
    try:
        for chunk in chunks:
            with _deaf():
                waiting.append(pool.submit(_read, chunk, how))
            if len(waiting) > 2 * workers:  # no more results than these wait to be written
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    except BrokenProcessPool:
        raise PipelineError(
            "a process that reads images was ended from outside, as where memory is short; run "
            "this again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: whoever started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    """What a process that reads images does first: it ends with the one that started it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _read(paths: Sequence[Path], how: Decoding) -> list[Result]:
    """Some files, each with its pixels or with why there are none."""
    results: list[Result] = []
    for path in paths:
        try:
            found, pixels = decoded(path, how)
        except PipelineError as error:
            results.append((str(error), None))
        else:
            results.append((replace(found, image=None), pixels))
    return results
