"""People's image files: which ones a folder holds, and what is read of one; one policy for all.

A picture is turned as its EXIF data says, palettes and CMYK become RGB, an opaque alpha channel is
dropped. What would lose more than that is refused by name: transparency, more than 8 bits per
channel, several pictures in one file, and more than `MAX_PIXELS`, told by the header alone.
"""

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core import files
from pipeline.core.errors import PipelineError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How the names of images end, in small letters or capitals."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names for what such a file may hold; what else it knows is no photograph's format."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
"""Pillow's names for what becomes RGB without loss of more than its colour model."""
MAX_PIXELS = 100_000_000
SKIPPED = ("__MACOSX",)
"""Folders that archives bring along; hidden files and folders are left out, too."""


def find(folder: Path, *, inside: bool = False) -> list[Path]:
    """The image files of a folder, by their endings, in natural order: 2 before 10.

    Args:
        folder: where; what is hidden in it, or one of `SKIPPED`, is not looked at.
        inside: whether those in folders inside count, too.

    Raises:
        PipelineError: if a file cannot be an image though its name says so, such as a link that
            leads nowhere; if a folder is reached twice; if a name is not UTF-8.
    """
    found: list[Path] = []
    waiting = [folder]
    seen: dict[tuple[int, int], Path] = {}
    while waiting:
        place = waiting.pop()
        try:
            facts = place.stat()
            paths = sorted(place.iterdir())
        except OSError as error:
            raise PipelineError(f"{shown(place)}: cannot be read: {files.reason(error)}") from None
        first = seen.setdefault((facts.st_dev, facts.st_ino), place)
        if first is not place:
            raise PipelineError(
                f"{shown(place)}: a link to {shown(first)}, whose images would count twice; "
                "remove it"
            )
        for path in paths:
            if path.name.startswith(".") or path.name in SKIPPED:
                continue
            kind = _kind(path, inside)
            if kind is not None:
                (found if kind == "image" else waiting).append(path)
    return sorted(found, key=lambda path: _natural(path.relative_to(folder)))


def _kind(path: Path, inside: bool) -> str | None:
    """Whether it is an ``image``, a ``folder`` that counts, or nothing that does."""
    named = path.suffix.lower() in SUFFIXES
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not named and (path.suffix or not inside):
            return None  # whatever it should lead to, that was no image
        what = "a link that leads nowhere" if path.is_symlink() else "cannot be read"
        raise PipelineError(
            f"{shown(path)}: {what} ({files.reason(error)}); mend or remove it"
        ) from None
    if not (inside if stat.S_ISDIR(mode) else named):
        return None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise PipelineError(
            f"{shown(path)}: called like an image, but neither a file nor a folder; remove it"
        )
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise PipelineError(f"{shown(path)}: its name is not UTF-8; rename it") from None
    return "folder" if stat.S_ISDIR(mode) else "image"


def shown(path: PurePath) -> str:
    """A path for people, on one line, whatever bytes are in it."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _natural(path: PurePath) -> tuple[Any, ...]:
    """A sort key by which numbers in names are compared as numbers."""
    parts = [re.split(r"([0-9]+)", part) for part in path.parts]
    numbers = [[int(x) if i % 2 else x for i, x in enumerate(part)] for part in parts]
    return numbers, path.parts  # 01 and 1 differ


def read(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """One picture, upright, in Pillow's mode RGB.

    Args:
        path: the file.
        size: width and height that it must have, where nothing is to be resized.

    Raises:
        PipelineError: with the file, what it is and what would be right.
    """
    name = shown(path)
    try:
        with _limited(), Image.open(path, formats=FORMATS) as opened:
            _check(opened, name, size)
            return _rgb(ImageOps.exif_transpose(opened), name, size)
    except PipelineError:
        raise
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        raise PipelineError(
            f"{name}: {pixels:,} pixels, more than the {MAX_PIXELS:,} that are read; "
            "make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise PipelineError(f"{name}: cannot be read as an image ({_content(path)})") from None
    except Exception as error:  # whatever a broken file makes Pillow raise
        raise PipelineError(f"{name}: cannot be read as an image ({files.reason(error)})") from None


@contextmanager
def _limited() -> Iterator[None]:
    """Have Pillow refuse what is larger than `MAX_PIXELS`, and warn of nothing."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # it warns from there on, and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check(opened: Image.Image, name: str, size: tuple[int, int] | None) -> None:
    """Refuse what the header tells, before anything is decoded."""
    if size is not None and sorted(opened.size) != sorted(size):
        _refuse_size(opened.size, name, size)
    frames = getattr(opened, "n_frames", 1)
    if frames > 1 and opened.format != "MPO":  # cameras' files, whose others are previews
        raise PipelineError(
            f"{name}: {frames:,} pictures in one file (animated, or of several pages); "
            "save each as a file of its own"
        )
    # Pillow reads 16 bits of colour as 8, and only its name for the raw data says so.
    deep = any(re.search(r";16[BLNS]", str(tile[3])) for tile in getattr(opened, "tile", ()))
    if opened.mode not in MODES or deep:
        raise PipelineError(
            f"{name}: neither a grey nor a colour image with 8 bits per channel "
            f"(Pillow's mode {opened.mode}{', of 16 bits' if deep else ''}); convert it"
        )


def _rgb(upright: Image.Image, name: str, size: tuple[int, int] | None) -> Image.Image:
    if size is not None and upright.size != size:
        _refuse_size(upright.size, name, size)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        if upright.getchannel("A").getextrema() != (255, 255):
            raise PipelineError(f"{name}: it is partly transparent; put it on a background")
    return upright.convert("RGB")


def _refuse_size(found: tuple[int, int], name: str, size: tuple[int, int]) -> None:
    raise PipelineError(
        f"{name}: {found[0]}x{found[1]} pixels, but the images of this data set are "
        f"{size[0]}x{size[1]}; resize them yourself, which changes every metric"
    )


def _content(path: Path) -> str:
    """What stands in a file that no reader of images knows."""
    with path.open("rb") as stream:
        begin = stream.read(256).lstrip()
    if not begin:
        return "it is empty"
    if begin.startswith(b"<"):
        return "it holds a web page or XML; get the original again"
    return f"its content is none of {', '.join(FORMATS)}"
