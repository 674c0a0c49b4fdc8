"""The array store: what preprocess and domains write and everything after them reads.

``<folder>/<split>.images.npy`` holds uint8 [N, C, H, W] and ``<split>.labels.npy`` int64 [N];
``meta.json`` holds name, classes, shape, counts and the SHA-256 of each array. The other fields
of a `Split` stand beside them in files named likewise, where there are any.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline.core import arrays, files, paths, records
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Memory-mapped images uint8 [N, C, H, W] and labels int64 [N].

    Where there are two unpaired domains, these are of domain A, and the rest is not None.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        others: images of domain B, uint8 [M, C, H, W]; none belongs to one of ``images``.
        other_labels: int64 [M].
        truth_ab: what each of ``images`` is in domain B, uint8 [N, C, H, W], where it is known
            and not hidden: training never sees it.
        truth_ba: what each of ``others`` is in domain A, uint8 [M, C, H, W]; likewise.
    """

    images: np.ndarray
    labels: np.ndarray
    others: np.ndarray | None = None
    other_labels: np.ndarray | None = None
    truth_ab: np.ndarray | None = None
    truth_ba: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


class Meta(records.Record):
    """The content of ``meta.json``."""

    name: str
    classes: list[str] = Field(min_length=1)
    shape: list[int] = Field(min_length=3, max_length=3)
    counts: dict[str, int]
    sha256: dict[str, str]
    domains: list[str] | None = None


class Store:
    """Reads a preprocessed data set."""

    def __init__(self, folder: Path = paths.PROCESSED) -> None:
        """Open ``folder``.

        Raises:
            PipelineError: if nothing was preprocessed there, or it is damaged.
        """
        self.folder = folder
        self._remedy = f"delete {folder}, and the next run restores or makes it again"
        self._splits: dict[str, Split] = {}
        try:
            self.meta = records.read(folder / "meta.json", Meta, self._remedy).model_dump(
                exclude_none=True
            )
        except FileNotFoundError:
            stage = "domains" if folder == paths.DOMAINS else "preprocess"
            raise PipelineError(
                f"{folder}: no preprocessed data; run `dvc repro {stage}`"
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
    def domains(self) -> list[str] | None:
        """What a person calls domain A and domain B, where there are two."""
        return self.meta.get("domains")

    @property
    def spec(self) -> ImageSpec:
        """Shape and number of classes."""
        return ImageSpec(*self.meta["shape"], classes=len(self.classes))

    @property
    def counts(self) -> dict[str, int]:
        """How many images each split has; no array is read for it.

        Raises:
            PipelineError: if a split is missing.
        """
        counts = self.meta["counts"]
        if not all(counts.get(name, 0) > 0 for name in SPLITS):
            raise PipelineError(
                f"{self.folder / 'meta.json'}: counts = {counts}: should name "
                f"{', '.join(SPLITS)}; {self._remedy}"
            )
        return counts

    @property
    def sha256(self) -> str:
        """One hash over all arrays."""
        return files.sha256_of(self.meta["sha256"])

    def split(self, name: str) -> Split:
        """``train``, ``val`` or ``test``, memory-mapped, once its content is known to be intact.

        Raises:
            PipelineError: if an array is missing or damaged.
        """
        if name not in self._splits:
            stored = {each.name: self.folder / f"{name}.{each.name}.npy" for each in fields(Split)}
            self._splits[name] = Split(
                **{
                    kind: arrays.read(
                        file, sha256=self.meta["sha256"].get(file.name, ""), remedy=self._remedy
                    )
                    for kind, file in stored.items()
                    if file.name in self.meta["sha256"] or kind in ("images", "labels")
                }
            )
        return self._splits[name]


def write(
    folder: Path,
    name: str,
    classes: list[str],
    splits: dict[str, Split],
    domains: list[str] | None = None,
) -> None:
    """Write a data set, whole or not at all; ``domains`` names two domains if it has them."""
    hashes = {}
    with files.replacing_folder(folder) as temporary:
        for split, data in splits.items():
            for each in fields(Split):
                array = getattr(data, each.name)
                if array is None:
                    continue
                file = temporary / f"{split}.{each.name}.npy"
                arrays.write(file, array)
                hashes[file.name] = files.sha256(file)
        files.write_json(
            temporary / "meta.json",
            {
                "name": name,
                "classes": classes,
                "shape": list(next(iter(splits.values())).images.shape[1:]),
                "counts": {split: len(data) for split, data in splits.items()},
                "sha256": hashes,
            }
            | ({"domains": domains} if domains else {}),
        )
