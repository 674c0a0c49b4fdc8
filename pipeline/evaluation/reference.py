"""The reference rows: what is known without training, measured by the rules that hold for models.

They stand in every table, so that a number can be read against a scale and a broken metric is
visible: real images must score best, and noise worst.

- ``real``: a random subset of the training images; the floor of FID at this number of images.
- ``without_class``: that from which one class is missing, filled up with other images of the rest:
  what a generator has that lost one mode.
- ``noisy_<p>``: that with Gaussian noise of p % of white.
- ``blurred``: that blurred by one pixel.
- ``histogram``: each pixel and channel drawn independently from its training histogram, and the
  exact likelihood of that model.
- ``mean``: the training mean, rounded to levels: samples that are all alike, and the error of
  a reconstruction that ignores its input.
- ``noise``: uniform levels, exactly 8 bits/dim.
- ``png``, ``xz``, ``bzip2``: what general-purpose lossless coders need.
- ``pca_<k>``: projection onto the first k principal components of the training images
  (Pearson 1901), the best linear reconstruction from k numbers.

Data sets are read in chunks of `CHUNK` images, or fewer if they are large; only the n images that
FID needs, and the images of the evaluated split as uint8 for PNG, are ever held as a whole.
"""

import bz2
import io
import lzma
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.blocks import distributions
from pipeline.core import seeds
from pipeline.datasets.store import Split, Store
from pipeline.evaluation import judge, protocol, quality
from pipeline.evaluation.metrics import distortion
from pipeline.sampling import pictures

CHUNK = 1000
VALUES = 4_000_000
"""Pixels and channels of all images of a chunk: where images are larger, chunks are smaller."""
LEVELS = 256
COMPONENTS = (32, 64)
SQUARE = 4096
"""Side of the largest matrix that is taken apart as a whole."""
GUARDED, ITERATIONS = 96, 12
"""Directions that are looked for together where that matrix would be larger, and how often."""
TABLES = 5
"""How many arrays of 256 numbers for each pixel and channel `rows` holds at a time."""
SMOOTHING = tuple(2.0**k for k in range(-12, 5))
"""Candidates for the count that is added to each level of each histogram."""
NOISE_PERCENT = (5, 10, 20)
"""Standard deviations of the noise on real images, where white is 100."""
BLUR = (1, 4, 6, 4, 1)
"""Weights of a pixel and its neighbours, on either axis: a standard deviation of 1 pixel."""
KEYS = (
    *quality.KEYS,
    "nats_per_image",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "likelihood_bound",
    *distortion.keys(),
)
"""What a row holds beside its name and label; None where it does not apply."""


def rows(
    store: Store, judges: judge.Judges, *, n: int, split: str, seed: int
) -> list[dict[str, Any]]:
    """All reference rows, each with ``name``, ``label`` and `KEYS`.

    Args:
        store: the data set; rows are fitted to its train split.
        judges: whose features carry FID.
        n: images per FID, at least 2: as many as each model samples.
        split: what FID, likelihood and reconstruction are measured on.
        seed: chooses the reference images and names the randomness of the rows.

    Raises:
        PipelineError: if a split has fewer than n images.
    """
    train, images = store.split("train").images, store.split(split).images
    wanted = judge.see(judges, protocol.reference_images(store, split, n, seed))
    counts = histogram(train)
    shape, dimensions = store.spec.shape, store.spec.dimensions
    average = mean(counts, shape)
    flat = np.rint(average).astype(np.uint8)

    def judged(samples: np.ndarray) -> dict[str, float | None]:
        return quality.measure(judge.see(judges, samples), wanted)

    real = protocol.reference_images(store, "train", n, seed)
    fewer, missing = without_class(store.split("train"), n, seed)
    return [
        row("real", "real training images") | judged(real),
        *(
            [
                row("without_class", f"real, but none of class {store.classes[missing]}")
                | judged(fewer)
            ]
            if fewer is not None
            else []
        ),
        row("blurred", "real, blurred by one pixel") | judged(blurred(real)),
        *(
            row(f"noisy_{percent}", f"real, with noise of {percent} % of white")
            | judged(noisy(real, percent / 100, seed))
            for percent in NOISE_PERCENT
        ),
        row("histogram", "independent pixels from their training histograms")
        | judged(sample_histogram(counts, n, shape, seed))
        | _likelihood(histogram_nats(images, counts), dimensions),
        row("mean", "mean training image")
        | judged(np.repeat(flat[None], n, axis=0))
        | _flat_distortion(images, flat).keys("training mean"),
        row("noise", "uniform noise")
        | judged(uniform(n, shape, seed))
        | _code(8.0, dimensions, "exact", stderr=0.0),
        row("png", f"PNG, all {len(images):,} images in one optimised file, header included")
        | _code(8 * png_bytes(images) / images.size, dimensions, "code length", stderr=None),
        *(
            row(name, f"{name}, all {len(images):,} images one after the other")
            | _code(8 * size / images.size, dimensions, "code length", stderr=None)
            for name, size in compressed_bytes(images).items()
        ),
        *_pca_rows(train, images, average),
    ]


