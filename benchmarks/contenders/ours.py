"""A model of params.yaml, trained and sampled as the pipeline's stages do it.

Its rate falls over the training that it is given, and its weights are averages that come at the
end, so that each length is a training of its own.
"""

from collections.abc import Callable

import numpy as np
import torch

from pipeline.core import params, stage
from pipeline.core.contract import count_parameters
from pipeline.core.mapped import Mapped
from pipeline.datasets.store import Store
from pipeline.models import entries, weights
from pipeline.sampling import drawing
from pipeline.training.trainer import Trainer

TOGETHER = 10
"""Steps between two calls of ``stepped``."""


class Training:
    """See `benchmarks.contenders.Training`."""

    def __init__(self, images: np.ndarray, seed: int, name: str, count: int) -> None:
        raw = params.read()
        runtime: params.Runtime = params.section(raw, "runtime")
        device = stage.prepare_torch(runtime.model_copy(update={"device": "cpu", "threads": 1}))
        model = entries.read(raw, name)
        model = entries.scaled(model, count / model.training.images)
        labels = torch.from_numpy(np.array(Store().split("train").labels))
        self.family = weights.build(model, Store().spec, seed, device)
        self.trainer = Trainer(
            self.family, Mapped(images), labels, seed=seed, steps=model.training.steps
        )
        self.at_once = params.section(raw, "sample").batch
        self.seed = seed
        self.parameters = count_parameters(self.family)
        self.network_evaluations = self.family.network_evaluations

    def train(self, stepped: Callable[[float], None]) -> None:
        """See `benchmarks.contenders.Training`."""
        trainer = self.trainer
        while trainer.step < trainer.steps:
            before = trainer.images_seen
            trainer.run(stop_at=trainer.step + TOGETHER)
            stepped(trainer.images_seen - before)

    def draw(self, n: int) -> np.ndarray:
        """See `benchmarks.contenders.Training`."""
        return drawing.draw(self.family, n, seed=self.seed, batch=min(self.at_once, n))
