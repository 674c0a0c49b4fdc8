"""Models that are trained for a measurement, outside of the pipeline's own run."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import results
from pipeline.core import files, params, stage
from pipeline.core.contract import Family
from pipeline.core.mapped import Mapped
from pipeline.core.params import ModelParams
from pipeline.datasets.store import Split, Store
from pipeline.models import weights
from pipeline.sampling import drawing
from pipeline.training.trainer import Trainer


@dataclass(frozen=True)
class Trained:
    """A model after its training, the images that it is of, and what the training took.

    Attributes:
        family: the model.
        store: the images.
        images: how many it has seen.
        seconds: of this process on a core.
    """

    family: Family
    store: Store
    images: int
    seconds: float


def train(chosen: ModelParams, seed: int, part: Split | None = None) -> Trained:
    """Train a model on the processor, by one thread, on a part of the training images or on all."""
    runtime: params.Runtime = params.section(params.read(), "runtime")
    device = stage.prepare_torch(runtime.model_copy(update={"device": "cpu", "threads": 1}))
    store = Store()
    split = part or store.split("train")
    family = weights.build(chosen, store.spec, seed, device)
    trainer = Trainer(
        family,
        Mapped(np.asarray(split.images)),
        torch.from_numpy(np.array(split.labels)),
        seed=seed,
        steps=chosen.training.steps,
    )
    began = time.process_time()
    with results.quiet():
        trainer.run()
    return Trained(family, store, trainer.images_seen, time.process_time() - began)


def draw(trained: Trained, path: Path) -> np.ndarray:
    """Draw what params.yaml says, uint8 [N, C, H, W], and write it to an ``.npy`` file."""
    section: params.Sample = params.section(params.read(), "sample")
    with results.quiet():
        drawn = drawing.everything(
            trained.family, trained.store, section, section.n, label=path.stem
        )["samples"]
    with files.replacing(path) as temporary:
        np.save(temporary, drawn)
    return np.asarray(drawn)
