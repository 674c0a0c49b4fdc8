"""Two unpaired domains from one data set, for models that translate between them.

Domain B is a known transformation of *other* images than those of domain A, so that training is
unpaired while the truth is known when testing. Every split is halved, class by class: were both
domains made of the same images, a perfect translation would score below the floor that real
images of the domain have.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from pipeline.core import paths, seeds
from pipeline.core.errors import PipelineError
from pipeline.core.params import Domains
from pipeline.datasets.store import SPLITS, Split, Store

TESTED = ("val", "test")
"""The splits that hold the truth; training has none, so that it cannot use it."""


class Maker(Protocol):
    """How two domains come about."""

    def names(self, store: Store) -> list[str]:
        """What a person calls domain A and domain B.

        Raises:
            PipelineError: if there are no such domains in this data set.
        """
        ...

    def split(self, store: Store, name: str, seed: int) -> Split:
        """One split with both domains."""
        ...


class Transformed:
    """A is one half of the images, B is what a transformation makes of the other half."""

    def __init__(self, name: str, transform: Callable[[np.ndarray], np.ndarray]) -> None:
        self.name, self.transform = name, transform

    def names(self, store: Store) -> list[str]:
        """The data set and the transformation.

        Raises:
            PipelineError: if images of this shape do not keep it when transformed.
        """
        shape = store.spec.shape
        made = self.transform(np.zeros((1, *shape), np.uint8)).shape[1:]
        if made != shape:
            raise PipelineError(
                f"{paths.PARAMS}: domains.transformation = '{self.name}': it turns images of "
                f"{list(shape)} into {list(made)}; both domains must have one shape, so it takes "
                "square images only"
            )
        return [store.name, f"{self.name} of other images of {store.name}"]

    def split(self, store: Store, name: str, seed: int) -> Split:
        """Halves that share no image, in the order of the split; see `halves`."""
        whole = store.split(name)
        first, second = halves(np.asarray(whole.labels), store.classes, seed, name)
        images, originals = whole.images[first], whole.images[second]
        tested = name in TESTED
        return Split(
            images=images,
            labels=whole.labels[first],
            others=self.transform(originals),
            other_labels=whole.labels[second],
            truth_ab=self.transform(images) if tested else None,
            truth_ba=originals if tested else None,
        )


class Classes:
    """A is the first class of the data set and B the second, as in folders trainA and trainB."""

    def names(self, store: Store) -> list[str]:
        """The names of the two classes.

        Raises:
            PipelineError: if there is one class only.
        """
        if len(store.classes) < 2:
            raise PipelineError(
                f"{paths.PARAMS}: domains.transformation = 'classes': {store.name} has only one "
                "class, and the domains are the first two"
            )
        return store.classes[:2]

    def split(self, store: Store, name: str, seed: int) -> Split:
        """All images of both classes, in the order of the split; nobody knows the truth."""
        whole = store.split(name)
        first, second = (np.flatnonzero(whole.labels == label) for label in (0, 1))
        return Split(
            images=whole.images[first],
            labels=whole.labels[first],
            others=whole.images[second],
            other_labels=whole.labels[second],
        )


def outline(images: np.ndarray) -> np.ndarray:
    """What a 3x3 dilation adds to uint8 images [N, C, H, W], channel by channel.

    The external gradient of Rivest, Soille & Beucher 1993 ("Morphological gradients", Journal of
    Electronic Imaging 2(4)): the largest of the nine levels in and around each pixel, less its
    own. White strokes on black become the line around them.
    """
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))  # 0 is never above a neighbour
    height, width = images.shape[2:]
    largest = images.copy()
    for y in range(3):
        for x in range(3):
            np.maximum(largest, padded[:, :, y : y + height, x : x + width], out=largest)
    return largest - images


def rotate(images: np.ndarray) -> np.ndarray:
    """A quarter turn counter-clockwise of uint8 images [N, C, H, W]."""
    return np.ascontiguousarray(np.rot90(images, axes=(2, 3)))


def invert(images: np.ndarray) -> np.ndarray:
    """The negative of uint8 images [N, C, H, W]: 255 less each level."""
    return 255 - images


MAKERS: dict[str, Maker] = {
    "outline": Transformed("outline", outline),
    "rotate": Transformed("rotate", rotate),
    "invert": Transformed("invert", invert),
    "classes": Classes(),
}
"""By the value of ``domains.transformation``."""


def halves(
    labels: np.ndarray, classes: list[str], seed: int, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two halves of each class, both ascending, chosen by seed and split.

    The second half has the extra image of every second class of odd size, beginning with the
    first; so neither is more than one image ahead.
    """
    first: list[np.ndarray] = []
    odd = 0
    for label in range(len(classes)):
        members = np.flatnonzero(labels == label)
        n = (len(members) + odd % 2) // 2
        odd += len(members) % 2
        chosen = seeds.subset(len(members), n, seed, "domains", split, label)
        first.append(members[chosen])
    one = np.sort(np.concatenate(first))
    return one, np.setdiff1d(np.arange(len(labels)), one)


def make(store: Store, section: Domains) -> tuple[dict[str, Split], list[str]]:
    """All splits with both domains, and the names of the domains.

    Raises:
        PipelineError: if the data set does not have these domains, or a split has no image of
            one of them.
    """
    maker = MAKERS[section.transformation]
    names = maker.names(store)
    splits = {name: maker.split(store, name, section.seed) for name in SPLITS}
    for name, each in splits.items():
        for domain, images in zip(names, (each.images, each.others), strict=True):
            if len(images) == 0:
                raise PipelineError(f"{store.name}: the {name} split has no image of '{domain}'")
    return splits, names
