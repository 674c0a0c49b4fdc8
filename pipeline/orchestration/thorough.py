"""Error bars: every model trained and sampled several times, and asked to make test images.

The default run has one training and one sample set of each model. What this adds stands in
``metrics/thorough``, and the comparison takes its intervals from there.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from pipeline.comparison import spread
from pipeline.core import files, params, paths, seeds, stage
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
    models = list(params.model_blocks(raw))
    found = {start: {name: files.read_json(paths.model_metrics(name)) for name in models}}
    others += [(start[0], start[1] + k) for k in range(1, section.sample_sets)]
    for place, chosen in enumerate(others, start=1):
        print(
            f"thorough {place} of {len(others)}: train.seed {chosen[0]}, sample.seed {chosen[1]}",
            flush=True,
        )
        found[chosen] = replicas.measure(*chosen, jobs, state)
    print("thorough: images that models without an encoder are asked to make")
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs or plan.default_jobs()[0], mp_context=context) as pool:
        inverted = dict(zip(models, pool.map(invert, models), strict=True))
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
        files.write_json(paths.thorough_metrics(name), result)


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
