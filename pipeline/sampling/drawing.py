"""Draw images from a trained model: one seed per image, in batches of one fixed size."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.core import arrays, batches, cost, params, records, seeds
from pipeline.core.contract import Family, Samples, Translates
from pipeline.core.errors import PipelineError
from pipeline.core.progress import Progress
from pipeline.datasets.store import Store

COUNTED = 2
"""Images whose operations are counted; all cost the same."""


def everything(
    family: Family, store: Store, section: params.Sample, n: int, label: str = "sample"
) -> dict[str, np.ndarray]:
    """The arrays that a model gives, by name.

    ``samples``, uint8 [n, C, H, W], and ``labels``, int64 [n], if it is conditional; of a model
    that translates between domains ``a_to_b`` and ``b_to_a``, the test images of the one as images
    of the other.
    """
    found: dict[str, np.ndarray] = {}
    if isinstance(family, Samples):
        if family.conditional:
            counts = np.bincount(store.split("train").labels, minlength=store.spec.classes)
            found["labels"] = balanced_labels(n, counts)
        found["samples"] = draw(
            family,
            n,
            seed=section.seed,
            batch=section.batch,
            labels=found.get("labels"),
            label=label,
        )
    if isinstance(family, Translates):
        test = store.split("test")
        found["a_to_b"] = translate(family, test.images, "ab", section.batch)
        found["b_to_a"] = translate(family, test.others, "ba", section.batch)
    return found


def read(folder: Path, family: Family, n: int) -> dict[str, np.ndarray]:
    """What `everything` gave and `pipeline.core.arrays` wrote, for a family and so many samples.

    Raises:
        PipelineError: if something is missing that the family can make, or is not as it should be.
    """
    remedy = f"delete {folder}, and the next run restores or draws it again"
    shape = family.spec.shape
    wanted: dict[str, tuple[tuple[int | None, ...], type]] = {}
    if isinstance(family, Samples):
        wanted["samples"] = (n, *shape), np.uint8
        if family.conditional:
            wanted["labels"] = (n,), np.int64
    if isinstance(family, Translates):
        wanted |= dict.fromkeys(("a_to_b", "b_to_a"), ((None, *shape), np.uint8))
    return {
        name: np.array(arrays.load(folder, name, remedy, *each)) for name, each in wanted.items()
    }


class Cost(records.Record):
    """The content of ``cost.json`` of a model that draws or translates; see `cost_of`."""

    sampling_flops: int = Field(ge=0)
    network_evaluations: int = Field(ge=1)


def read_cost(folder: Path, family: Family) -> dict[str, int]:
    """What `cost_of` gave for a family.

    Raises:
        PipelineError: if the file is missing or holds anything else.
    """
    file, remedy = folder / "cost.json", f"delete {folder}, and the next run makes it again"
    try:
        costs = isinstance(family, Samples | Translates)
        return records.read(file, Cost if costs else records.Record, remedy).model_dump()
    except FileNotFoundError:
        raise PipelineError(f"{file}: no such file; {remedy}") from None


def cost_of(family: Family, store: Store) -> dict[str, int]:
    """What one sample or one translated image costs, the same on every machine.

    ``sampling_flops`` are floating-point operations (`pipeline.core.cost`), ``network_evaluations``
    how many times networks run one after the other.
    """
    with cost.shortened() as counter, torch.no_grad():
        if isinstance(family, Samples):
            labels = torch.arange(COUNTED, device=family.device) % family.spec.classes
            family.sample(torch.arange(COUNTED), labels if family.conditional else None)
            drawn = COUNTED
        elif isinstance(family, Translates):
            test = store.split("test")
            drawn = 2 * COUNTED
            for originals, direction in ((test.images, "ab"), (test.others, "ba")):
                first = torch.from_numpy(np.array(originals[:1])).repeat(COUNTED, 1, 1, 1)
                family.translate(first.to(family.device), direction)
        else:
            return {}
    return {
        "sampling_flops": round(counter.flops / drawn),
        "network_evaluations": family.network_evaluations,
    }


def translate(
    family: Translates, images: np.ndarray, direction: Literal["ab", "ba"], batch: int
) -> np.ndarray:
    """uint8 [N, C, H, W] of one domain as images of the other."""

    def translated(index: Tensor) -> dict[str, Tensor]:
        originals = torch.from_numpy(images[index.numpy()]).to(family.device)
        return {"images": family.translate(originals, direction)}

    return batches.computed(len(images), batch, translated)["images"].numpy()


def balanced_labels(n: int, counts: np.ndarray) -> np.ndarray:
    """n labels, int64, in the proportions of ``counts`` (how many training images a class has).

    Label i does not depend on n: each goes to the class that is furthest behind its share (the
    divisor method of Sainte-Lague 1910). Classes of one size take turns, 0, 1, 2 and so on.

    Raises:
        ValueError: if no class has an image.
    """
    shares = np.asarray(counts, np.float64)
    if shares.sum() <= 0:
        raise ValueError("no class has an image, so there are no labels to draw")
    given = np.zeros(len(shares), np.int64)
    labels = np.empty(n, np.int64)
    for i in range(n):
        labels[i] = np.argmax(shares / (2 * given + 1))
        given[labels[i]] += 1
    return labels


def draw(
    family: Family,
    n: int,
    *,
    seed: int,
    batch: int,
    labels: np.ndarray | None = None,
    label: str = "sample",
) -> np.ndarray:
    """uint8 [n, C, H, W]; image i depends on (seed, i), its label and the weights alone.

    Args:
        family: the model.
        n: how many images.
        seed: names the randomness.
        batch: images per call; the size decides the last bits.
        labels: int64 [n], for a conditional model and for no other.
        label: shown in front of the progress bar.

    Raises:
        TypeError: if the family does not sample.
        ValueError: if labels are missing or not wanted, or if the family returns anything but
            uint8 images of the right shape.
    """
    if not isinstance(family, Samples):
        raise TypeError(f"{type(family).__name__} does not sample")
    if family.conditional != (labels is not None):
        raise ValueError("labels are for conditional models, which need them")
    every = seeds.image_seeds(n, seed, "sample")
    wanted = None if labels is None else torch.from_numpy(labels).to(family.device)

    def drawn(index: Tensor) -> dict[str, Tensor]:
        images = family.sample(every[index], None if wanted is None else wanted[index])
        if images.dtype != torch.uint8 or images.shape != (batch, *family.spec.shape):
            raise ValueError(f"a sample must be uint8 images, not {images.dtype} {images.shape}")
        return {"images": images}

    with Progress(label, n) as progress:
        return batches.computed(n, batch, drawn, progress.advance)["images"].numpy()
