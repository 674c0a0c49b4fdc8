"""What has to agree before two results may be ranked against each other, in one place.

Every result carries these facts and a short hash of them. The reference rows, the evaluation of
each model and the comparison all take them from here.
"""

from typing import Any

import numpy as np

from pipeline.core import files, paths, seeds
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store

METRIC_VERSION = "1"
"""Raised by hand whenever a metric's code gives other numbers for the same images."""


def subset(total: int, n: int, *name: int | str) -> np.ndarray:
    """Which n of ``total`` items to take, int64 [n], ascending and without replacement.

    All of them if n is ``total``; otherwise a choice that is a function of the name (see
    `seeds.derive`). Raw Philox output is sorted rather than ``Generator.choice`` called: NumPy
    promises that the former never changes and reserves the right to change the latter.

    Raises:
        ValueError: if n is not in 0..total.
    """
    if not 0 <= n <= total:
        raise ValueError(f"cannot take {n} of {total} items")
    keys = np.random.Philox(seeds.derive(*name)).random_raw(total)
    return np.sort(np.argsort(keys, kind="stable")[:n])


def reference_images(store: Store, split_name: str, n: int, seed: int) -> np.ndarray:
    """The n images of a split that samples are compared with, uint8 [n, C, H, W].

    The whole split in its order if n is its size, otherwise a subset chosen by ``seed``. Only
    these n images are read into memory.

    Raises:
        PipelineError: if the split has fewer than n images.
    """
    images = store.split(split_name).images
    if n > len(images):
        raise PipelineError(
            f"{paths.PARAMS}: sample.n = {n}: the {split_name} split of {store.name} has only "
            f"{len(images)} images, and FID takes as many real images as samples; "
            f"set sample.n to at most {len(images)}"
        )
    return np.array(images[subset(len(images), n, seed, "reference", split_name)])


def protocol(
    store: Store, judge_facts: dict[str, Any], n: int, split: str, seed: int
) -> dict[str, Any]:
    """The flat facts that two results must share to be comparable; hashes as 16 hex digits.

    Args:
        store: the data set.
        judge_facts: what `pipeline.judge.read_facts` returns.
        n: how many samples are judged, against as many real images.
        split: the split that these real images are from.
        seed: of their choice where they are not the whole split.
    """
    return {
        "dataset": store.name,
        "data_sha256": store.sha256[:16],
        "judge_recipe": judge_facts["recipe"][:16],
        "n_samples": n,
        "n_reference": n,
        "reference_split": split,
        "reference_seed": seed,
        "fid_features": f"judge-{judge_facts['features']}x{len(judge_facts['judges'])}",
        "metric_version": METRIC_VERSION,
    }


def protocol_id(facts: dict[str, Any]) -> str:
    """16 hex digits that name the facts of `protocol`."""
    return files.sha256_of(facts)[:16]
