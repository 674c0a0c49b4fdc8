"""unpaired-folder: a folder of one's own with trainA, trainB, testA and testB, as CycleGAN's.

The images of each domain are a class, so that every model can be trained on them; the two classes
are made into domains by ``domains.transformation: classes``. Images are read by
`pipeline.datasets.image_files`, and scaled and centrally cropped to ``data.size`` squared pixels.
"""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.core import owned, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import counts, image_files
from pipeline.datasets.sources import Expected, Labelled, RawSplits, Source

NAME = "unpaired-folder"
PARTS = ("train", "test")
DOMAINS = ("A", "B")
FOLDERS = [part + domain for part in PARTS for domain in DOMAINS]


@dataclass(frozen=True)
class UnpairedFolder(Source):
    """The images below ``folder``, RGB, ``size`` x ``size``.

    Attributes:
        folder: holds the four folders; relative to the project.
        size: of the square images.
        background: what transparent pixels are put on.
    """

    folder: Path = Path()
    size: int = 64
    background: tuple[int, int, int] = image_files.WHITE

    def configured(self, data: Data, path: Path = paths.PARAMS) -> "UnpairedFolder":
        """The folder and size that params.yaml names.

        Raises:
            PipelineError: if it names no folder, or one that the pipeline writes to or removes.
        """
        if not data.folder:
            raise PipelineError(
                f"{path}: data.folder = '': {NAME} needs the path of a folder with "
                f"{_listed(FOLDERS)}"
            )
        folder = Path(os.path.expanduser(data.folder))
        for each in (folder, *(folder / name for name in FOLDERS)):  # any may be a link
            owned.refuse(each, f"{path}: data.folder")
        background = image_files.colour(data.background, f"{path}: data.background")
        return replace(self, folder=folder, size=data.size, background=background)

    def expected(self, data: Data) -> Expected:
        """Splits of as many images as there are files.

        Raises:
            PipelineError: as `inputs`, or if a folder holds too few.
        """
        found = self._files()
        train, test = ([len(found[part + domain]) for domain in DOMAINS] for part in PARTS)
        return Expected(
            ImageSpec(3, self.size, self.size, len(DOMAINS)),
            counts.of_splits(train, test, self.classes(), data),
        )

    def inputs(self) -> dict[str, Path]:
        """The images of the four folders, by their names below ``folder``.

        Raises:
            PipelineError: if a folder is missing or without images, or a file cannot be one.
        """
        return {
            f"{name}/{file.name}": file for name, each in self._files().items() for file in each
        }

    def _files(self) -> dict[str, list[Path]]:
        """The images of each folder."""
        here = f"{paths.PARAMS}: data.folder = {str(self.folder)!r}"
        if not os.path.isdir(self.folder):
            raise PipelineError(f"{here}: there is no such folder")
        found = {}
        for name in FOLDERS:
            if not os.path.isdir(self.folder / name):
                raise PipelineError(f"{here}: it has no folder {name}")
            found[name] = _images(self.folder / name)
            if not found[name]:
                raise PipelineError(
                    f"{here}: {name} holds no images, {_listed(image_files.FORMATS)}"
                )
        return found

    def fetch(self, folder: Path) -> None:
        """Copy the original files into the empty ``folder``, once all are known to be images.

        Raises:
            PipelineError: as `inputs`, or if a file is no image that can be read.
        """
        inputs = self.inputs()
        for file in inputs.values():
            self._read(file)
        for name, file in inputs.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, folder / name)

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, 3, size, size], domain A before B, each in the order of its file names.

        Raises:
            PipelineError: if a file is no image that can be read, or there are none.
        """
        train, test = (self._part(folder, part) for part in PARTS)
        return RawSplits(train, test, self.classes())

    def _part(self, folder: Path, part: str) -> Labelled:
        images, labels = [], []
        for label, domain in enumerate(DOMAINS):
            files = _images(folder / f"{part}{domain}")
            if not files:
                raise PipelineError(
                    f"{folder / part}{domain}: no images; run `dvc repro --force download`"
                )
            images += [self._read(file) for file in files]
            labels += [label] * len(files)
        return Labelled(np.stack(images), np.array(labels, np.int64))

    def _read(self, file: Path) -> np.ndarray:
        """One image, uint8 [3, size, size].

        Its shorter side is scaled to ``size`` and its longer side cropped around the centre, in one
        step of Pillow's bicubic filter, which averages over all pixels when it shrinks.
        """
        picture = image_files.read(file, background=self.background)
        square = ImageOps.fit(picture, (self.size, self.size), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def classes(self) -> list[str]:
        """Names of the domains: those of a folder called <name>2<name>, or else A and B."""
        found = re.fullmatch(r"(\D+)2(\D+)", self.folder.resolve().name)
        return list(found.groups()) if found else list(DOMAINS)


def _images(folder: Path) -> list[Path]:
    """Image files, sorted as text: another order would be another data set."""
    return sorted(image_files.find(folder))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


SOURCES = {NAME: UnpairedFolder()}
