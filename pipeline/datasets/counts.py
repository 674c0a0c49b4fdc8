"""How many images of each class every split gets, as a function of how many there are."""

from collections.abc import Sequence

from pipeline.core.errors import PipelineError
from pipeline.core.params import Data

TEST_FRACTION = 0.2
"""Share of each class that becomes the test split where a source has no official one."""


def carved(n: int, fraction: float, name: str, part: str, data: Data) -> int:
    """How many of the n images of the class ``name`` are carved out as ``part``.

    Raises:
        PipelineError: if that leaves none on one side.
    """
    out = round(n * fraction)
    if not 0 < out < n:
        raise PipelineError(
            f"{data.name}: class '{name}' has {n} images to carve a {part} split "
            f"of {fraction:.3g} from, too few to have it in every split"
        )
    return out


def limited(by_class: Sequence[int], most: int) -> list[int]:
    """How many images of each class are left of ``most``, in the shares that classes have.

    Whole numbers by largest remainders, the first class first among equals; no class that has
    images is left without, if ``most`` allows. With 0, or a number that is not below what there
    is, all are.
    """
    total = sum(by_class)
    if not most or most >= total:
        return list(by_class)
    least = [min(1, n) for n in by_class]
    if sum(least) > most:
        least = [0] * len(by_class)
    shares = [max(each, most * n / total) for each, n in zip(least, by_class, strict=True)]
    found = [int(each) for each in shares]
    by_rest = sorted(range(len(found)), key=lambda i: found[i] - shares[i])
    for i in by_rest[: max(0, most - sum(found))]:
        found[i] += 1
    while sum(found) > most:  # rare classes took from the frequent ones
        found[max(range(len(found)), key=found.__getitem__)] -= 1
    return found


def limits(data: Data) -> dict[str, int]:
    """The largest number of images of each split; 0: all."""
    return {"train": data.limit, "val": 0, "test": data.test_limit}


def of_splits(
    train: Sequence[int], test: Sequence[int] | None, classes: list[str], data: Data
) -> dict[str, list[int]]:
    """The images of each class in train, val and test, as `splits.split` makes them.

    Args:
        train: images of each class that there are to train on.
        test: those of the official test split, or None where there is no such split.
        classes: the names of the classes.
        data: the section of params.yaml.

    Raises:
        PipelineError: if a class has too few images to be in every split.
    """
    rest = list(train)
    if test is None:
        test = [
            carved(n, TEST_FRACTION, name, "test", data)
            for n, name in zip(rest, classes, strict=True)
        ]
        rest = [n - out for n, out in zip(rest, test, strict=True)]
    val = [
        carved(n, data.val_fraction, name, "val", data)
        for n, name in zip(rest, classes, strict=True)
    ]
    return {
        "train": [n - out for n, out in zip(rest, val, strict=True)],
        "val": val,
        "test": list(test),
    }
