"""Models that are trained for a measurement, outside of the pipeline's own run."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import results
from pipeline.core import files, params, stage
from pipeline.core.contract import Family
from pipeline.core.mapped import Mapped
from pipeline.core.params import ModelParams
from pipeline.datasets.store import Split, Store
from pipeline.evaluation import external
from pipeline.models import weights
from pipeline.sampling import drawing
from pipeline.training.trainer import Trainer

SIDE_BY_SIDE = 2


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


def judged(
    judging: external.Judging,
    work: Callable[..., dict[str, Any]],
    tasks: Sequence[tuple[Any, ...]],
    drawn: Callable[[dict[str, Any]], Path],
) -> list[dict[str, Any]]:
    """A row for each task, in their order: what ``work`` returns, and how its samples are judged.

    Args:
        judging: by what.
        work: trains and draws in a process of its own, given a task.
        tasks: its arguments.
        drawn: where the samples of a row are.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(SIDE_BY_SIDE, mp_context=spawned) as pool:
        pending = {pool.submit(work, *task): task for task in tasks}
        for done in as_completed(pending):
            row = done.result()
            found = judging.of(drawn(row))
            row |= {key: found[key] for key in ("fid", "second_fid", "coverage")}
            rows[pending[done]] = row
            print(f"{len(rows)}/{len(tasks)} {results.line(row)}", flush=True)
    return [rows[task] for task in tasks]
