"""FID of a diffusion model against the network evaluations that its sampler takes.

It takes the trained model ``ddpm`` and the judges of the last run.
All solvers start from the same noise, and the last row is the longest chain there is.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import results
from pipeline.core import params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store
from pipeline.evaluation import judge, protocol, quality
from pipeline.models import entries, weights
from pipeline.sampling import drawing

STEPS = (3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)
VARIANTS = (
    ("ddim", "time"),
    ("ddim", "log_snr"),
    ("dpm_2m", "time"),
    ("dpm_2m", "log_snr"),
)
TITLES = {
    ("ddim", "time"): "DDIM",
    ("ddim", "log_snr"): "DDIM, even in log-SNR",
    ("dpm_2m", "time"): "DPM-Solver++ (2M)",
    ("dpm_2m", "log_snr"): "DPM-Solver++ (2M), even in log-SNR",
}


def measure(model: str, steps: Sequence[int]) -> dict[str, Any]:
    """The rows of the table, and what they are of.

    Raises:
        PipelineError: if there is no such model, or it was not trained.
    """
    raw = params.read()
    section: params.Sample = params.section(raw, "sample")
    evaluate: params.Evaluate = params.section(raw, "evaluate")
    chosen = entries.read(raw, model, blocks=("network", "sampling"))
    if chosen.family != "ddpm":
        raise PipelineError(f"{model}: of the family {chosen.family}, which has no solver")
    device = stage.prepare_torch(params.section(raw, "runtime"))
    store = Store()
    n = protocol.sample_count(section.n, store.counts, evaluate.split)
    judges = judge.load(paths.JUDGE, store.spec, device)
    real = judge.see(judges, protocol.reference_images(store, evaluate.split, n, evaluate.seed))
    rows = []
    for solver, spacing in VARIANTS:
        for count in steps:
            sampling = chosen.sampling.model_copy(
                update={"solver": solver, "spacing": spacing, "steps": count, "eta": 0.0}
            )
            entry = chosen.model_copy(update={"sampling": sampling})
            family, _ = weights.load(paths.model_dir(model), entry, store.spec, device)
            began = time.perf_counter()
            drawn = drawing.everything(family, store, section, n, label=f"{solver} {count}")
            seconds = time.perf_counter() - began
            seen = judge.see(judges, drawn["samples"])
            row = {
                "solver": solver,
                "spacing": spacing,
                "steps": count,
                "network_evaluations": family.network_evaluations,
                "fid": quality.distance(seen, real),
                "second_fid": quality.distance(seen.by_second(), real.by_second())
                if seen.second
                else None,
                "seconds_per_image": seconds / n,
            }
            rows.append(row)
            print(results.line(row), flush=True)
    return {"model": model, "dataset": store.name, "n_samples": n, "rows": rows}


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--model", default="ddpm", help="of params.yaml, of the family ddpm")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="of the samplers")


def run(given: argparse.Namespace) -> None:
    """Measure, write the rows and draw them."""
    found = measure(given.model, given.steps)
    results.write("samplers", found)
    results.draw(
        "samplers",
        {
            TITLES[variant]: [
                (row["network_evaluations"], row["fid"])
                for row in found["rows"]
                if (row["solver"], row["spacing"]) == variant
            ]
            for variant in VARIANTS
        },
        x="network evaluations per image",
        y=f"FID of {found['n_samples']:,} samples",
    )
