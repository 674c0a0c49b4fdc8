"""folder: images of one's own, flat or in folders, labelled by these or not at all.

Reading them is decoding them: `scanned` makes one uint8 array of all images, streamed to the disk,
and a table of what each is, below ``work/``, by the content of the folder and by what pixels
depend on. `check` and `inspect` look at the table; the download stage takes the array over.
"""

import csv
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps
from pydantic import Field

from pipeline.core import arrays, files, owned, paths, records
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.core.progress import Progress
from pipeline.datasets import image_files, inputs, splits
from pipeline.datasets.sources import Expected, Labelled, RawSplits, Source

NAME = "folder"
IMAGES, TABLE, META = "images.npy", "images.csv", "folder.json"
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""What people call the folders of official splits, in small letters."""
VERSION = 1
"""Raised by hand when the same files become other pixels."""
CHUNK = 32
"""Images that a process reads at a time."""
ALONE_SECONDS = 3.0
"""What takes this process no longer it reads itself: others would take longer to start."""
KEPT = 20
"""Tables of other folders that are kept."""
SHOWN = 12
"""Classes that are named where there are many."""
TOLD = 3
"""Names that a message gives as examples."""
REMEDY = "run `dvc repro --force download`"


class Row(records.Record):
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


@dataclass
class Layout:
    """What the folders mean.

    Attributes:
        classes: names of the labels.
        labels: of each image, int64 [N].
        parts: of each image, ``train``, ``val`` or ``test``; ``""`` where a copy of it is in a
            split that is looked at later.
        official: the splits that the folder has; none, where it has to be split.
        notes: what was decided, and why, for people.
    """

    classes: list[str]
    labels: np.ndarray
    parts: list[str]
    official: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ImageFolder(Source):
    """All images below ``folder``, ``data.size`` pixels square."""

    folder: Path = Path()
    data: Data = Data()

    def configured(self, data: Data, path: Path = paths.PARAMS) -> "ImageFolder":
        """The folder that params.yaml names.

        Raises:
            PipelineError: if it names none, one that the pipeline writes to or removes, or no
                colour.
        """
        if not data.folder:
            raise PipelineError(
                f"{path}: data.folder = '': {NAME} needs the path of a folder with images"
            )
        folder = Path(os.path.expanduser(data.folder))
        owned.refuse(folder, f"{path}: data.folder")
        image_files.colour(data.background, f"{path}: data.background")
        return replace(self, folder=folder, data=data)

    def expected(self, data: Data) -> Expected:
        """Splits as preprocess will make them; all images are read for it, once.

        Raises:
            PipelineError: as `scanned`, `accept` and `layout`, or if a class has too few images.
        """
        scan = scanned(self)
        accept(scan, data)
        found = layout(scan.rows, data)
        parts = by_part(scan.rows, found, data)
        return Expected(
            ImageSpec(scan.channels, data.size, data.size, len(found.classes)),
            {
                part: np.bincount(found.labels[rows], minlength=len(found.classes)).tolist()
                for part, rows in parts.items()
            },
        )

    def inputs(self) -> dict[str, Path]:
        """All that may be images, by their names below ``folder``.

        Raises:
            PipelineError: if there is no such folder or no image in it, or a file cannot be one.
        """
        found = self.look()
        return {each.relative_to(self.folder).as_posix(): each for each in found.images}

    def look(self) -> image_files.Found:
        """The files of the folder; errors are those of `inputs`."""
        here = f"{paths.PARAMS}: data.folder = {str(self.folder)!r}"
        if not os.path.isdir(self.folder):
            raise PipelineError(f"{here}: there is no such folder")
        found = image_files.look(self.folder, inside=True)
        if not found.images:
            kinds = ", ".join(image_files.FORMATS)
            told = f"; {image_files.foreign(found.foreign[0])}" if found.foreign else ""
            raise PipelineError(f"{here}: there are no images in it ({kinds}){told}")
        return found

    def fetch(self, folder: Path) -> None:
        """Put one array of all images, and what each is, into the empty ``folder``.

        Raises:
            PipelineError: as `expected`.
        """
        scan = scanned(self, array=True)
        accept(scan, self.data)
        found = layout(scan.rows, self.data)
        _write_skipped(scan)
        shutil.move(scan.place / IMAGES, folder / IMAGES)
        _write_table(
            folder / TABLE,
            ["name", "label", "split", *list(Row.model_fields)[1:]],
            (
                [row.name, found.classes[label], part or "left out", *_values(row)[1:]]
                for row, label, part in zip(
                    scan.rows, found.labels.tolist(), found.parts, strict=True
                )
            ),
        )
        facts = {
            "classes": found.classes,
            "official": found.official,
            "skipped": [each.model_dump() for each in scan.skipped],
            "notes": found.notes,
            "sha256": {name: files.sha256(folder / name) for name in (IMAGES, TABLE)},
        }
        files.write_json(folder / META, facts)
        for note in found.notes:
            print(note)

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, C, size, size]; those of a split that has to be made, all as ``train``.

        Raises:
            PipelineError: if what `fetch` wrote is missing or damaged.
        """
        try:
            meta = records.read(folder / META, Meta, REMEDY)
            images = arrays.read(
                folder / IMAGES, dtype=np.uint8, sha256=meta.sha256.get(IMAGES), remedy=REMEDY
            )
            if files.sha256(folder / TABLE) != meta.sha256.get(TABLE):
                raise PipelineError(f"{folder / TABLE}: damaged; {REMEDY}")
            with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except FileNotFoundError as error:
            raise PipelineError(f"{error.filename}: missing; {REMEDY}") from None
        place = {name: label for label, name in enumerate(meta.classes)}
        labels = np.array([place[row["label"]] for row in rows], np.int64)

        def part(name: str) -> Labelled | None:
            chosen = [i for i, row in enumerate(rows) if row["split"] == name]
            if name != "train" and name not in meta.official:
                return None
            every = len(chosen) == len(rows)
            return Labelled(
                images if every else images[chosen],
                labels[chosen],
                [rows[i]["sha256"] for i in chosen],
            )

        return RawSplits(part("train"), part("test"), meta.classes, part("val"))


