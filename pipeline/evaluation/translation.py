"""Judge translation between two unpaired domains, beside what would be had for nothing.

Everything is measured on images that went through uint8, in both directions.
"""

from typing import Any

import numpy as np

from pipeline.core import seeds
from pipeline.core.contract import Family, Translates
from pipeline.datasets.store import Split, Store
from pipeline.evaluation.judge import Judges, Seen, see
from pipeline.evaluation.metrics import distortion
from pipeline.evaluation.quality import accuracy, distance
from pipeline.sampling import drawing

KEYS = (
    "cycle_mse",
    "translation_fid_ab",
    "translation_fid_ab_floor",
    "translation_fid_ba",
    "translation_fid_ba_floor",
    "translation_fid_identity",
    "translation_label_accuracy",
    "translation_label_accuracy_identity",
    "translation_label_accuracy_real",
    "translation_mse",
    "translation_mse_ab",
    "translation_mse_ba",
    "translation_mse_identity",
    "translation_n",
)
"""What `measure` reports; None where it does not apply."""


def measure(
    family: Family,
    judges: Judges,
    store: Store,
    split: str,
    *,
    seed: int,
    batch: int,
) -> dict[str, Any]:
    """How well a model translates the images of one split, by `KEYS`.

    - ``translation_fid_<direction>``: FID of translated images against the real ones of the
      domain that they should be in, over all judges (see `quality.distance`), of
      ``translation_n`` each: all of the smaller domain. ``..._floor`` is what that many real
      training images of that domain have, None if there are fewer; ``translation_fid_identity`` is
      what leaving the images as they are has, in either direction.
    - ``cycle_mse``: mean squared error (white is 1) of images translated there and back, the mean
      of both ways round. Doing nothing scores 0, so it says nothing by itself.
    - ``translation_mse``: mean squared error against the truth, the mean of ``..._ab`` and
      ``..._ba``; ``..._identity`` is that of leaving the images as they are. None where nobody
      knows the truth.
    - ``translation_label_accuracy``: share of images translated from B to A in which the judges see
      the class that was translated, as a mean over judges. ``..._real`` is what they see in the
      truth, ``..._identity`` in the untranslated images. None where nobody knows the truth, or
      the judges know no labels.

    Args:
        family: the model; all values are None if it does not translate.
        judges: trained on the data set that the domains were made of.
        store: the images that it is trained on, with two domains if it translates.
        split: which split is judged.
        seed: chooses the images for FID where a domain has more than are needed.
        batch: images per call of the model.

    Raises:
        ValueError: if the model returns anything but uint8 images of the right shape.
    """
    if not isinstance(family, Translates):
        return dict.fromkeys(KEYS)
    found, train = _loaded(store.split(split)), store.split("train")
    a, b = found.images, found.others
    a_to_b = drawing.translate(family, a, "ab", batch)
    b_to_a = drawing.translate(family, b, "ba", batch)
    for made, shape in ((a_to_b, b.shape[1:]), (b_to_a, a.shape[1:])):
        distortion.check_images(made, shape)
    back_to_a = drawing.translate(family, a_to_b, "ba", batch)
    back_to_b = drawing.translate(family, b_to_a, "ab", batch)
    n = min(len(a), len(b))

    real_a, real_b, made_b, made_a = (see(judges, each) for each in (a, b, a_to_b, b_to_a))

    def index(total: int) -> np.ndarray:
        return seeds.subset(total, n, seed, "translation")

    def fid(found: Seen, real: Seen) -> float:
        return distance(*(each.take(index(len(each))) for each in (found, real)))

    def floor(images: np.ndarray, real: Seen) -> float | None:
        return None if len(images) < n else fid(see(judges, images[index(len(images))]), real)

    return {
        **dict.fromkeys(KEYS),
        "cycle_mse": (_mse(a, back_to_a) + _mse(b, back_to_b)) / 2,
        "translation_fid_ab": fid(made_b, real_b),
        "translation_fid_ab_floor": floor(train.others, real_b),
        "translation_fid_ba": fid(made_a, real_a),
        "translation_fid_ba_floor": floor(train.images, real_a),
        "translation_fid_identity": fid(real_a, real_b),
        "translation_n": n,
        **_errors(found, a_to_b, b_to_a),
        **_labels(found, judges, made_a, real_b),
    }


def _errors(split: Split, a_to_b: np.ndarray, b_to_a: np.ndarray) -> dict[str, float]:
    """Against the truth, where it is known."""
    if split.truth_ab is None or split.truth_ba is None:
        return {}
    ab, ba = _mse(split.truth_ab, a_to_b), _mse(split.truth_ba, b_to_a)
    nothing = _mse(split.truth_ab, split.images), _mse(split.truth_ba, split.others)
    return {
        "translation_mse": (ab + ba) / 2,
        "translation_mse_ab": ab,
        "translation_mse_ba": ba,
        "translation_mse_identity": sum(nothing) / 2,
    }


def _labels(split: Split, judges: Judges, made_a: Seen, real_b: Seen) -> dict[str, float]:
    """Whether images of B, which the classes are known of, keep them as images of A."""
    if split.truth_ab is None or split.truth_ba is None or not made_a.predictions:
        return {}
    truth = see(judges, split.truth_ba)
    return {
        "translation_label_accuracy": accuracy(made_a, split.other_labels),
        "translation_label_accuracy_identity": accuracy(real_b, split.other_labels),
        "translation_label_accuracy_real": accuracy(truth, split.other_labels),
    }


def _mse(images: np.ndarray, others: np.ndarray) -> float:
    return float(distortion.squared_errors(images, others).mean())


def _loaded(split: Split) -> Split:
    """In memory: every image is looked at several times."""
    arrays = {key: value for key, value in vars(split).items() if value is not None}
    return Split(**{key: np.array(value) for key, value in arrays.items()})