def without_class(split: Split, n: int, seed: int) -> tuple[np.ndarray | None, int]:
    """n images of a split without its most frequent class, uint8 [n, C, H, W], and that class.

    None if there are not so many.
    """
    labels = np.array(split.labels)
    missing = int(np.bincount(labels).argmax())
    others = np.flatnonzero(labels != missing)
    if len(others) < n:
        return None, missing
    chosen = others[seeds.subset(len(others), n, seed, "reference", "without class")]
    return np.array(split.images[chosen]), missing


def noisy(images: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """uint8 images with Gaussian noise added, whose standard deviation is sigma where white is 1.

    Rounded and clipped to levels, as the output of every model is.
    """
    every = seeds.image_seeds(len(images), seed, "reference", "noisy")
    noise = seeds.ImageNoise(every).normal(*images.shape[1:]).double().numpy()
    levels = images + 255 * sigma * noise
    return np.rint(levels).clip(0, LEVELS - 1).astype(np.uint8)


def blurred(images: np.ndarray) -> np.ndarray:
    """uint8 images [N, C, H, W] blurred by the weights `BLUR`, with their borders repeated."""
    reach = len(BLUR) // 2
    found = images.astype(np.int64)
    for axis in (2, 3):
        padding = [(reach, reach) if each == axis else (0, 0) for each in range(4)]
        padded = np.pad(found, padding, mode="edge")
        size = found.shape[axis]
        found = sum(
            weight * np.take(padded, np.arange(start, start + size), axis=axis)
            for start, weight in enumerate(BLUR)
        )
    total = sum(BLUR) ** 2
    return ((found + total // 2) // total).astype(np.uint8)


def compressed_bytes(images: np.ndarray) -> dict[str, int]:
    """Sizes in bytes of all levels of uint8 images, compressed as one string, by compressor."""
    raw = np.ascontiguousarray(images).tobytes()
    return {
        "xz": len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
        "bzip2": len(bz2.compress(raw, 9)),
    }


def row(name: str, label: str) -> dict[str, Any]:
    """A row to which nothing applies yet."""
    return {"name": name, "label": label, **dict.fromkeys(KEYS)}


def histogram(images: np.ndarray) -> np.ndarray:
    """How often each pixel and channel has each level, int64 [D, 256], of uint8 [N, C, H, W]."""
    dimensions = math.prod(images.shape[1:])
    first = np.arange(dimensions) * LEVELS
    counts = np.zeros(dimensions * LEVELS, np.int64)
    for chunk in _chunks(images):
        cells = first + chunk.reshape(len(chunk), dimensions)
        counts += np.bincount(cells.ravel(), minlength=counts.size)
    return counts.reshape(dimensions, LEVELS)


def mean(counts: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The mean image, float64 [C, H, W] in levels, of what `histogram` counted."""
    return (counts @ np.arange(LEVELS) / counts[0].sum()).reshape(shape)


def sample_histogram(
    counts: np.ndarray, n: int, shape: tuple[int, int, int], seed: int
) -> np.ndarray:
    """n images uint8 [n, C, H, W], each pixel and channel drawn by itself from its counts."""
    bits = np.random.Philox(seeds.derive(seed, "reference", "histogram"))
    images = np.empty((n, len(counts)), np.uint8)
    for pixel, cumulative in enumerate(counts.cumsum(axis=1)):
        # Of 2^64 values, so that the remainder is uniform to within 1 in 10^14.
        ranks = bits.random_raw(n) % np.uint64(cumulative[-1])
        images[:, pixel] = np.searchsorted(cumulative, ranks.astype(np.int64), side="right")
    return images.reshape(n, *shape)


def uniform(n: int, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """n images uint8 [n, C, H, W] of uniform and independent levels."""
    size = n * math.prod(shape)
    raw = np.random.Philox(seeds.derive(seed, "reference", "noise")).random_raw(-(-size // 8))
    return raw.astype("<u8").view(np.uint8)[:size].reshape(n, *shape)


def smoothing(counts: np.ndarray) -> float:
    """The candidate of `SMOOTHING` under which the fitted images predict each other best.

    That is by leave-one-out likelihood, in which an image is predicted from the counts of all
    others: no image but the fitted ones is looked at, and a level that was seen once has to be
    predicted from the added count alone.
    """
    seen = counts[counts > 0]
    total = counts[0].sum()

    def held_out(added: float) -> float:
        normaliser = len(counts) * total * math.log(total - 1 + LEVELS * added)
        return float(seen @ np.log(seen - 1 + added)) - normaliser

    return max(SMOOTHING, key=held_out)


def histogram_nats(images: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats, float64 [N], of uint8 images under independent pixels.

    P(level) of a pixel is (its count + a) / (images + 256 a), with one a for all pixels (see
    `smoothing`), so that a level that was never seen has a probability too.
    """
    smoothed = counts + smoothing(counts)
    table = -np.log(smoothed / smoothed.sum(axis=1, keepdims=True))
    pixels = np.arange(len(counts))
    return np.concatenate(
        [table[pixels, chunk.reshape(len(chunk), -1)].sum(axis=1) for chunk in _chunks(images)]
    )


def png_bytes(images: np.ndarray) -> int:
    """Size in bytes of the optimised PNG file that shows all images one below the other.

    One file for all: a file for each image would spend 57 bytes on its signature and chunk
    headers, 0.6 bits/dim at 28 x 28, which say nothing about the images. The price is that an
    image is coded with the ones before it at hand. The size is that of Pillow's PNG writer, and
    may differ by some bytes between its versions.
    """
    file = io.BytesIO()
    _, channels, _, width = images.shape
    tall = np.moveaxis(images, 1, 0).reshape(channels, -1, width)
    pictures.from_array(tall).save(file, format="PNG", optimize=True)
    return file.getbuffer().nbytes


def principal_components(images: np.ndarray, average: np.ndarray, most: int) -> np.ndarray:
    """Orthonormal principal directions, float64 [D, r], of uint8 images [N, C, H, W].

    They come in order of falling variance. Exact, but where N and D are both above `SQUARE`: there
    an iteration comes so near that images rebuilt from all of them lose less than 1e-6 of the
    variance that they could have.

    Args:
        images: what they are of.
        average: their mean, [C, H, W].
        most: r is as many as this, or as N images around their mean can span, min(D, N - 1).
    """
    wanted = min(most, average.size, len(images) - 1)
    if average.size <= min(len(images), SQUARE):
        found = _of_covariance(images, average)
    elif len(images) <= SQUARE:
        found = _of_products(images, average, wanted)
    else:
        found = _of_iteration(images, average)
    return found[:, :wanted]


def memory(n: int, dimensions: int) -> int:
    """About how many bytes `rows` takes for n training images of so many pixels and channels."""
    side = min(n, dimensions)
    # The matrix, its eigenvectors and LAPACK's two; or what `lobpcg` keeps; and the directions.
    found = 4 * side**2 if side <= SQUARE else 16 * GUARDED * dimensions
    found += 4 * max(COMPONENTS) * dimensions
    return 8 * max(found, TABLES * LEVELS * dimensions)


def _of_covariance(images: np.ndarray, average: np.ndarray) -> np.ndarray:
    """All directions, [D, D], by the scatter matrix: D^2 numbers whatever N is."""
    scatter = np.zeros((average.size, average.size))
    for centred in _centred(images, average):
        scatter += centred.T @ centred
    _, directions = np.linalg.eigh(scatter)
    return directions[:, ::-1]


def _of_products(images: np.ndarray, average: np.ndarray, wanted: int) -> np.ndarray:
    """The first directions, [D, wanted], by all products of two images: N^2 numbers.

    Eigenvectors of these are what the directions are made of.
    """
    from scipy.linalg import eigh

    n = len(images)
    flat, mean = images.reshape(n, -1), average.ravel()
    size = max(1, VALUES // n)
    columns = [slice(start, start + size) for start in range(0, mean.size, size)]
    products = np.zeros((n, n))
    for each in columns:
        part = flat[:, each] - mean[each]
        products += part @ part.T
    _, weights = eigh(products, subset_by_index=(n - wanted, n - 1))
    directions = np.concatenate(
        [(flat[:, each] - mean[each]).T @ weights[:, ::-1] for each in columns]
    )
    return np.linalg.qr(directions)[0]


def _of_iteration(images: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Near the first directions, [D, `GUARDED`]: as many numbers, some times, whatever N is.

    Knyazev 2001, "Toward the optimal preconditioned eigensolver", by scipy. The last of the
    directions guard those before them, which are what is used.
    """
    from scipy.sparse.linalg import LinearOperator, lobpcg

    def scatter(vectors: np.ndarray) -> np.ndarray:
        return sum(part.T @ (part @ vectors) for part in _centred(images, average))

    shape = (average.size, average.size)
    operator = LinearOperator(shape, matvec=scatter, matmat=scatter, dtype=np.float64)
    start = np.random.Generator(np.random.Philox(0)).standard_normal((average.size, GUARDED))
    with warnings.catch_warnings():
        # That it has not converged to the last digits, which nobody needs.
        warnings.simplefilter("ignore", UserWarning)
        _, directions = lobpcg(operator, start, maxiter=ITERATIONS)
    return np.linalg.qr(directions)[0]


def project(images: np.ndarray, average: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Reconstructions of uint8 images from their coordinates along directions [D, k].

    Clipped and rounded to uint8 [N, C, H, W], as the output of every model is.
    """
    centred = (images - average).reshape(len(images), -1)
    linear = (centred @ directions @ directions.T).reshape(images.shape) + average
    return np.rint(linear).clip(0, LEVELS - 1).astype(np.uint8)


def _pca_rows(train: np.ndarray, images: np.ndarray, average: np.ndarray) -> list[dict[str, Any]]:
    """A row for each number of `COMPONENTS`, or for as many as the training images have."""
    directions = principal_components(train, average, max(COMPONENTS))
    found = []
    for k in sorted({min(k, directions.shape[1]) for k in COMPONENTS}):
        parts = [
            distortion.distortion(chunk, project(chunk, average, directions[:, :k]))
            for chunk in _chunks(images)
        ]
        kind = f"{k} principal components"
        found.append(row(f"pca_{k}", f"PCA, {kind}") | distortion.joined(parts).keys(kind))
    return found


def _flat_distortion(images: np.ndarray, flat: np.ndarray) -> distortion.Distortion:
    """Of answering every image with one uint8 image [C, H, W]."""
    return distortion.joined(
        [
            distortion.distortion(chunk, np.broadcast_to(flat, chunk.shape))
            for chunk in _chunks(images)
        ]
    )


def _likelihood(nats: np.ndarray, dimensions: int) -> dict[str, Any]:
    """The keys of an exact likelihood, from its negative logarithm in nats, [N >= 2]."""
    stderr = float(nats.std(ddof=1)) / math.sqrt(len(nats))
    return {
        "nats_per_image": float(nats.mean()),
        "bits_per_dim": distributions.bits_per_dim(float(nats.mean()), dimensions),
        "bits_per_dim_stderr": distributions.bits_per_dim(stderr, dimensions),
        "likelihood_bound": "exact",
    }


def _code(bits_per_dim: float, dimensions: int, kind: str, stderr: float | None) -> dict[str, Any]:
    """The keys of a likelihood that is known as bits per dimension."""
    return {
        "nats_per_image": bits_per_dim * dimensions * math.log(2),
        "bits_per_dim": bits_per_dim,
        "bits_per_dim_stderr": stderr,
        "likelihood_bound": kind,
    }


def _centred(images: np.ndarray, average: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks of images less their mean, float64 [n, D]."""
    for chunk in _chunks(images):
        yield (chunk - average).reshape(len(chunk), -1)


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    size = min(CHUNK, max(1, VALUES // math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield images[start : start + size]