class Meta(records.Record):
    """The content of ``folder.json``."""

    classes: list[str] = Field(min_length=1)
    official: list[str]
    sha256: dict[str, str]


# --- What folders mean ------------------------------------------------------------------------


def layout(rows: Sequence[Row], data: Data) -> Layout:
    """Labels and splits by the names of the images.

    Raises:
        PipelineError: if ``data.labels`` asks for folders, and there are none, or images lie
            beside them.
    """
    names = [PurePosixPath(row.name).parts for row in rows]
    official, parts, names, notes = _official(_without_common(names))
    classes, labels, told = _classes(names, data)
    found = Layout(classes, labels, parts, official, [*notes, told])
    found.notes += _duplicates(rows, found)
    return found


def _without_common(names: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Names without the folders that all share."""
    while len({_top(name) for name in names}) == 1 and _top(names[0]):
        names = [name[1:] for name in names]
    return names


def _top(name: tuple[str, ...]) -> str:
    """The outermost folder that an image lies in, or none."""
    return name[0] if len(name) > 1 else ""


def _official(
    names: list[tuple[str, ...]],
) -> tuple[list[str], list[str], list[tuple[str, ...]], list[str]]:
    """The splits that folders are, the part of each image, names below them, and what is said."""
    tops = {_top(name) for name in names}
    meant = {top: SPLIT_NAMES.get(top.lower(), "") for top in tops}
    if not all(meant.values()) or "train" not in meant.values() or len(set(meant.values())) < 2:
        odd = sorted(top for top in tops if meant[top])
        note = []
        if odd and len(tops) > 1:
            other = min(top for top in tops if not meant[top])
            beside = f"the folder {_said(other)}" if other else "images"
            note = [f"splits: none are taken from {_listed(odd)}, since {beside} lie beside them"]
        return [], ["train"] * len(names), names, note
    if "test" not in meant.values():  # as ImageNet has it: what was held out is called val
        meant = {top: "test" if part == "val" else part for top, part in meant.items()}
    parts = [meant[name[0]] for name in names]
    counted = Counter(parts)
    said = ", ".join(
        f"{counted[part]:,} {part} (folder {_listed([top for top in meant if meant[top] == part])})"
        for part in ("train", "val", "test")
        if part in counted
    )
    official = [part for part in ("test", "val") if part in counted]
    return official, parts, [name[1:] for name in names], [f"splits: {said}"]


def _classes(names: list[tuple[str, ...]], data: Data) -> tuple[list[str], np.ndarray, str]:
    """The classes, that of each image, and what is said of them."""
    none = ["images"], np.zeros(len(names), np.int64)
    tops = Counter(map(_top, names))
    beside = tops.pop("", 0)
    asked = data.labels == "folders"
    if data.labels == "none":
        return *none, "labels: none, as data.labels says"
    if not tops:
        if asked:
            raise PipelineError(
                f"{paths.PARAMS}: data.labels = 'folders': the images of {data.folder} lie in no "
                "folders; make one for each class, or set auto or none"
            )
        return *none, "labels: none, since the images lie in no folders"
    if beside:
        if asked:
            raise PipelineError(
                f"{paths.PARAMS}: data.labels = 'folders': {beside:,} images of {data.folder} lie "
                "beside the folders of the classes; move them into one, or set none"
            )
        return *none, f"labels: none, since {beside:,} images lie beside the {len(tops)} folders"
    few = [name for name, n in tops.items() if n < least(data)]
    if not asked and 2 * len(few) > len(tops):
        return *none, (
            f"labels: none, since most of the {len(tops)} folders, such as {_said(min(few))}, have fewer "
            f"than {least(data)} images"
        )
    classes = sorted(tops, key=lambda name: image_files.natural(PurePosixPath(name)))
    shown = [f"{_said(name)} ({tops[name]:,})" for name in classes]
    if len(shown) > SHOWN:
        shown = [*shown[: SHOWN - 1], f"{len(shown) - SHOWN + 1} more"]
    place = {name: label for label, name in enumerate(classes)}
    told = f"{len(classes):,} classes, the folders" if len(classes) > 1 else "one class, the folder"
    return (
        [_said(name) for name in classes],
        np.array([place[name[0]] for name in names], np.int64),
        f"labels: {told} {_listed(shown)}",
    )


def least(data: Data) -> int:
    """How many different images a class needs to be in every split."""
    n = 2
    while True:
        test = round(n * splits.counts.TEST_FRACTION)
        if test > 0 and 0 < round((n - test) * data.val_fraction) < n - test:
            return n
        n += 1


def _duplicates(rows: Sequence[Row], found: Layout) -> list[str]:
    """Leave copies of test images out of train and val, and those of val out of train."""
    notes = []
    seen: dict[str, str] = {}
    left: Counter[str] = Counter()
    for part in ("test", "val", "train"):
        for row, each in zip(rows, found.parts, strict=True):
            if each == part:
                seen.setdefault(row.sha256, part)
    for place, row in enumerate(rows):
        if seen[row.sha256] != found.parts[place]:
            left[f"{found.parts[place]} that {seen[row.sha256]} has, too"] += 1
            found.parts[place] = ""
    groups: dict[str, set[int]] = {}
    times: Counter[str] = Counter()
    for row, label, part in zip(rows, found.labels.tolist(), found.parts, strict=True):
        if part:
            groups.setdefault(row.sha256, set()).add(label)
            times[row.sha256] += 1
    extra = times.total() - len(times)
    if extra:
        notes.append(
            f"duplicates: {extra:,} images are copies of others, pixel by pixel; "
            "copies stay in one split"
        )
    for what, n in left.items():
        notes.append(f"duplicates: {n:,} images are left out of {what}")
    mixed = sum(len(each) > 1 for each in groups.values())
    if mixed:
        notes.append(f"duplicates: {mixed:,} images stand in more than one class")
    return notes


def by_part(rows: Sequence[Row], found: Layout, data: Data) -> dict[str, np.ndarray]:
    """The places of the images in ``train``, ``val`` and ``test``, as preprocess splits them.

    Raises:
        PipelineError: if a class has too few images to be in every split.
    """
    parts = np.array(found.parts)
    train = np.flatnonzero(parts == "train")
    made = [part for part in ("test", "val") if part not in found.official]
    hashes = [rows[place].sha256 for place in train]
    try:
        chosen = splits.of_content(hashes, found.labels[train], found.classes, data, made)
    except PipelineError as error:
        raise PipelineError(f"{error}; {_more(found, data)}") from None
    split = {part: train[places] for part, places in chosen.items()}
    split |= {part: np.flatnonzero(parts == part) for part in found.official}
    for part in found.official:
        counted = np.bincount(found.labels[split[part]], minlength=len(found.classes))
        if not counted.all():
            name = found.classes[int(counted.argmin())]
            raise PipelineError(
                f"{data.name}: class '{name}' has no images in the {part} split of {data.folder}; "
                f"{_more(found, data)}"
            )
    return {part: split[part] for part in ("train", "val", "test")}


def _more(found: Layout, data: Data) -> str:
    if len(found.classes) == 1:
        return f"put at least {least(data)} different images there"
    return "add images to it, remove its folder, or set data.labels to none"


def accept(scan: Scan, data: Data) -> None:
    """Refuse a folder with too many broken files.

    Raises:
        PipelineError: with how many there are, and the first.
    """
    broken, every = len(scan.skipped), len(scan.skipped) + len(scan.rows)
    if scan.rows and broken <= data.max_broken * every:
        return
    _write_skipped(scan)
    first = "; ".join(each.reason for each in scan.skipped[:TOLD])
    raise PipelineError(
        f"{paths.PARAMS}: data.max_broken = {data.max_broken:g}: {broken:,} of {every:,} images in "
        f"{data.folder} cannot be read: {first}{'; ...' if broken > TOLD else ''}; mend or remove "
        f"them ({paths.SKIPPED} lists all), or raise it"
    )


# --- Reading them -----------------------------------------------------------------------------


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
        picture = ImageOps.pad(picture, size, bicubic, how.background)
    else:
        picture = picture.resize(size, bicubic)
    if how.channels == 1:
        return found, np.asarray(picture.convert("L"))[None]
    return found, np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def scanned(source: ImageFolder, *, array: bool = False) -> Scan:
    """All images of a folder, read, or remembered from the last time.

    Args:
        source: configured.
        array: whether the array must be there, too.

    Raises:
        PipelineError: as `ImageFolder.inputs`; if it changes while it is read.
    """
    data = source.data
    colour = image_files.colour(data.background, f"{paths.PARAMS}: data.background")
    how = Decoding(data.size, data.fit, data.channels, colour)
    content = inputs.current(data)
    key = files.sha256_of(
        {"files": content["sha256"], "how": vars(how), "version": VERSION, "by": PIL.__version__}
    )
    place = paths.FOLDERS / key[:16]
    found = source.look()
    table = _remembered(place)
    if table is None or (array and not _intact(place / IMAGES, table.sha256)):
        with files.replacing_folder(place) as made:
            _scan(source, found, how, made)
            if inputs.current(data) != content:
                raise PipelineError(
                    f"{data.folder}: it changed while it was read; run this again when it is still"
                )
        _forget(place)
        table = _remembered(place)
        if table is None:
            raise PipelineError(f"{place}: it is gone; run this again")
    fields = list(Row.model_fields)
    rows = [Row.model_construct(**dict(zip(fields, each, strict=True))) for each in table.rows]
    unread = [
        Skipped(name=each.relative_to(source.folder).as_posix(), reason=image_files.foreign(each))
        for each in found.foreign
    ]
    return Scan(rows, [*table.skipped, *unread], found.others, table.channels, place)


def _remembered(place: Path) -> Table | None:
    try:
        return records.read(place / META, Table, "")
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


def _scan(source: ImageFolder, found: image_files.Found, how: Decoding, made: Path) -> None:
    """Read all images into ``made``; memory does not grow with their number, but for the table."""
    names = [each.relative_to(source.folder).as_posix() for each in found.images]
    channels = 1 if how.channels == 1 else 3
    rows: list[Row] = []
    skipped: list[Skipped] = []
    file = made / IMAGES
    with (
        arrays.Rows(file, np.uint8, (channels, how.size, how.size), len(names)) as array,
        Progress(f"reading {image_files.shown(source.folder)}", len(names)) as progress,
    ):
        for chunk in _chunks(found.images, how):
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
        "rows": [_values(row) for row in rows],
        "skipped": [each.model_dump() for each in skipped],
    }
    files.write_json(made / META, table)


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


def _values(row: Row) -> list[Any]:
    return [getattr(row, name) for name in Row.model_fields]


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
            made.append(row.model_copy(update={"sha256": sha256}))
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


def _write_skipped(scan: Scan) -> None:
    if scan.skipped:
        _write_table(
            paths.SKIPPED,
            ["name", "reason"],
            ([each.name, each.reason] for each in scan.skipped),
        )
    else:
        files.remove(paths.SKIPPED)


def _write_table(path: Path, titles: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(titles)
        writer.writerows(rows)


def _said(name: str) -> str:
    return image_files.shown(PurePosixPath(name))


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


SOURCES = {NAME: ImageFolder()}
