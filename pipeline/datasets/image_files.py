"""People's image files: which ones a folder holds, and what is read of one; one policy for all.

A file is an image by its content, whatever its name says: PNG, JPEG, WebP, BMP, GIF or TIFF. A
picture is turned as its EXIF data says; palettes and CMYK become RGB; what is transparent is put
on a background; 16 bits per channel become 8, white staying white. Refused by name are values
without a known white (floating point, 32 bits), more than `MAX_PIXELS`, told by the header alone,
and what is broken. Of several pictures in one file the first counts, where the caller allows it.
"""

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps, UnidentifiedImageError

from pipeline.core import files
from pipeline.core.errors import PipelineError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How the names of images end, in small letters or capitals."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's names for what such a file may hold; what else it knows is no photograph's format."""
BEGINS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II[*+]\0|MM\0[*+]|RIFF....WEBP|BM....\0\0\0\0", re.S
)
"""How the content of `FORMATS` begins."""
FOREIGN = {
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "camera raw"),
    ".avif": "AVIF",
    ".jxl": "JPEG XL",
    ".jp2": "JPEG 2000",
    ".psd": "Photoshop",
    ".svg": "SVG",
}
"""How the names of images end that are not read, and what they are called."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
"""Pillow's names for what becomes RGB without loss of more than its colour model."""
GREY = ("I;16", "I;16B", "I;16L")
"""Pillow's names for 16 bits of grey."""
QUARTER_TURNS = (5, 6, 7, 8)
"""What EXIF calls them, mirrored ones included."""
MAX_PIXELS = 100_000_000
SKIPPED = ("__MACOSX", "@eaDir")
"""Folders that archives and file servers bring along; hidden files and folders are left out,
too."""
WHITE = (255, 255, 255)


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: the image files, in natural order: 2 before 10.
        foreign: images of kinds that are not read, likewise.
        others: how many other files there are.
    """

    images: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    others: int = 0


def find(folder: Path, *, inside: bool = False) -> list[Path]:
    """The image files of a folder, in natural order, all of which must be of kinds that are read.

    Args:
        folder: where; what is hidden in it, or one of `SKIPPED`, is not looked at.
        inside: whether those in folders inside count, too.

    Raises:
        PipelineError: as `look`; if there are images of a kind that is not read.
    """
    found = look(folder, inside=inside)
    if found.foreign:
        raise PipelineError(foreign(found.foreign[0]))
    return found.images


def foreign(path: Path) -> str:
    """What is wrong with an image of a kind that is not read."""
    return f"{shown(path)}: {FOREIGN[path.suffix.lower()]}, which is not read; make a PNG of it"


def look(folder: Path, *, inside: bool = False) -> Found:
    """All files of a folder, by kind; otherwise as `find`.

    An image is what begins like one, or is called like one: an empty ``a.png`` is an image that
    is broken.

    Raises:
        PipelineError: if a file cannot be an image though its name says so, such as a link that
            leads nowhere; if a folder is reached twice; if a name is not UTF-8.
    """
    found = Found()
    waiting = [folder]
    seen: dict[tuple[int, int], Path] = {}
    while waiting:
        place = waiting.pop()
        try:
            facts = place.stat()
            paths = [place / name for name in sorted(os.listdir(place))]
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
            if kind == "folder":
                waiting.append(path)
            elif kind == "image":
                found.images.append(path)
            elif kind == "foreign":
                found.foreign.append(path)
            elif kind == "other":
                found.others += 1
    for each in (found.images, found.foreign):
        each.sort(key=natural)
    return found


def _kind(path: Path, inside: bool) -> str | None:
    """Whether it is an ``image``, ``foreign``, a ``folder`` that counts, or ``other``.

    None for what is neither a file nor a folder that counts.
    """
    suffix = path.suffix.lower()
    named = suffix in SUFFIXES
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not named and (path.suffix or not inside):
            return None  # whatever it should lead to, that was no image
        what = "a link that leads nowhere" if path.is_symlink() else "cannot be read"
        raise PipelineError(
            f"{shown(path)}: {what} ({files.reason(error)}); mend or remove it"
        ) from None
    if stat.S_ISDIR(mode):
        if not inside:
            return None
        kind = "folder"
    elif not stat.S_ISREG(mode):
        if not named:
            return None
        raise PipelineError(
            f"{shown(path)}: called like an image, but neither a file nor a folder; remove it"
        )
    elif suffix in FOREIGN:
        kind = "foreign"
    else:
        kind = "image" if named or _begins(path) else "other"
    if kind == "other":
        return kind
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise PipelineError(f"{shown(path)}: its name is not UTF-8; rename it") from None
    return kind


def _begins(path: Path) -> bool:
    """Whether the content begins like that of an image; not for what cannot be read."""
    try:
        with path.open("rb") as stream:
            return BEGINS.match(stream.read(16)) is not None
    except OSError:
        return False


def shown(path: PurePath) -> str:
    """A path for people, on one line, whatever bytes are in it."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def natural(path: PurePath) -> tuple[Any, ...]:
    """A sort key by which numbers in names are compared as numbers."""
    parts = [re.split(r"([0-9]+)", part) for part in path.parts]
    numbers = [[int(x) if i % 2 else x for i, x in enumerate(part)] for part in parts]
    return numbers, path.parts  # 01 and 1 differ


