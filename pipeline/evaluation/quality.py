"""How good a set of images is, as the judges see it: near the real ones, covering them, no copies.

Everything is measured by each judge on its own features, and reported as a mean over judges,
with the range where that is what a reader needs to see first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.datasets.store import Store
from pipeline.evaluation import protocol
from pipeline.evaluation.judge import Judges, Seen, see
from pipeline.evaluation.metrics import distortion, fid, kid, neighbours

KEYS = (
    "fid",
    "fid_min",
    "fid_max",
    "second_fid",
    "second_fid_min",
    "second_fid_max",
    "kid",
    "kid_min",
    "kid_max",
    "coverage",
    "coverage_min",
    "coverage_max",
    "density",
    "precision",
    "recall",
)
"""What `measure` reports."""
COPYING_KEYS = (
    "authenticity",
    "authenticity_pixels",
    "authenticity_pixels_real",
    "authenticity_real",
)
"""What `copying` reports."""
NOTHING = dict.fromkeys((*KEYS, *COPYING_KEYS, "label_accuracy"))
"""What `of_samples` would report of a model that draws none."""
CLASS_KEYS = ("class_fid", "class_fid_max", "class_fid_n", "class_fid_real", "class_fid_worst")
"""What `by_class` reports."""


def measure(found: Seen, real: Seen) -> dict[str, float | None]:
    """Images against as many real ones, by `KEYS`.

    - ``fid``: Frechet distance (`metrics.fid`), the geometric mean over judges;
    - ``second_fid``: the same by the judges of the other kind, None where there are none;
    - ``kid``: kernel distance (`metrics.kid`); about 0, and as often below as above, for images of
      the real distribution;
    - ``precision``, ``recall``, ``density``, ``coverage``: `metrics.neighbours`;
    - ``..._min`` and ``..._max``: the range over judges. They judge the same images, so that their
      agreement says nothing about other samples of the same model.

    Raises:
        ValueError: if the two sets differ in size, on which all of it depends, or are no uint8
            images of one shape.
    """
    _check(found, real)
    fids, kernels, overlaps = [], [], []
    for features, wanted in zip(found.features, real.features, strict=True):
        fids.append(_distance(features, wanted))
        kernels.append(kid.kernel_distance(features, wanted))
        overlaps.append(neighbours.overlap(features, wanted))
    coverages = [each.coverage for each in overlaps]
    others = distances(found.by_second(), real.by_second())
    return {
        "fid": geometric_mean(fids),
        "fid_min": min(fids),
        "fid_max": max(fids),
        "second_fid": geometric_mean(others) if others else None,
        "second_fid_min": min(others, default=None),
        "second_fid_max": max(others, default=None),
        "kid": float(np.mean(kernels)),
        "kid_min": min(kernels),
        "kid_max": max(kernels),
        "coverage": float(np.mean(coverages)),
        "coverage_min": min(coverages),
        "coverage_max": max(coverages),
        "density": float(np.mean([each.density for each in overlaps])),
        "precision": float(np.mean([each.precision for each in overlaps])),
        "recall": float(np.mean([each.recall for each in overlaps])),
    }


def distance(found: Seen, real: Seen) -> float:
    """FID alone, the geometric mean over judges; errors are those of `measure`."""
    return geometric_mean(distances(found, real))


def distances(found: Seen, real: Seen) -> list[float]:
    """FID alone, of each judge; errors are those of `measure`."""
    _check(found, real)
    return [_distance(*each) for each in zip(found.features, real.features, strict=True)]


def geometric_mean(distances: Sequence[float]) -> float:
    """The mean on the scale of ratios, of numbers that may be 0."""
    return float(np.exp(np.log(np.maximum(distances, 1e-12)).mean()))


def accuracy(found: Seen, labels: np.ndarray) -> float:
    """Share of images in whose label, int64 [N], a judge sees them.

    The mean over judges, 0 to 1; higher is better.
    """
    return float(np.mean([(each == labels).mean() for each in found.predictions]))


def copying(found: Seen, training: Seen, unseen: Seen) -> dict[str, float]:
    """Whether images are copies of training images, by `COPYING_KEYS`.

    ``authenticity`` (`metrics.neighbours`) is the mean over judges, on their features,
    ``authenticity_pixels`` that on pixels; ``..._real`` is what real images have that no model was
    trained on, without which neither number means anything. Of more than
    `protocol.MOST_SUSPECTS` samples the first are looked at, which are a sample of that size: each
    depends on its own seed alone. Real images, whose order may be that of classes, are taken at
    even distances.

    Args:
        found: the samples.
        training: images that models were trained on, all or many of them.
        unseen: real images that they were not trained on.
    """
    most = protocol.MOST_SUSPECTS
    if len(found) > most:
        found = found.take(np.arange(most))
    if len(unseen) > most:
        unseen = unseen.take(np.arange(most) * len(unseen) // most)

    def on_features(candidates: Seen) -> float:
        pairs = zip(candidates.features, training.features, strict=True)
        return float(np.mean([neighbours.authenticity(*each) for each in pairs]))

    def on_pixels(candidates: Seen) -> float:
        return neighbours.authenticity(_flat(candidates.images), _flat(training.images))

    return {
        "authenticity": on_features(found),
        "authenticity_real": on_features(unseen),
        "authenticity_pixels": on_pixels(found),
        "authenticity_pixels_real": on_pixels(unseen),
    }


def by_class(
    samples: tuple[Seen, np.ndarray],
    reference: tuple[Seen, np.ndarray],
    training: tuple[Seen, np.ndarray],
) -> dict[str, Any]:
    """FID within each class, between samples of it and real images of it, by `CLASS_KEYS`.

    A conditional model may have a good FID over all classes and still draw every image of a class
    alike, or classes for each other. ``class_fid`` is the mean over classes, ``class_fid_max`` that
    of ``class_fid_worst``, the label of the worst. ``class_fid_n`` is how many images of each class
    are compared, as many for each: the fewer they are, the higher are FIDs, so
    ``class_fid_real``, the mean that real training images have at that number, belongs beside it.

    All values are None where a class has too few images for a covariance of full rank.

    Args:
        samples: images and the labels that were asked for, int64 [N].
        reference: real images to compare with, and their labels.
        training: real images for the floor, and their labels.
    """
    classes = np.unique(samples[1])
    n = min(
        (of_class[1] == y).sum() for of_class in (samples, reference, training) for y in classes
    )
    if n <= samples[0].features[0].shape[1]:
        return dict.fromkeys(CLASS_KEYS)

    def first(images: tuple[Seen, np.ndarray], label: int) -> Seen:
        return images[0].take(np.flatnonzero(images[1] == label)[:n])

    drawn = [distance(first(samples, y), first(reference, y)) for y in classes]
    real = [distance(first(training, y), first(reference, y)) for y in classes]
    return {
        "class_fid": float(np.mean(drawn)),
        "class_fid_max": max(drawn),
        "class_fid_n": int(n),
        "class_fid_real": float(np.mean(real)),
        "class_fid_worst": f"class {classes[int(np.argmax(drawn))]}",
    }


@dataclass(frozen=True)
class Real:
    """The real images that samples are judged by.

    Attributes:
        split: all images of the evaluated split, and ``labels`` theirs, int64 [N].
        reference: those of them that FID takes, as many as there are samples.
        train: the training images that judges look at, and ``train_labels`` theirs.
        trained_on: how many training images there are.
    """

    split: Seen
    labels: np.ndarray
    reference: Seen
    train: Seen
    train_labels: np.ndarray
    trained_on: int


def real_images(store: Store, judges: Judges, split: str, n: int, seed: int) -> Real:
    """Show the judges what samples are compared with.

    Raises:
        PipelineError: if the split has fewer than n images.
    """
    protocol.check_size(store, split, n)
    found, train = store.split(split), protocol.training_images(store, seed)
    whole = see(judges, found.images)
    return Real(
        whole,
        np.array(found.labels),
        whole.take(protocol.reference_index(len(whole), split, n, seed)),
        see(judges, train.images),
        np.array(train.labels),
        len(store.split("train")),
    )


def of_samples(samples: Seen, asked: np.ndarray | None, real: Real) -> dict[str, Any]:
    """All that judges say of a set of samples: `measure`, `copying`, and of their labels.

    ``authenticity_n``, where it is there, is the number of training images among which originals
    are looked for, since these are not all; ``authenticity_samples`` likewise that of the samples.
    ``label_accuracy`` is the share that the judges take for the class that was asked for, None
    where none was or the judges know no labels; real images of the split have
    ``label_accuracy_real``.

    Args:
        samples: as many as there are reference images.
        asked: the classes that were asked for, int64 [N], or None.
        real: what they are compared with.
    """
    found: dict[str, Any] = {
        **measure(samples, real.reference),
        **copying(samples, real.train, real.reference),
        "label_accuracy": None,
    }
    if len(real.train) < real.trained_on:
        found["authenticity_n"] = len(real.train)
    if len(samples) > protocol.MOST_SUSPECTS:
        found["authenticity_samples"] = protocol.MOST_SUSPECTS
    if asked is not None:
        found |= by_class(
            (samples, asked), (real.split, real.labels), (real.train, real.train_labels)
        )
        if samples.predictions:
            found |= {
                "label_accuracy": accuracy(samples, asked),
                "label_accuracy_real": accuracy(real.split, real.labels),
            }
    return found


def _check(found: Seen, real: Seen) -> None:
    distortion.check_images(found.images, real.images.shape[1:])
    if len(found) != len(real):
        raise ValueError(f"{len(found)} images against {len(real)}: sizes must agree")


def _distance(features: np.ndarray, real: np.ndarray) -> float:
    return max(0.0, fid.frechet_distance(fid.moments(features), fid.moments(real)))


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1)
