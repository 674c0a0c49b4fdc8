"""What the folders of somebody's images mean: labels, splits, and what was decided."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data
from pipeline.datasets import counts, image_files, splits
from pipeline.datasets.folder_scan import Row

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
UNPAIRED = {"trainA", "trainB", "testA", "testB"}
SHOWN = 12
"""Classes that are named where there are many."""


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
        if set(tops) == UNPAIRED:
            note = [
                "splits: none; for two unpaired sets, as CycleGAN has them, set data.name to "
                "unpaired-folder"
            ]
        elif odd and len(tops) > 1:
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
            f"labels: none, since most of the {len(tops)} folders have fewer than {least(data)} "
            f"images, such as {_said(min(few))}"
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
        test = round(n * counts.TEST_FRACTION)
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
            f"duplicates: {_are(extra, 'a copy of another', 'copies of others')}, pixel by pixel; "
            "copies stay in one split"
        )
    for what, n in left.items():
        notes.append(f"duplicates: {_are(n, 'left out', 'left out')} of {what}")
    mixed = sum(len(each) > 1 for each in groups.values())
    if mixed:
        within = "in more than one class"
        notes.append(f"duplicates: {_are(mixed, within, within)}")
    return notes


def _are(n: int, one: str, several: str) -> str:
    return f"1 image is {one}" if n == 1 else f"{n:,} images are {several}"


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


def _said(name: str) -> str:
    return image_files.shown(PurePosixPath(name))


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