def colour(name: str, where: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a CSS colour, such as ``white`` or ``#ff8800``.

    Raises:
        PipelineError: if it is none, with ``where``, the key that it stands under.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise PipelineError(
            f"{where} = {name!r}: no colour; use a name of CSS, such as white, or #rrggbb"
        ) from None


@dataclass(frozen=True)
class Picture:
    """What one file holds.

    Attributes:
        image: upright, in Pillow's mode RGB.
        format: one of `FORMATS`.
        mode: Pillow's name of what is stored, ``;16`` behind it for 16 bits of colour.
        size: width and height, upright, in pixels.
        frames: how many pictures the file holds, of which this is the first.
        clear: whether some of it was transparent.
    """

    image: Image.Image
    format: str
    mode: str
    size: tuple[int, int]
    frames: int
    clear: bool


def read(
    path: Path,
    size: tuple[int, int] | None = None,
    background: tuple[int, int, int] = WHITE,
) -> Image.Image:
    """The only picture in a file, with all its pixels, upright, in Pillow's mode RGB.

    Args:
        path: the file.
        size: width and height that it must have, where nothing is to be resized.
        background: what transparent pixels are put on.

    Raises:
        PipelineError: with the file, what it is and what would be right.
    """
    with opened(path) as file:
        if size is not None and sorted(file.size) != sorted(size):
            _refuse_size(file.size, path, size)  # before anything is decoded
        found = _picture(file, path, background)
        if found.frames > 1:
            raise PipelineError(
                f"{shown(path)}: {found.frames:,} pictures in one file (animated, or of several "
                "pages); save each as a file of its own"
            )
        if size is not None and found.size != size:
            _refuse_size(found.size, path, size)
        return found.image


def first(path: Path, background: tuple[int, int, int] = WHITE, side: int | None = None) -> Picture:
    """The first picture in a file; of a JPEG with no more pixels than needed.

    Args:
        path: the file.
        background: what transparent pixels are put on.
        side: the size to which it will be shrunk. Where its shorter side is at least twice as
            long after that, a JPEG is decoded at a half, a quarter or an eighth, which is faster.

    Raises:
        PipelineError: with the file, what it is and what would be right.
    """
    with opened(path) as file:
        return _picture(file, path, background, side)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A file whose header is read; whatever goes wrong with it is told in one line.

    Raises:
        PipelineError: with the file, what it is and what would be right.
    """
    name = shown(path)
    try:
        # By its name Pillow would map a plain TIFF into memory, and forget to turn it.
        with _limited(), path.open("rb") as stream, Image.open(stream, formats=FORMATS) as file:
            yield file
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


def _picture(
    file: Image.Image, path: Path, background: tuple[int, int, int], side: int | None = None
) -> Picture:
    frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)  # cameras add previews
    # Pillow reads 16 bits of colour as 8, and only its name for the raw data says so.
    deep = any(re.search(r";16[BLNS]", str(tile[3])) for tile in getattr(file, "tile", ()))
    if file.mode not in MODES + GREY:
        raise PipelineError(
            f"{shown(path)}: neither a grey nor a colour image with 8 or 16 bits per channel "
            f"(Pillow's mode {file.mode}); convert it"
        )
    kind = "JPEG" if file.format == "MPO" else str(file.format)
    mode = f"{file.mode};16" if deep and file.mode not in GREY else file.mode
    size = file.size
    if side is not None and kind == "JPEG":
        file.draft(file.mode, (2 * side, 2 * side))
    upright = ImageOps.exif_transpose(_shallow(file, path, mode))
    if file.getexif().get(ExifTags.Base.Orientation, 1) in QUARTER_TURNS:
        size = size[::-1]
    clear = upright.has_transparency_data
    if clear:
        upright = upright.convert("RGBA")
        clear = upright.getchannel("A").getextrema() != (255, 255)
    if clear:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, background), upright)
    return Picture(upright.convert("RGB"), kind, mode, size, frames, clear)


def _shallow(file: Image.Image, path: Path, mode: str) -> Image.Image:
    """The picture with 8 bits per channel: of 16 bits, the nearest level, white staying white."""
    if mode in GREY:
        values = np.asarray(file)
    elif mode in ("RGB;16", "RGBA;16") and _plain(file):
        # Pillow takes one of the two bytes as a level, and in the other order the other one.
        tile = file.tile[0]
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as again:
            again.tile = [tile._replace(args=tile.args[:-1] + "L")]
            values = 256 * np.asarray(file).astype(np.uint16) + np.asarray(again)
    else:
        return file
    hidden = file.info.get("transparency")
    levels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    made = Image.fromarray(levels)
    if hidden is not None and mode != "RGBA;16":  # the one value that is transparent
        same = values == np.asarray(hidden)
        same = same if same.ndim == 2 else same.all(axis=2)
        made.putalpha(Image.fromarray(np.where(same, 0, 255).astype(np.uint8)))
    made.getexif()[ExifTags.Base.Orientation] = file.getexif().get(ExifTags.Base.Orientation, 1)
    return made


def _plain(file: Image.Image) -> bool:
    """Whether it is a PNG file of which the second bytes can be had, too (not so of grey ones)."""
    return [tile.args for tile in file.tile] == [f"{file.mode};16B"]


def _refuse_size(found: tuple[int, int], path: Path, size: tuple[int, int]) -> None:
    raise PipelineError(
        f"{shown(path)}: {found[0]}x{found[1]} pixels, but the images of this data set are "
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
