"""Judge images that another generator made, by the rules that hold for the pipeline's own models.

The result stands in ``metrics/<title>/external`` and from then on in the comparison.
"""

import csv
import difflib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core import arrays, files, owned, params, paths, seeds, stage
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets import image_files, inputs
from pipeline.datasets.store import Store
from pipeline.evaluation import judge, outside, protocol, quality

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
FAMILY = "external"


def check(source: Path, name: str, labels: Path | None = None) -> None:
    """Refuse what can be refused before judges are trained.

    Raises:
        PipelineError: if the name is taken or no safe one, source or labels are not there or not
            of a kind that can be read, or the pipeline may remove them.
    """
    if not NAME.fullmatch(name):
        raise PipelineError(
            f"--name {name}: use up to 40 small letters, digits and . _ -, a letter or digit first"
        )
    if name in params.model_blocks(params.read()):
        raise PipelineError(f"--name {name}: a model of {paths.PARAMS} is called so; use another")
    _check_path(source, "source")
    if source.is_dir():
        _files(source)
    else:
        _array(source)
    if labels is None:
        return
    _check_path(labels, "--labels")
    if not _is_table(labels):
        _array(labels)
    elif not source.is_dir():
        raise PipelineError(
            f"{labels}: a table says the class of each file of a folder, but {source} is one "
            "array; give an .npy file with the class of each image, int [N]"
        )


def _check_path(path: Path, where: str) -> None:
    # What a model drew may be judged again.
    owned.refuse(path, f"evaluate-images: {where}", allow=(paths.SAMPLES,))
    if not os.path.exists(path):
        raise PipelineError(f"{image_files.shown(path)}: no such file or folder")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise PipelineError(f"{image_files.shown(path)}: neither a file nor a folder")


def evaluate(source: Path, name: str, labels: Path | None = None) -> None:
    """Judge the images in ``source`` and write their metrics; the judges must be there.

    Args:
        source: a folder of image files, or an ``.npy`` file; see `read_images`.
        name: what they are called in the table.
        labels: a file with the class that each image should show, for what was drawn by class;
            see `read_labels`.

    Raises:
        PipelineError: as `check`, or if the images are not what can be compared.
    """
    check(source, name, labels)
    raw = params.read()
    found = Judging(raw).of(source, labels)
    result = {"model": name, "family": FAMILY, "images_sha256": _sha256(source), **found}
    files.write_json(params.results(raw).external_metrics(name), files.rounded(result))


class Judging:
    """Judges sets of images by the rules of params.yaml; the real ones are looked at once.

    Attributes:
        n: how many images of each set are judged, against as many real ones.
        store: the data set that they are compared with.
    """

    def __init__(self, raw: dict[str, Any], n: int | None = None) -> None:
        """``raw`` is params.yaml's; ``n`` is ``sample.n``, if None.

        Raises:
            PipelineError: if nothing was preprocessed, or a section has a mistake.
        """
        self.section: params.Evaluate = params.section(raw, "evaluate")
        self.store = Store()
        self.n = n or protocol.sample_count(
            params.section(raw, "sample").n, self.store.counts, self.section.split
        )
        self._raw = raw

    def of(self, source: Path, labels: Path | None = None) -> dict[str, Any]:
        """All that is said of the images in ``source``, and the facts that make it comparable.

        Raises:
            PipelineError: if there are no judges, or the images are not what can be compared.
        """
        section, store, n = self.section, self.store, self.n
        colour = params.section(self._raw, "data").background
        background = image_files.colour(colour, f"{paths.PARAMS}: data.background")
        images = read_images(source, store.spec, background)
        asked = None if labels is None else read_labels(labels, source, len(images), store.classes)
        if len(images) < n:
            raise PipelineError(
                f"{source}: {len(images):,} images, but all models are judged by {n:,} (sample.n "
                f"in {paths.PARAMS}), since every metric depends on their number; make more"
            )
        chosen = seeds.subset(len(images), n, section.seed, "external")
        images = np.ascontiguousarray(images[chosen])
        asked = None if asked is None else asked[chosen]
        common = protocol.protocol(store, protocol.judge_facts(), n, section.split, section.seed)
        real = self._real
        return {
            "conditional": asked is not None and store.spec.classes > 1,
            **common,
            "protocol": protocol.protocol_id(common),
            **quality.of_samples(judge.see(self._judges, images), asked, real),
            **outside.measure(
                section, images, real.reference.images, real.train.images, self._device
            ),
        }

    @cached_property
    def _device(self) -> torch.device:
        return stage.prepare_torch(params.section(self._raw, "runtime"))

    @cached_property
    def _judges(self) -> judge.Judges:
        return judge.load(paths.JUDGE, self.store.spec, self._device)

    @cached_property
    def _real(self) -> quality.Real:
        section = self.section
        return quality.real_images(self.store, self._judges, section.split, self.n, section.seed)


