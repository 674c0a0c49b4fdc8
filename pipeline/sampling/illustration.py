"""The pictures of one model: what a person looks at before believing a number."""

import numpy as np
import torch

from pipeline.core import seeds
from pipeline.core.contract import Batch, Family, Illustrates, Reconstructs
from pipeline.core.images import PICTURED_CLASSES
from pipeline.datasets.store import Split, Store
from pipeline.sampling.pictures import PAPER, by_class, in_turn

EXAMPLES = 10
"""Columns, and test images that a family's own pictures are of."""
SHOWN = 100
"""Samples in the picture of samples."""
WIDEST = 12
"""Columns of any picture."""


def everything(
    family: Family, store: Store, drawn: dict[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """All pictures of a model, uint8 [rows, columns, C, H, W] by name.

    ``drawn`` is what `drawing.everything` returned; a conditional model's samples show all classes
    in turn.
    """
    found = {}
    if "samples" in drawn:
        samples = drawn["samples"]
        if "labels" in drawn:
            found["samples"] = by_class(
                samples,
                drawn["labels"],
                store.spec.classes,
                columns=EXAMPLES,
                lines=SHOWN // EXAMPLES,
            )
        else:
            columns = min(EXAMPLES, len(samples))
            rows = min(SHOWN, len(samples)) // columns
            found["samples"] = samples[: rows * columns].reshape(rows, columns, *samples.shape[1:])
    classes = min(store.spec.classes, PICTURED_CLASSES)
    batch = examples(store.split("test"), classes, EXAMPLES * max(1, -(-classes // EXAMPLES)))
    return found | pictures(family, batch, seed)


def examples(split: Split, classes: int, n: int = EXAMPLES) -> Batch:
    """The first images of a split, one of each class in turn, n in all.

    Classes that run out of images are passed over; with fewer images than n in all, the last is
    repeated.
    """
    index = _in_turn(split.labels, classes, n)
    others = None
    if split.others is not None:
        others = torch.from_numpy(np.array(split.others[_in_turn(split.other_labels, classes, n)]))
    return Batch(
        torch.from_numpy(np.array(split.images[index])),
        torch.from_numpy(np.array(split.labels[index])),
        others,
    )


def _in_turn(labels: np.ndarray, classes: int, n: int) -> np.ndarray:
    found = in_turn(labels, classes, n)
    return np.append(found, found[-1:].repeat(n - len(found)))


@torch.no_grad()
def pictures(family: Family, batch: Batch, seed: int) -> dict[str, np.ndarray]:
    """The family's own pictures and its reconstructions, uint8 [rows, columns, C, H, W] by name.

    Reconstructions stand below their originals, `EXAMPLES` of them in a row; the family's own
    pictures are of the first so many. Rows of more than `WIDEST` images, as of many classes, go on
    in the next ones.

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
        rows = []
        for images, labels in zip(
            batch.images.split(EXAMPLES), batch.labels.split(EXAMPLES), strict=True
        ):
            rows += [images, family.reconstruct(images, labels if family.conditional else None)]
        found["reconstructions"] = torch.stack(rows)
    if isinstance(family, Illustrates):
        first = Batch(
            batch.images[:EXAMPLES],
            batch.labels[:EXAMPLES],
            None if batch.others is None else batch.others[:EXAMPLES],
        )
        found |= family.illustrate(first, seeds.image_seeds(EXAMPLES, seed, "illustrate"))
    for name, picture in found.items():
        if picture.dtype != torch.uint8 or picture.shape[2:] != family.spec.shape:
            raise ValueError(
                f"{name} must be uint8 [rows, columns, C, H, W], "
                f"not {picture.dtype} {list(picture.shape)}"
            )
    return {name: folded(picture.cpu().numpy()) for name, picture in found.items()}


def folded(picture: np.ndarray) -> np.ndarray:
    """A picture [rows, columns, C, H, W] of at most `WIDEST` columns.

    Wider rows take several each, of which the last is filled with paper; of more than `EXAMPLES`
    rows the first are left.
    """
    rows, columns, *shape = picture.shape
    if columns <= WIDEST:
        return picture
    height = -(-columns // WIDEST)
    paper = np.full((rows, height * WIDEST - columns, *shape), PAPER, np.uint8)
    whole = np.concatenate([picture, paper], axis=1)[: max(1, EXAMPLES // height)]
    return whole.reshape(-1, WIDEST, *shape)
