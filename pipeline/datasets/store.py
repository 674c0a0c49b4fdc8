"""The array store: what preprocess writes and everything after it reads.

``<folder>/<split>.images.npy`` holds uint8 [N, C, H, W] and ``<split>.labels.npy`` int64 [N];
``meta.json`` holds name, classes, shape, counts and the SHA-256 of each array.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import files, paths
from pipeline.errors import PipelineError
from pipeline.family import ImageSpec

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Memory-mapped images uint8 [N, C, H, W] and labels int64 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


class Store:
    """Reads a preprocessed data set."""

    def __init__(self, folder: Path = paths.PROCESSED) -> None:
        """Open ``folder``.

        Raises:
            PipelineError: if nothing was preprocessed there.
        """
        self.folder = folder
        try:
            self.meta = files.read_json(folder / "meta.json")
        except FileNotFoundError:
            raise PipelineError(
                f"{folder}: no preprocessed data; run `dvc repro preprocess`"
            ) from None

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.meta["name"]

    @property
    def classes(self) -> list[str]:
        """The names of the labels, in their order."""
        return self.meta["classes"]

    @property
    def spec(self) -> ImageSpec:
        """Shape and number of classes."""
        return ImageSpec(*self.meta["shape"], classes=len(self.classes))

    @property
    def sha256(self) -> str:
        """One hash over all arrays."""
        return files.sha256_of(self.meta["sha256"])

    def split(self, name: str) -> Split:
        """``train``, ``val`` or ``test``, memory-mapped."""
        return Split(
            images=np.load(self.folder / f"{name}.images.npy", mmap_mode="r"),
            labels=np.load(self.folder / f"{name}.labels.npy", mmap_mode="r"),
        )


def write(folder: Path, name: str, classes: list[str], splits: dict[str, Split]) -> None:
    """Write a data set, whole or not at all."""
    hashes = {}
    with files.replacing_folder(folder) as temporary:
        for split, data in splits.items():
            for kind, array in (("images", data.images), ("labels", data.labels)):
                file = temporary / f"{split}.{kind}.npy"
                np.save(file, array)
                hashes[file.name] = files.sha256(file)
        files.write_json(
            temporary / "meta.json",
            {
                "name": name,
                "classes": classes,
                "shape": list(next(iter(splits.values())).images.shape[1:]),
                "counts": {split: len(data) for split, data in splits.items()},
                "sha256": hashes,
            },
        )
