"""folder: images of one's own, flat or in folders, labelled by these or not at all.

All are read before anything runs (`folder_scan`), since what becomes of them, and how many there
will be, is known only then: what is broken, what are copies of each other, what is grey.
"""

import csv
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.core import arrays, files, owned, paths, records
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import folder_layout, folder_scan, image_files
from pipeline.datasets.folder_scan import IMAGES, Row, Scan
from pipeline.datasets.sources import Expected, Labelled, RawSplits, Source

NAME = "folder"
TABLE, META = "images.csv", "folder.json"
TOLD = 3
"""Names that a message gives as examples."""
REMEDY = "run `dvc repro --force download`"


@dataclass(frozen=True)
class ImageFolder(Source):
    """All images below ``folder``, ``data.size`` pixels square."""

    folder: Path = Path()
    data: Data = field(default_factory=Data)

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
            PipelineError: as `folder_scan.scanned`, `accept` and `folder_layout.layout`, or if a
                class has too few images.
        """
        scan = folder_scan.scanned(self.folder, data)
        accept(scan, data)
        found = folder_layout.layout(scan.rows, data)
        parts = folder_layout.by_part(scan.rows, found, data)
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
        return folder_scan.named(self.folder, folder_scan.look(self.folder).images)

    def fetch(self, folder: Path) -> None:
        """Put one array of all images, and what each is, into the empty ``folder``.

        Raises:
            PipelineError: as `expected`, but for classes with few images.
        """
        scan = folder_scan.scanned(self.folder, self.data, array=True)
        accept(scan, self.data)
        found = folder_layout.layout(scan.rows, self.data)
        _write_skipped(scan)
        shutil.move(scan.place / IMAGES, folder / IMAGES)
        _write_table(
            folder / TABLE,
            ["name", "label", "split", *Row._fields[1:]],
            (
                [row.name, found.classes[label], part or "left out", *row[1:]]
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
            chosen = np.array([i for i, row in enumerate(rows) if row["split"] == name], np.int64)
            if name != "train" and name not in meta.official:
                return None
            return Labelled(
                arrays.chosen(images, chosen),
                labels[chosen],
                [rows[i]["sha256"] for i in chosen],
            )

        return RawSplits(part("train"), part("test"), meta.classes, part("val"))


class Meta(records.Record):
    """The content of ``folder.json``."""

    classes: list[str] = Field(min_length=1)
    official: list[str]
    sha256: dict[str, str]


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


def _write_skipped(scan: Scan) -> None:
    if scan.skipped:
        _write_table(
            paths.SKIPPED,
            ["name", "reason"],
            ([each.name, each.reason] for each in scan.skipped),
        )
    else:
        files.remove(paths.SKIPPED)


def _write_table(path: Path, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with files.replacing(path) as made, made.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(titles)
        writer.writerows(rows)


SOURCES = {NAME: ImageFolder()}
