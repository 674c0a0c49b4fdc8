"""Judge images that another generator made, by the rules that hold for the pipeline's own models.

The result stands in ``metrics/external`` and from then on in the comparison.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.core import files, params, paths, seeds, stage
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Store
from pipeline.evaluation import inception, judge, protocol, quality

SUFFIXES = (".png", ".bmp", ".webp", ".jpg", ".jpeg", ".tif", ".tiff")
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
FAMILY = "external"


def check(source: Path, name: str) -> None:
    """Refuse what can be refused before judges are trained.

    Raises:
        PipelineError: if the name is taken or no safe one, or there is no such source.
    """
    if not NAME.fullmatch(name):
        raise PipelineError(
            f"--name {name}: use up to 40 small letters, digits and . _ -, a letter or digit first"
        )
    if name in params.model_blocks(params.read()):
        raise PipelineError(f"--name {name}: a model of {paths.PARAMS} is called so; use another")
    if not source.exists():
        raise PipelineError(f"{source}: no such file or folder")


def evaluate(source: Path, name: str, labels: Path | None = None) -> None:
    """Judge the images in ``source`` and write their metrics; the judges must be there.

    Args:
        source: a folder of image files, or an ``.npy`` file; see `read_images`.
        name: what they are called in the table.
        labels: an ``.npy`` file with the class that each image should show, int [N], in the order
            of the images (files sorted by name), for what was drawn by class.

    Raises:
        PipelineError: as `check`, or if the images are not what can be compared.
    """
    check(source, name)
    raw = params.read()
    section: params.Evaluate = params.section(raw, "evaluate")
    n = params.section(raw, "sample").n
    store = Store()
    images = read_images(source, store.spec)
    asked = None if labels is None else read_labels(labels, len(images), store.spec.classes)
    if len(images) < n:
        raise PipelineError(
            f"{source}: {len(images):,} images, but all models are judged by {n:,} (sample.n in "
            f"{paths.PARAMS}), since every metric depends on their number; make more"
        )
    chosen = seeds.subset(len(images), n, section.seed, "external")
    images, asked = images[chosen], None if asked is None else asked[chosen]
    device = stage.prepare_torch(params.section(raw, "runtime"))
    judges = judge.load(paths.JUDGE, store.spec, device)
    common = protocol.protocol(store, protocol.judge_facts(), n, section.split, section.seed)
    real = quality.real_images(store, judges, section.split, n, section.seed)
    result = {
        "model": name,
        "family": FAMILY,
        "images_sha256": files.sha256(source),
        **common,
        "protocol": protocol.protocol_id(common),
        **quality.of_samples(judge.see(judges, images), asked, real),
        **inception.measure(
            section.inception, images, real.reference.images, real.train.images, device
        ),
    }
    files.write_json(paths.external_metrics(name), files.rounded(result))


def read_images(source: Path, spec: ImageSpec) -> np.ndarray:
    """Images uint8 [N, C, H, W], of the shape of ``spec``, nothing resized or rescaled.

    Args:
        source: a folder, whose image files (`SUFFIXES`) are read in the order of their names, also
            from folders inside; or an ``.npy`` file, uint8 [N, C, H, W], [N, H, W, C] or, where
            there is one channel, [N, H, W].
        spec: what the images must be like.

    Raises:
        PipelineError: with the file, what it is and what would be right.
    """
    if source.is_dir():
        found = sorted(each for each in source.rglob("*") if each.suffix.lower() in SUFFIXES)
        if not found:
            raise PipelineError(f"{source}: no image files ({', '.join(SUFFIXES)})")
        return np.stack([_read_file(each, spec) for each in found])
    array = _read_array(source)
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
    return np.ascontiguousarray(array)


def read_labels(path: Path, n: int, classes: int) -> np.ndarray:
    """Labels int64 [n] from an ``.npy`` file of whole numbers from 0 to classes - 1.

    Raises:
        PipelineError: if it holds anything else.
    """
    labels = _read_array(path)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise PipelineError(
            f"{path}: {labels.dtype} {list(labels.shape)}, but labels are whole numbers, one for "
            f"each of the {n:,} images"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise PipelineError(
            f"{path}: labels from {labels.min()} to {labels.max()}, but there are the classes "
            f"0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: not an .npy file ({error})") from None


def _read_file(path: Path, spec: ImageSpec) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            picture = opened.copy()
    except (OSError, UnidentifiedImageError) as error:
        raise PipelineError(f"{path}: not a readable image ({error})") from None
    if picture.size != (spec.width, spec.height):
        raise PipelineError(
            f"{path}: {picture.width}x{picture.height} pixels, but the images of this data set are "
            f"{spec.width}x{spec.height}; resize them yourself, which changes every metric"
        )
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise PipelineError(f"{path}: mode {picture.mode}, but images have 8 bits per channel")
    if picture.convert("RGBA").getextrema()[3] != (255, 255):
        raise PipelineError(f"{path}: it is partly transparent; put it on a background")
    colour = np.asarray(picture.convert("RGB"))
    if spec.channels == 1 and (colour != colour[:, :, :1]).any():
        raise PipelineError(f"{path}: in colour, but the images of this data set are grey")
    return np.moveaxis(colour, 2, 0)[: spec.channels]
