"""Train, val and test: taken from the source where it has them, carved by seed where not."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.core import arrays, seeds
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data
from pipeline.datasets import counts
from pipeline.datasets.sources import Labelled, RawSplits
from pipeline.datasets.store import Split


def split(raw: RawSplits, data: Data) -> dict[str, Split]:
    """Split a data set by ``data.seed``.

    An official test split stays as it is and in its order. Otherwise 20 % of each class become
    the test split, chosen by the seed alone, so another ``val_fraction`` leaves it as it is.
    val is ``val_fraction`` of what remains of each class. Counts are rounded per class;
    mnist-5k gives 360, 40 and 100. The splits that are made here come in random order, since
    sources may be ordered by class and people look at the first images.

    Where images have hashes, these decide (see `of_content`): neither names nor their order do.

    ``data.limit`` and ``data.test_limit`` leave so many images of train and test, as many of each
    class as its share; those of a smaller limit are among those of a larger one, up to rounding.

    Args:
        raw: images uint8 [N, C, H, W] and labels int64 [N], each label an index of ``classes``.
        data: the section of params.yaml.

    Returns:
        ``train``, ``val`` and ``test``; images that are on disk are read when they are written.

    Raises:
        PipelineError: if a class has too few images to be in every split, or a label no class.
    """
    if not np.isin(raw.train.labels, range(len(raw.classes))).all():
        raise PipelineError(f"{data.name}: there are labels that stand for no class")
    parts = _by_content(raw, data) if raw.train.hashes is not None else _by_place(raw, data)
    limits = counts.limits(data)
    return {
        name: limited(part, limits[name], len(raw.classes), data, name)
        for name, part in parts.items()
    }


def _by_place(raw: RawSplits, data: Data) -> dict[str, Split]:
    rest = np.arange(len(raw.train.labels))
    if raw.test is None:
        rest, index = _carve(rest, raw, counts.TEST_FRACTION, data, "test")
        test = _take(raw.train, index, data, "test")
    else:
        test = Split(raw.test.images, raw.test.labels)
    train, val = _carve(rest, raw, data.val_fraction, data, "val")
    return {
        "train": _take(raw.train, train, data, "train"),
        "val": _take(raw.train, val, data, "val"),
        "test": test,
    }


def limited(part: Split, most: int, classes: int, data: Data, name: str) -> Split:
    """At most so many images of a split, in their order."""
    left = counts.limited(np.bincount(part.labels, minlength=classes).tolist(), most)
    if sum(left) == len(part):
        return part
    keep = []
    for place in _permutation(len(part), data.seed, name, "limit"):
        label = part.labels[place]
        if left[label]:
            left[label] -= 1
            keep.append(place)
    index = np.sort(keep)
    return Split(arrays.chosen(part.images, index), part.labels[index])


def _by_content(raw: RawSplits, data: Data) -> dict[str, Split]:
    official = {"test": raw.test, "val": raw.val}
    made = [part for part, given in official.items() if given is None]
    chosen = of_content(raw.train.hashes, raw.train.labels, raw.classes, data, made)
    found = {}
    for part in ("train", "val", "test"):
        source = official.get(part) or raw.train
        keys = [
            (_key(data.seed, part, "order", each), label)
            for each, label in zip(source.hashes, source.labels.tolist(), strict=True)
        ]
        order = sorted(chosen.get(part, range(len(keys))), key=keys.__getitem__)
        index = np.array(order, np.int64)
        found[part] = Split(arrays.chosen(source.images, index), source.labels[index])
    return found


def of_content(
    hashes: Sequence[str],
    labels: np.ndarray,
    classes: list[str],
    data: Data,
    made: Sequence[str] = ("test", "val"),
) -> dict[str, np.ndarray]:
    """Which images become ``train`` and each of the splits to be ``made``, ascending.

    A function of the pixels and ``data.seed``: names and their order do not count. As many of each
    class as `split` takes, as nearly as images that are equal allow, which stay together.

    Raises:
        PipelineError: if a class has too few images that differ to be in every split.
    """
    part_of: dict[str, str] = {}
    fractions = {"test": counts.TEST_FRACTION, "val": data.val_fraction}
    for part in made:
        before = set(part_of)
        for label, name in enumerate(classes):
            members = [hashes[row] for row in np.flatnonzero(labels == label)]
            times = Counter(each for each in members if each not in before)
            wanted = counts.carved(times.total(), fractions[part], name, part, data)
            taken = sum(times[each] for each in times if each in part_of)
            free = sorted(
                times.keys() - part_of.keys(),
                key=lambda each: _key(data.seed, part, each),
            )
            if not taken and all(times[each] > wanted for each in free):
                wanted = min(times.values())  # all are there several times
            for each in free:
                if taken + times[each] <= wanted:
                    part_of[each] = part
                    taken += times[each]
            if not taken < times.total():
                raise PipelineError(
                    f"{data.name}: class '{name}' has {times.total()} images to carve a {part} "
                    f"split from, but only {len(times)} of them differ, too few to have it in "
                    "every split"
                )
    found = [part_of.get(each, "train") for each in hashes]
    return {part: np.flatnonzero([each == part for each in found]) for part in ("train", *made)}


def _key(*name: int | str) -> str:
    return hashlib.sha256(" ".join(map(str, name)).encode()).hexdigest()


def _carve(
    pool: np.ndarray, raw: RawSplits, fraction: float, data: Data, part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Part the indices ``pool`` into what stays and what is carved out, class by class."""
    labels = raw.train.labels[pool]
    stays, carved = [], []
    for label, name in enumerate(raw.classes):
        members = pool[labels == label]
        n = counts.carved(len(members), fraction, name, part, data)
        members = members[_permutation(len(members), data.seed, part, label)]
        carved.append(members[:n])
        stays.append(members[n:])
    return np.concatenate(stays), np.concatenate(carved)


def _take(source: Labelled, index: np.ndarray, data: Data, part: str) -> Split:
    """The images at ``index``, in random order."""
    # Sorted first, so that the order depends on which images these are and on nothing else.
    index = np.sort(index)[_permutation(len(index), data.seed, part, "order")]
    return Split(arrays.chosen(source.images, index), source.labels[index])


def _permutation(n: int, *name: int | str) -> np.ndarray:
    """A random order of 0..n-1 as a function of the name (see `seeds.derive`).

    Raw Philox output is sorted rather than ``Generator.permutation`` called: NumPy promises
    that the former never changes and reserves the right to change the latter.
    """
    keys = np.random.Philox(seeds.derive("split", *name)).random_raw(n)
    return np.argsort(keys, kind="stable")
