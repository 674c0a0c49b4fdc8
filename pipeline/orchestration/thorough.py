"""Error bars: every model trained and sampled several times, and asked to make test images.

The default run has one training and one sample set of each model. What this adds stands in
``metrics/<title>/thorough``, and the comparison takes its intervals from there.
"""

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from pipeline.comparison import results, spread
from pipeline.core import files, params, paths, seeds, stage
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store
from pipeline.evaluation import reconstruction
from pipeline.models import entries, weights
from pipeline.orchestration import plan, replicas, repro


def run(jobs: int | None) -> None:
    """Bring the default run up to date, then add trainings, sample sets and inversions to it.

    Args:
        jobs: models at a time; None for the number of cores, or of GPUs where they are used.

    Raises:
        PipelineError: if it runs already, or a stage failed.
    """
    with replicas.alone() as state:
        repro.reproduce(jobs, None, force=False)
        _run(jobs, state)
        repro.reproduce(jobs, None, force=False)


def _run(jobs: int | None, state: str) -> None:
    raw = params.read()
    section: params.Thorough = params.section(raw, "thorough")
    start, *others = replicas.training_seeds(raw, section.trainings)
    models, home = list(params.model_blocks(raw)), params.results(raw)
    found = {start: {name: results.of_model(name, home.model_metrics(name)) for name in models}}
    others += [(start[0], start[1] + k) for k in range(1, section.sample_sets)]
    for place, chosen in enumerate(others, start=1):
        print(
            f"thorough {place} of {len(others)}: train.seed {chosen[0]}, sample.seed {chosen[1]}",
            flush=True,
        )
        found[chosen] = replicas.measure(*chosen, jobs, state)
    print("thorough: images that models without an encoder are asked to make")
    inverted = _inverted(models, jobs or plan.default_jobs()[0])
    replicas.confirm(state)
    for name in models:
        runs = {key: metrics[name] for key, metrics in found.items()}
        result = {
            "model": name,
            "protocol": runs[start]["protocol"],
            "configuration": spread.configuration(raw, name),
            **spread.summary(runs, start),
            **files.rounded(inverted[name]),
        }
        files.write_json(home.thorough_metrics(name), result)


def _inverted(models: Sequence[str], jobs: int) -> dict[str, dict[str, Any]]:
    """`invert` of each model, so many at a time in processes of their own.

    Raises:
        PipelineError: if one of them was killed.
    """
    context = multiprocessing.get_context("spawn")
    # With Ctrl-C a terminal tells them too; they are ended from here, without a word.
    ignore = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with ProcessPoolExecutor(jobs, mp_context=context, **ignore) as pool:
        try:
            return dict(zip(models, pool.map(invert, models), strict=True))
        except BrokenProcessPool:
            raise PipelineError(
                "a process was killed while it looked for images; mostly that is for want of "
                "memory: try JOBS=1 (what was trained is kept)"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def invert(model: str) -> dict[str, Any]:
    """`evaluation.reconstruction.invert` of a trained model on some images of the split."""
    raw = params.read()
    section: params.Evaluate = params.section(raw, "evaluate")
    device = stage.prepare_torch(params.section(raw, "runtime"))
    store = Store()
    family, _ = weights.load(paths.model_dir(model), entries.read(raw, model), store.spec, device)
    split = store.split(section.split)
    wanted = min(params.section(raw, "thorough").inverted, len(split.images))
    chosen = seeds.subset(len(split.images), wanted, section.seed, "inversion")
    return reconstruction.invert(
        family,
        np.array(split.images[chosen]),
        np.array(split.labels[chosen]),
        seed=section.seed,
        batch=section.batch,
    )
