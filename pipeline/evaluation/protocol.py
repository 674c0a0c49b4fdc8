"""What has to agree before two results may be ranked against each other, in one place.

Every result carries these facts and a short hash of them. The reference rows, the evaluation of
each model and the comparison all take them from here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline.core import files, params, paths, records, seeds
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Split, Store

METRIC_VERSION = "1"
"""Raised by hand whenever a metric's code gives other numbers for the same images."""
MOST_SAMPLES = params.Sample.model_fields["n"].default
"""Where ``sample.n`` is auto."""
MOST_TRAINING = 60_000
"""Of more training images than these, judges look at a part: for their scale, authenticity, the
floors that real images have and what the judges themselves are worth. All are trained on."""
MOST_SUSPECTS = 10_000
"""Of more samples than these, the first are looked at for copies of training images, and as many
real images that no model was trained on."""
Kind = Literal["classifier", "label_free"]
"""Of judges; see `pipeline.evaluation.judge`."""
FEATURES: dict[Kind, str] = {"classifier": "judge", "label_free": "label-free"}
"""What features of each kind of judge are called."""


class OneJudge(records.Record):
    """What ``judge.json`` says of one judge; see `pipeline.evaluation.judge.facts`."""

    seed: int = Field(ge=0)
    scale: float = Field(gt=0)
    accuracy: float | None = Field(ge=0, le=1)


class OfKind(records.Record):
    """All judges of one kind."""

    kind: Kind
    recipe: str
    judges: list[OneJudge] = Field(min_length=1)


class Judges(records.Record):
    """The content of ``judge.json``; the first kind carries the headline."""

    features: int = Field(ge=1)
    why: str
    kinds: list[OfKind] = Field(min_length=1, max_length=2)


def sample_count(n: int | Literal["auto"], counts: Mapping[str, int], split_name: str) -> int:
    """How many images each model draws and is judged by, where ``sample.n`` is ``n``.

    A number is what it is. ``auto`` is as many as there are images to compare them with, of the
    split and of train, whose images stand beside the samples; at most `MOST_SAMPLES`.

    Args:
        n: ``sample.n``.
        counts: how many images each split has.
        split_name: ``evaluate.split``.

    Raises:
        PipelineError: if auto would be fewer than metrics need.
    """
    if n != "auto":
        return n
    found, name = min((counts[each], each) for each in (split_name, "train"))
    if found < params.LEAST_SAMPLES:
        raise PipelineError(
            f"{paths.PARAMS}: sample.n = 'auto': the {name} split has only {found} images, and "
            f"metrics need {params.LEAST_SAMPLES}; add images"
        )
    return min(found, MOST_SAMPLES)


def reference_images(store: Store, split_name: str, n: int, seed: int) -> np.ndarray:
    """The n images of a split that samples are compared with, uint8 [n, C, H, W].

    The whole split in its order if n is its size, otherwise a subset chosen by ``seed``. Only
    these n images are read into memory.

    Raises:
        PipelineError: if the split has fewer than n images.
    """
    check_size(store, split_name, n)
    images = store.split(split_name).images
    return np.array(images[reference_index(len(images), split_name, n, seed)])


def training_images(store: Store, seed: int) -> Split:
    """The training images that judges look at: all, or `MOST_TRAINING` of them, chosen by ``seed``.

    Images uint8 [N, C, H, W] and labels int64 [N]; as many as there are stay on disk.
    """
    train = store.split("train")
    if len(train) <= MOST_TRAINING:
        return train
    chosen = seeds.subset(len(train), MOST_TRAINING, seed, "training images")
    return Split(np.array(train.images[chosen]), np.array(train.labels[chosen]))


def check_size(store: Store, split_name: str, n: int) -> None:
    """Refuse to compare n samples with a split of fewer images.

    Raises:
        PipelineError: with the largest ``sample.n`` that there are images for.
    """
    images = store.split(split_name).images
    if n > len(images):
        raise PipelineError(
            f"{paths.PARAMS}: sample.n = {n}: the {split_name} split of {store.name} has only "
            f"{len(images)} images, and FID takes as many real images as samples; "
            f"set sample.n to at most {len(images)}"
        )


def reference_index(total: int, split_name: str, n: int, seed: int) -> np.ndarray:
    """Which n of a split's ``total`` images samples are compared with, int64 [n], ascending."""
    return seeds.subset(total, n, seed, "reference", split_name)


def judge_facts(folder: Path = paths.JUDGE) -> dict[str, Any]:
    """``judge.json``: number of features, why which kind carries the headline, and each kind.

    Raises:
        PipelineError: if no judge was trained, or the file holds anything else.
    """
    remedy = f"delete {folder}, and the next run restores it or trains again"
    try:
        records.read(folder / "judge.json", Judges, remedy)
        return files.read_json(folder / "judge.json")
    except FileNotFoundError:
        raise PipelineError(f"{folder}: no judge; run `dvc repro judge`") from None


def protocol(store: Store, judges: dict[str, Any], n: int, split: str, seed: int) -> dict[str, Any]:
    """The flat facts that two results must share to be comparable; hashes as 16 hex digits.

    Args:
        store: the data set.
        judges: what `judge_facts` returns.
        n: how many samples are judged, against as many real images.
        split: the split that these real images are from.
        seed: of their choice where they are not the whole split.
    """
    first, *other = judges["kinds"]
    return {
        "dataset": store.name,
        "data_sha256": store.sha256[:16],
        "judge_recipe": first["recipe"][:16],
        "second_recipe": other[0]["recipe"][:16] if other else None,
        "n_samples": n,
        "n_reference": n,
        "reference_split": split,
        "reference_seed": seed,
        "fid_features": _features(first, judges["features"]),
        "second_features": _features(other[0], judges["features"]) if other else None,
        "metric_version": METRIC_VERSION,
    }


def _features(judges: dict[str, Any], size: int) -> str:
    """What features of all judges of a kind are called, such as judge-64x3."""
    return f"{FEATURES[judges['kind']]}-{size}x{len(judges['judges'])}"


def protocol_id(facts: dict[str, Any]) -> str:
    """16 hex digits that name the facts of `protocol`."""
    return files.sha256_of(facts)[:16]
