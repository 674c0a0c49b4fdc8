"""The pictures of one model: what a person looks at before believing a number."""

import numpy as np
import torch

from pipeline.core import seeds
from pipeline.core.contract import Batch, Family, Illustrates, Reconstructs
from pipeline.datasets.store import Split, Store

EXAMPLES = 10
SHOWN = 100
"""Samples in the picture of samples."""


def everything(
    family: Family, store: Store, drawn: dict[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """All pictures of a model, uint8 [rows, columns, C, H, W] by name.

    ``drawn`` is what `drawing.everything` returned; of a conditional model's samples
    each column shows one class.
    """
    found = {}
    if "samples" in drawn:
        samples = drawn["samples"]
        if "labels" in drawn:
            found["samples"] = by_class(samples, drawn["labels"], store.spec.classes)
        else:
            columns = min(EXAMPLES, len(samples))
            rows = min(SHOWN, len(samples)) // columns
            found["samples"] = samples[: rows * columns].reshape(rows, columns, *samples.shape[1:])
    batch = examples(store.split("test"), store.spec.classes)
    return found | pictures(family, batch, seed)


def examples(split: Split, classes: int) -> Batch:
    """The first images of a split, one of each class in turn, `EXAMPLES` in all.

    Classes that run out of images are passed over; with fewer images than `EXAMPLES` in all, the
    last is repeated.
    """
    index = _in_turn(split.labels, classes)
    others = None
    if split.others is not None:
        others = torch.from_numpy(np.array(split.others[_in_turn(split.other_labels, classes)]))
    return Batch(
        torch.from_numpy(np.array(split.images[index])),
        torch.from_numpy(np.array(split.labels[index])),
        others,
    )


def _in_turn(labels: np.ndarray, classes: int) -> np.ndarray:
    members = [np.flatnonzero(labels == label)[:EXAMPLES] for label in range(classes)]
    found = [each[round_] for round_ in range(EXAMPLES) for each in members if round_ < len(each)][
        :EXAMPLES
    ]
    return np.array(found + found[-1:] * (EXAMPLES - len(found)))


def by_class(images: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Samples for a picture with `EXAMPLES` columns: one class per column, the first ones of it.

    uint8 [rows, columns, C, H, W] of images [N, C, H, W]; as many full rows as there are, at most
    `SHOWN` images. With more classes than columns the first are shown.
    """
    columns = [np.flatnonzero(labels == label) for label in range(min(classes, EXAMPLES))]
    columns = [each for each in columns if len(each)]
    rows = min(SHOWN // len(columns), min(len(each) for each in columns))
    return np.stack([images[np.array([each[row] for each in columns])] for row in range(rows)])


@torch.no_grad()
def pictures(family: Family, batch: Batch, seed: int) -> dict[str, np.ndarray]:
    """The family's own pictures and its reconstructions, uint8 [rows, columns, C, H, W] by name.

    Reconstructions stand below their originals.

    Raises:
        ValueError: if a family returns anything but uint8 images of its shape.
    """
    batch = Batch(
        batch.images.to(family.device),
        batch.labels.to(family.device),
        None if batch.others is None else batch.others.to(family.device),
    )
    found: dict[str, torch.Tensor] = {}
    if isinstance(family, Reconstructs):
        decoded = family.reconstruct(batch.images, batch.labels if family.conditional else None)
        found["reconstructions"] = torch.stack([batch.images, decoded])
    if isinstance(family, Illustrates):
        found |= family.illustrate(batch, seeds.image_seeds(EXAMPLES, seed, "illustrate"))
    for name, picture in found.items():
        if picture.dtype != torch.uint8 or picture.shape[2:] != family.spec.shape:
            raise ValueError(
                f"{name} must be uint8 [rows, columns, C, H, W], "
                f"not {picture.dtype} {list(picture.shape)}"
            )
    return {name: picture.cpu().numpy() for name, picture in found.items()}
