"""A trained model as MLflow loads it from its registry: `Sampler.predict` draws images.

MLflow runs a script when it loads a model ("models from code"), which takes the sampler from a copy
of the package beside it (`pipeline.tracking.shipping`); the weights are safetensors and the rest is
JSON, so that nothing is unpickled.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel

from pipeline.core import files, params, stage
from pipeline.core.images import ImageSpec
from pipeline.models import entries, weights
from pipeline.sampling import drawing

FOLDER = "model"
"""The artifact: weights, their description, and `DESCRIPTION`."""
DESCRIPTION = "sampler.json"


def describe(
    raw: dict[str, Any], model: str, spec: ImageSpec, counts: np.ndarray
) -> dict[str, Any]:
    """What `Sampler` must know beside the weights, as JSON.

    Args:
        raw: params.yaml.
        model: a model in it.
        spec: the images that it was trained on.
        counts: training images of each class, int64 [classes].
    """
    return {
        "model": model,
        "block": dict(raw["models"][model]),
        "sample": dict(raw["sample"]),
        "runtime": dict(raw["runtime"]),
        "shape": list(spec.shape),
        "classes": spec.classes,
        "class_counts": counts.tolist(),
    }


class Sampler(PythonModel):
    """Draws what the sample stage draws: the same seed gives the same images."""

    def load_context(self, context: Any) -> None:
        """Read the model's artifacts."""
        folder = Path(context.artifacts[FOLDER])
        self.told = files.read_json(folder / DESCRIPTION)
        self.runtime: params.Runtime = params.section(self.told, "runtime")
        self.section: params.Sample = params.section(self.told, "sample")
        name = self.told["model"]
        chosen = entries.read(
            {"models": {name: self.told["block"]}}, name, blocks=("network", "sampling")
        )
        spec = ImageSpec(*self.told["shape"], classes=self.told["classes"])
        with _as_in_the_pipeline(self.runtime) as device:
            self.family, _ = weights.load(folder, chosen, spec, device)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Images, uint8 [n, C, H, W], of each row in turn.

        A row has ``n``, how many; ``seed``, that of params.yaml if it is left out; and for models
        that are told the class, ``labels``, a list of n whole numbers, in the proportions of the
        training images if it is left out.

        Raises:
            ValueError: for labels that do not fit, or a number below 1.
        """
        drawn = [self._draw(row) for row in pd.DataFrame(model_input).to_dict("records")]
        return np.concatenate(drawn)

    def _draw(self, row: dict[str, Any]) -> np.ndarray:
        n = int(row["n"])
        if n < 1:
            raise ValueError(f"n is {n}, but at least one image must be drawn")
        seed = row.get("seed")
        seed = self.section.seed if seed is None or pd.isna(seed) else int(seed)
        with _as_in_the_pipeline(self.runtime):
            return drawing.draw(
                self.family,
                n,
                seed=seed,
                batch=self.section.batch,
                labels=self._labels(row.get("labels"), n),
                label=self.told["model"],
            )

    def _labels(self, asked: Any, n: int) -> np.ndarray | None:
        missing = asked is None or (isinstance(asked, float) and np.isnan(asked))
        if not self.family.conditional:
            if not missing:
                raise ValueError(f"{self.told['model']} is not told classes, so it takes no labels")
            return None
        if missing:
            return drawing.balanced_labels(n, np.array(self.told["class_counts"]))
        labels = np.asarray(asked, np.int64)
        if labels.shape != (n,) or labels.min() < 0 or labels.max() >= self.told["classes"]:
            raise ValueError(
                f"labels must be {n} whole numbers from 0 to {self.told['classes'] - 1}"
            )
        return labels


@contextmanager
def _as_in_the_pipeline(runtime: params.Runtime) -> Iterator[torch.device]:
    """torch's settings as in a stage, on which the last bits depend; afterwards they are back."""
    threads = torch.get_num_threads()
    mode = torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield stage.prepare_torch(runtime)
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.set_flush_denormal(False)
