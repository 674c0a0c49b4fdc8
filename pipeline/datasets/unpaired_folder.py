"""unpaired-folder: a folder of one's own with trainA, trainB, testA and testB, as CycleGAN's.

The images of each domain are a class, so that every model can be trained on them; the two classes
are made into domains by ``domains.transformation: classes``. Images are read by Pillow, turned
upright, made RGB, and scaled and centrally cropped to ``data.size`` squared pixels.
"""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data
from pipeline.datasets.sources import Labelled, RawSplits, Source

NAME = "unpaired-folder"
PARTS = ("train", "test")
DOMAINS = ("A", "B")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MODES = ("1", "L", "P", "RGB", "CMYK")
"""Pillow's names for what becomes RGB without loss of more than its colour model."""


@dataclass(frozen=True)
class UnpairedFolder(Source):
    """The images below ``folder``, RGB, ``size`` x ``size``.

    Attributes:
        folder: holds the four folders; relative to the project.
        size: of the square images.
    """

    folder: Path = Path()
    size: int = 64

    def configured(self, data: Data, path: Path = paths.PARAMS) -> "UnpairedFolder":
        """The folder and size that params.yaml names.

        Raises:
            PipelineError: if it names no folder.
        """
        if not data.folder:
            raise PipelineError(
                f"{path}: data.folder = '': {NAME} needs the path of a folder with "
                f"{_listed([part + domain for part in PARTS for domain in DOMAINS])}"
            )
        return replace(self, folder=Path(data.folder).expanduser(), size=data.size)

    def fetch(self, folder: Path) -> None:
        """Copy the original files into the empty ``folder``, once all are known to be images.

        Raises:
            PipelineError: if a folder is missing or empty, or a file is no image that can be read.
        """
        here = f"{paths.PARAMS}: data.folder = '{self.folder}'"
        if not self.folder.is_dir():
            raise PipelineError(f"{here}: there is no such folder")
        found: dict[str, list[Path]] = {}
        for name in (part + domain for part in PARTS for domain in DOMAINS):
            if not (self.folder / name).is_dir():
                raise PipelineError(f"{here}: it has no folder {name}")
            found[name] = _images(self.folder / name)
            if not found[name]:
                raise PipelineError(
                    f"{here}: {name} holds no images; they are known by their endings, "
                    f"{_listed(SUFFIXES)}"
                )
        for file in (file for each in found.values() for file in each):
            _read(file, self.size)
        for name, each in found.items():
            (folder / name).mkdir()
            for file in each:
                shutil.copyfile(file, folder / name / file.name)

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [N, 3, size, size], domain A before B, each in the order of its file names.

        Raises:
            PipelineError: if a file is no image that can be read.
        """
        train, test = (self._part(folder, part) for part in PARTS)
        return RawSplits(train, test, self.classes())

    def _part(self, folder: Path, part: str) -> Labelled:
        images, labels = [], []
        for label, domain in enumerate(DOMAINS):
            files = _images(folder / f"{part}{domain}")
            images += [_read(file, self.size) for file in files]
            labels += [label] * len(files)
        return Labelled(np.stack(images), np.array(labels, np.int64))

    def classes(self) -> list[str]:
        """Names of the domains: those of a folder called <name>2<name>, or else A and B."""
        found = re.fullmatch(r"(\D+)2(\D+)", self.folder.resolve().name)
        return list(found.groups()) if found else list(DOMAINS)


def _images(folder: Path) -> list[Path]:
    """Image files, sorted by name; hidden ones are not the user's."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _read(file: Path, size: int) -> np.ndarray:
    """One image, uint8 [3, size, size].

    Its shorter side is scaled to ``size`` and its longer side cropped around the centre, in one
    step of Pillow's bicubic filter, which averages over all pixels when it shrinks.
    """
    try:
        with Image.open(file) as opened:
            if opened.mode not in MODES or "transparency" in opened.info:
                raise PipelineError(
                    f"{file}: neither a grey nor a colour image with 8 bits and no transparency "
                    f"(Pillow's mode {opened.mode})"
                )
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise PipelineError(f"{file}: cannot be read as an image ({reason})") from None
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


SOURCES = {NAME: UnpairedFolder()}
