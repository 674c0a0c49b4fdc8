"""Pictures of many images, for people: enlarged, spaced and with the same bytes each time.

Where images have classes, these come in turn, in their order, so that all of them are seen.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.core import files

CELL = 64
"""Images are enlarged by the whole factor that brings their longer side nearest to this, in px."""
GAP = 2
MARGIN = 8
TEXT_SIZE, CAPTION_SIZE = 16, 12
PAPER = 245
INK = 30
MODES = {1: "L", 3: "RGB"}


def from_array(image: np.ndarray) -> Image.Image:
    """A picture of one uint8 image [C, H, W], grey if C is 1 and RGB if C is 3.

    Raises:
        ValueError: if it is anything else.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in MODES:
        raise ValueError(f"not a grey or RGB uint8 image [C, H, W]: {image.dtype} {image.shape}")
    last = np.ascontiguousarray(image.transpose(1, 2, 0))
    return Image.fromarray(last[:, :, 0] if len(image) == 1 else last)


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Images side by side, row by row; the last row may be shorter.

    Args:
        images: uint8 [N >= 1, C, H, W], grey or RGB.
        columns: images per row, at least 1.

    Raises:
        ValueError: if the images or the number of columns are anything else.
    """
    if columns < 1:
        raise ValueError(f"a grid has at least one column, not {columns}")
    if len(images) == 0:
        raise ValueError("a grid needs at least one image")
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    strips = [_strip(row, min(columns, len(images))) for row in rows]
    return from_array(np.concatenate(_spaced(strips, axis=1), axis=1))


def in_turn(labels: np.ndarray, classes: int, n: int) -> np.ndarray:
    """The first of so many ``classes`` in turn: at most n places in ``labels``, int64.

    Classes that run out are passed over.
    """
    members = [np.flatnonzero(labels == label)[:n] for label in range(classes)]
    longest = max((len(each) for each in members), default=0)
    found = [each[i] for i in range(longest) for each in members if i < len(each)]
    return np.array(found[:n], np.int64)


def by_class(
    images: np.ndarray, labels: np.ndarray, classes: int, *, columns: int, lines: int
) -> np.ndarray:
    """A table of images in which every class is seen, uint8 [rows, columns, C, H, W].

    Few classes come several times in a row, always all of them, so that each column shows one;
    many take several rows, and the next images of them begin a new one. What is left over is
    paper. The first images of each class are taken.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N]; classes without an image are passed over.
        classes: how many there are; of more than a table holds the first are shown.
        columns: the most there may be.
        lines: likewise of rows.
    """
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    members = [each for each in members if len(each)][: columns * lines]
    longest = max(len(each) for each in members)
    at_once = max(1, min(columns // len(members), longest))
    width = min(columns, at_once * len(members))
    height = -(-len(members) // width) if at_once == 1 else 1
    blank = np.full(images.shape[1:], PAPER, np.uint8)
    cells: list[np.ndarray] = []
    for block in range(min(lines // height, longest // at_once)):
        rounds = range(block * at_once, (block + 1) * at_once)
        found = [images[e[i]] if i < len(e) else blank for i in rounds for e in members]
        cells += found + [blank] * (-len(found) % width)
    return np.stack(cells).reshape(-1, width, *images.shape[1:])


def labelled_rows(
    rows: Sequence[tuple[str, np.ndarray]], captions: Sequence[Sequence[str]] = ()
) -> Image.Image:
    """One row of images under another, each with its name on the left.

    Args:
        rows: names and images uint8 [N, C, H, W], all of one shape, grey or RGB. N may differ
            from row to row and may be 0, which leaves the row empty but for its name.
        captions: what stands above the images of the first rows, a word for each; what is too
            long for an image is cut.

    Raises:
        ValueError: if there is no row or no image at all, or the images differ in shape.
    """
    columns = max((len(images) for _, images in rows), default=0)
    if columns == 0:
        raise ValueError("a picture needs at least one image")
    shapes = {images.shape[1:] for _, images in rows}
    if len(shapes) > 1:
        raise ValueError(f"all rows must hold images of one shape, not of {sorted(shapes)}")
    font = ImageFont.load_default(TEXT_SIZE)
    strips = [from_array(_strip(images, columns)) for _, images in rows]
    width, height = strips[0].size
    left = MARGIN + max(round(font.getlength(name)) for name, _ in rows) + MARGIN
    heads = [bool(each) * (CAPTION_SIZE + 2 * GAP) for each in captions]
    heads += [0] * (len(rows) - len(heads))
    size = (left + width + MARGIN, 2 * MARGIN + len(rows) * (height + GAP) - GAP + sum(heads))
    picture = Image.new(strips[0].mode, size, _paint(strips[0].mode, PAPER))
    draw = ImageDraw.Draw(picture)
    ink, small = _paint(picture.mode, INK), ImageFont.load_default(CAPTION_SIZE)
    across = (width + GAP) // columns
    for i, ((name, _), strip) in enumerate(zip(rows, strips, strict=True)):
        top = MARGIN + i * (height + GAP) + sum(heads[: i + 1])
        for place, word in enumerate(captions[i] if i < len(captions) else ()):
            middle = (left + place * across + (across - GAP) // 2, top - GAP)
            draw.text(middle, _cut(word, small, across - GAP), fill=ink, font=small, anchor="md")
        middle = (MARGIN, top + height // 2)
        draw.text(middle, name, fill=ink, font=font, anchor="lm")
        picture.paste(strip, (left, top))
    return picture


def save_png(path: Path, image: Image.Image) -> None:
    """Write a PNG file that holds pixels and nothing else, whole or not at all."""
    bare = image.copy()
    bare.info = {}
    with files.replacing(path) as temporary:
        bare.save(temporary, format="PNG", optimize=True)


def save_rows(path: Path, rows: np.ndarray) -> None:
    """Write a picture of images uint8 [rows, columns, C, H, W]."""
    save_png(path, grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1]))


def _strip(images: np.ndarray, columns: int) -> np.ndarray:
    """One row of enlarged images, uint8 [C, H, W], with paper where ``columns`` are not filled."""
    _, channels, height, width = images.shape
    factor = max(1, round(CELL / max(height, width)))
    cells = [each.repeat(factor, axis=1).repeat(factor, axis=2) for each in images]
    blank = np.full((channels, height * factor, width * factor), PAPER, np.uint8)
    return np.concatenate(_spaced(cells + [blank] * (columns - len(cells)), axis=2), axis=2)


def _cut(word: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of a word as fits."""
    while word and font.getlength(word) > width:
        word = word[:-1]
    return word


def _spaced(blocks: list[np.ndarray], axis: int) -> list[np.ndarray]:
    """The blocks [C, H, W] with strips of paper between them, to be joined along ``axis``."""
    shape = list(blocks[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, PAPER, np.uint8)
    return [each for block in blocks for each in (gap, block)][1:]


def _paint(mode: str, level: int) -> int | tuple[int, int, int]:
    return level if mode == "L" else (level, level, level)