def read_images(
    source: Path, spec: ImageSpec, background: tuple[int, int, int] = image_files.WHITE
) -> np.ndarray:
    """Images uint8 [N, C, H, W], of the shape of ``spec``, nothing resized or rescaled.

    Args:
        source: a folder, whose image files are read in the natural order of their names, also from
            folders inside (see `pipeline.datasets.image_files`); or an ``.npy`` file, uint8
            [N, C, H, W], [N, H, W, C] or, where there is one channel, [N, H, W].
        spec: what the images must be like.
        background: what transparent pixels are put on.

    Raises:
        PipelineError: with the file, what it is and what would be right.
    """
    if source.is_dir():
        return np.stack([_read_file(each, spec, background) for each in _files(source)])
    array = _array(source)
    if array.dtype != np.uint8:
        raise PipelineError(
            f"{source}: {array.dtype} values, but images are uint8, 0 to 255; convert them as your "
            "generator means them, such as np.rint(127.5 * (x + 1)).clip(0, 255) from -1..1"
        )
    channels, height, width = spec.shape
    if array.ndim == 3 and channels == 1:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1:] == (height, width, channels) != spec.shape:
        array = np.moveaxis(array, 3, 1)
    if array.ndim != 4 or array.shape[1:] != spec.shape or not len(array):
        raise PipelineError(
            f"{source}: shape {list(array.shape)}, but the images of this data set are "
            f"[N, {channels}, {height}, {width}]; resize them yourself, which changes every metric"
        )
    return array


def read_labels(path: Path, source: Path, n: int, classes: list[str]) -> np.ndarray:
    """The class of each of n images of ``source``, int64 [n].

    Args:
        path: an ``.npy`` file of whole numbers, one for each image in the order of `read_images`;
            or a ``.csv`` file with two columns, the name of an image file below the folder
            ``source``, and its class by name or number. A first line of titles is passed over.
        source: as of `read_images`.
        n: how many images it has.
        classes: the names of the classes.

    Raises:
        PipelineError: if an image has no class, or what the file says fits no image or no class.
    """
    if _is_table(path):
        return _read_table(path, source, classes)
    labels = _array(path)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise PipelineError(
            f"{path}: {labels.dtype} {list(labels.shape)}, but labels are whole numbers, one for "
            f"each of the {n:,} images"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise PipelineError(
            f"{path}: labels from {labels.min()} to {labels.max()}, but there are the classes "
            f"0 to {len(classes) - 1}"
        )
    return labels.astype(np.int64)


def _array(path: Path) -> np.ndarray:
    return arrays.read(path, remedy="write it by numpy.save")


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _read_table(path: Path, source: Path, classes: list[str]) -> np.ndarray:
    names = [each.relative_to(source).as_posix() for each in _files(source)]
    left = dict.fromkeys(names, -1)
    by_class = {str(label): label for label in range(len(classes))}
    by_class |= {name: label for label, name in enumerate(classes)}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, [each.strip() for each in row]) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise PipelineError(
            f"{path}: cannot be read as a table of file names and classes ({files.reason(error)})"
        ) from None
    for place, (line, row) in enumerate(rows):
        if len(row) != 2:
            raise PipelineError(
                f"{path}:{line}: {len(row)} columns, but there are two, file name and class"
            )
        name, label = row[0].removeprefix("./"), by_class.get(row[1])
        if place == 0 and name not in left and label is None:
            continue  # titles
        if name not in left:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "names are those below the folder"
            told = f"{source} has no image {params.shown(name)}"
            raise PipelineError(f"{path}:{line}: {told}; {hint}")
        if label is None:
            raise PipelineError(f"{path}:{line}: {params.one_of('class', row[1], classes)}")
        if left[name] >= 0:
            raise PipelineError(f"{path}:{line}: '{name}' stands there twice")
        left[name] = label
    missing = [name for name, label in left.items() if label < 0]
    if missing:
        raise PipelineError(
            f"{path}: no class for {len(missing):,} of {len(names):,} images, such as "
            f"'{missing[0]}'; each must stand there once"
        )
    return np.array(list(left.values()), np.int64)


def _files(source: Path) -> list[Path]:
    found = image_files.find(source, inside=True)
    if not found:
        raise PipelineError(f"{source}: no image files ({', '.join(image_files.FORMATS)})")
    return found


def _read_file(path: Path, spec: ImageSpec, background: tuple[int, int, int]) -> np.ndarray:
    colour = np.asarray(image_files.read(path, (spec.width, spec.height), background))
    if spec.channels == 1 and (colour != colour[:, :, :1]).any():
        raise PipelineError(
            f"{image_files.shown(path)}: in colour, but the images of this data set are grey"
        )
    return np.moveaxis(colour, 2, 0)[: spec.channels]


def _sha256(source: Path) -> str:
    """One hash over all that was read."""
    if source.is_file():
        return files.sha256(source)
    return inputs.digest(
        {each.relative_to(source).as_posix(): files.sha256(each) for each in _files(source)}
    )
