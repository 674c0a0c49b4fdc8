"""Judge translation between two unpaired domains, beside what would be had for nothing.

Everything is measured on images that went through uint8, in both directions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline import judge, protocol, sampling
from pipeline.core.family import Family, Translates
from pipeline.datasets.store import Split, Store
from pipeline.metrics import labels, reconstruction
from pipeline.quality import distance

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
"""What `quality` reports; None where it does not apply."""


def quality(
    family: Family,
    judges: Sequence[judge.Judge],
    store: Store,
    split: str,
    *,
    seed: int,
    batch: int,
) -> dict[str, Any]:
    """How well a model translates the images of one split, by `KEYS`.

    - ``translation_fid_<direction>``: FID of translated images against the real ones of the
      domain that they should be in, over all judges (see `pipeline.quality.distance`), of
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
      truth, ``..._identity`` in the untranslated images. None where nobody knows the truth.

    Args:
        family: the model; all values are None if it does not translate.
        judges: classifiers trained on the data set that the domains were made of.
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
    a_to_b = sampling.translate(family, a, "ab", batch)
    b_to_a = sampling.translate(family, b, "ba", batch)
    back_to_a = sampling.translate(family, a_to_b, "ba", batch)
    back_to_b = sampling.translate(family, b_to_a, "ab", batch)
    n = min(len(a), len(b))

    def fid(images: np.ndarray, reference: np.ndarray) -> float | None:
        if len(images) < n:
            return None
        chosen = [
            np.asarray(each[protocol.subset(len(each), n, seed, "translation")])
            for each in (images, reference)
        ]
        return distance(judges, *chosen)

    return {
        **dict.fromkeys(KEYS),
        "cycle_mse": (_mse(a, back_to_a) + _mse(b, back_to_b)) / 2,
        "translation_fid_ab": fid(a_to_b, b),
        "translation_fid_ab_floor": fid(train.others, b),
        "translation_fid_ba": fid(b_to_a, a),
        "translation_fid_ba_floor": fid(train.images, a),
        "translation_fid_identity": fid(a, b),
        "translation_n": n,
        **_against_truth(found, a_to_b, b_to_a, judges),
    }


def _against_truth(
    split: Split, a_to_b: np.ndarray, b_to_a: np.ndarray, judges: Sequence[judge.Judge]
) -> dict[str, float]:
    if split.truth_ab is None or split.truth_ba is None:
        return {}
    ab, ba = _mse(split.truth_ab, a_to_b), _mse(split.truth_ba, b_to_a)
    nothing = _mse(split.truth_ab, split.images), _mse(split.truth_ba, split.others)

    def accuracy(images: np.ndarray) -> float:
        return labels.accuracy(judges, images, split.other_labels)

    return {
        "translation_label_accuracy": accuracy(b_to_a),
        "translation_label_accuracy_identity": accuracy(split.others),
        "translation_label_accuracy_real": accuracy(split.truth_ba),
        "translation_mse": (ab + ba) / 2,
        "translation_mse_ab": ab,
        "translation_mse_ba": ba,
        "translation_mse_identity": sum(nothing) / 2,
    }


def _mse(images: np.ndarray, others: np.ndarray) -> float:
    return float(reconstruction.squared_errors(images, others).mean())


def _loaded(split: Split) -> Split:
    """In memory: every image is looked at several times."""
    arrays = {key: value for key, value in vars(split).items() if value is not None}
    return Split(**{key: np.array(value) for key, value in arrays.items()})
