"""How good a set of images is, as the judges see it: near the real ones, covering them, no copies.

Everything is measured by each judge on its own features, and reported as a mean over judges,
with the range where that is what a reader needs to see first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.judge import Judge
from pipeline.metrics import fid, kid, neighbours, reconstruction

KEYS = (
    "fid",
    "fid_min",
    "fid_max",
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
CLASS_KEYS = ("class_fid", "class_fid_max", "class_fid_n", "class_fid_real", "class_fid_worst")
"""What `by_class` reports."""


def measure(judges: Sequence[Judge], images: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """uint8 images [N, C, H, W] against as many real ones, by `KEYS`.

    - ``fid``: Frechet distance (`pipeline.metrics.fid`), the geometric mean over judges;
    - ``kid``: kernel distance (`pipeline.metrics.kid`); about 0, and as often below as above, for
      images of the real distribution;
    - ``precision``, ``recall``, ``density``, ``coverage``: `pipeline.metrics.neighbours`;
    - ``..._min`` and ``..._max``: the range over judges. They judge the same images, so that their
      agreement says nothing about other samples of the same model.

    Raises:
        ValueError: if the two sets differ in size, on which all of it depends, or are no uint8
            images of one shape.
    """
    _check(images, reference)
    distances, kernels, overlaps = [], [], []
    for judge in judges:
        found, real = judge.features(images), judge.features(reference)
        distances.append(_distance(found, real))
        kernels.append(kid.kernel_distance(found, real))
        overlaps.append(neighbours.overlap(found, real))
    coverages = [each.coverage for each in overlaps]
    return {
        "fid": _geometric_mean(distances),
        "fid_min": min(distances),
        "fid_max": max(distances),
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


def distance(judges: Sequence[Judge], images: np.ndarray, reference: np.ndarray) -> float:
    """FID alone, the geometric mean over judges; arguments and errors are those of `measure`."""
    _check(images, reference)
    return _geometric_mean(
        [_distance(judge.features(images), judge.features(reference)) for judge in judges]
    )


def copying(
    judges: Sequence[Judge], images: np.ndarray, training: np.ndarray, unseen: np.ndarray
) -> dict[str, float]:
    """Whether uint8 images are copies of training images, by `COPYING_KEYS`.

    ``authenticity`` (`pipeline.metrics.neighbours`) is the mean over judges, on their features,
    ``authenticity_pixels`` that on pixels; ``..._real`` is what real images have that no model was
    trained on, without which neither number means anything.

    Args:
        judges: whose features are looked at.
        images: the samples.
        training: all images that models were trained on.
        unseen: real images that they were not trained on.
    """
    seen = [judge.features(training) for judge in judges]

    def on_features(candidates: np.ndarray) -> float:
        return float(
            np.mean(
                [
                    neighbours.authenticity(judge.features(candidates), known)
                    for judge, known in zip(judges, seen, strict=True)
                ]
            )
        )

    def on_pixels(candidates: np.ndarray) -> float:
        return neighbours.authenticity(_flat(candidates), _flat(training))

    return {
        "authenticity": on_features(images),
        "authenticity_real": on_features(unseen),
        "authenticity_pixels": on_pixels(images),
        "authenticity_pixels_real": on_pixels(unseen),
    }


def by_class(
    judges: Sequence[Judge],
    samples: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    training: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """FID within each class, between samples of it and real images of it, by `CLASS_KEYS`.

    A conditional model may have a good FID over all classes and still draw every image of a class
    alike, or classes for each other. ``class_fid`` is the mean over classes, ``class_fid_max`` that
    of ``class_fid_worst``, the label of the worst. ``class_fid_n`` is how many images of each class
    are compared, as many for each: the fewer they are, the higher are FIDs, so
    ``class_fid_real``, the mean that real training images have at that number, belongs beside it.

    All values are None where a class has too few images for a covariance of full rank.

    Args:
        judges: over whom FID is taken.
        samples: uint8 images [N, C, H, W] and the labels that were asked for, int64 [N].
        reference: real images to compare with, and their labels.
        training: real images for the floor, and their labels.
    """
    classes = np.unique(samples[1])
    n = min(
        (of_class[1] == y).sum() for of_class in (samples, reference, training) for y in classes
    )
    if n <= judges[0].dimensions:
        return dict.fromkeys(CLASS_KEYS)

    def first(images: tuple[np.ndarray, np.ndarray], label: int) -> np.ndarray:
        return np.asarray(images[0][np.flatnonzero(images[1] == label)[:n]])

    drawn = [distance(judges, first(samples, y), first(reference, y)) for y in classes]
    real = [distance(judges, first(training, y), first(reference, y)) for y in classes]
    return {
        "class_fid": float(np.mean(drawn)),
        "class_fid_max": max(drawn),
        "class_fid_n": int(n),
        "class_fid_real": float(np.mean(real)),
        "class_fid_worst": f"class {classes[int(np.argmax(drawn))]}",
    }


def _check(images: np.ndarray, reference: np.ndarray) -> None:
    reconstruction.check_images(images, reference.shape[1:])
    if len(images) != len(reference):
        raise ValueError(f"{len(images)} images against {len(reference)}: sizes must agree")


def _distance(features: np.ndarray, real: np.ndarray) -> float:
    return max(0.0, fid.frechet_distance(fid.moments(features), fid.moments(real)))


def _geometric_mean(distances: Sequence[float]) -> float:
    return float(np.exp(np.log(np.maximum(distances, 1e-12)).mean()))


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1)
