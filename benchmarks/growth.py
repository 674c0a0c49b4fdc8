"""What grows with the number of models and of runs, and how fast.

A copy of this checkout gets many copies of the model ``ae`` in params.yaml and in dvc.lock, and is
asked what a run asks first: are the parameters valid, and what is up to date. A store of MLflow
gets many runs with as many metrics, parameters and points of curves as ours have.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from pipeline.comparison import dvc_lock
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.orchestration import lock_text

MODELS = (16, 160, 480)
RUNS = (100, 500, 2_000)
METRICS, PARAMETERS, POINTS = 50, 40, 300
"""Of a run: about what ours have."""
SHOWN = 100
"""Runs that a page of MLflow asks for."""


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--models", type=int, nargs="*", default=MODELS, help="in params.yaml")
    parser.add_argument("--runs", type=int, nargs="*", default=RUNS, help="in MLflow's store")


def run(given: argparse.Namespace) -> None:
    """Measure, and write the rows."""
    found: dict[str, list[dict[str, Any]]] = {"models": [], "runs": []}
    for part, counts, measure in (
        ("models", given.models, with_models),
        ("runs", given.runs, with_runs),
    ):
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                found[part].append(measure(Path(folder), count))
            print(results.line(found[part][-1]), flush=True)
    results.write("growth", found)


def with_models(folder: Path, count: int) -> dict[str, Any]:
    """Sizes and times of a project of so many models; at least those that there are.

    Raises:
        PipelineError: if a command fails.
    """
    clone = folder / "project"
    _done("git", "clone", "--quiet", str(Path.cwd()), str(clone))
    raw, lock = params.read(), dvc_lock.read()
    for i in range(count - len(params.model_blocks(raw))):
        name = f"ae_{i:05d}"
        raw["models"][name] = copy.deepcopy(raw["models"]["ae"])
        for stage in dvc_lock.MODEL_STAGES:
            lock["stages"][f"{stage}@{name}"] = copy.deepcopy(lock["stages"][f"{stage}@ae"])
    for name, content in ((paths.PARAMS, raw), (paths.DVC_LOCK, lock)):
        files.write_text(clone / name, lock_text.dumped(content))
    worker = lock_text.LockText()
    rewritten = [_rewritten(worker, clone / paths.DVC_LOCK, model) for model in ("ae", "vae")]
    python = (sys.executable, "-m")
    return {
        "models": len(params.model_blocks(raw)),
        "params_kilobytes": (clone / paths.PARAMS).stat().st_size / 1e3,
        "lock_kilobytes": (clone / paths.DVC_LOCK).stat().st_size / 1e3,
        "seconds_to_rewrite_lock_first": rewritten[0],
        "seconds_to_rewrite_lock": rewritten[1],
        "seconds_to_check": _done(*python, "pipeline", "check", folder=clone),
        "seconds_to_look": _done(
            *python,
            "pipeline.orchestration.dvc_process",
            "status",
            "--quiet",
            folder=clone,
            codes=(0, 1),
        ),
    }


def _rewritten(worker: lock_text.LockText, file: Path, model: str) -> float:
    """How long it takes to read dvc.lock and to write it with another hash of a training."""
    began = time.perf_counter()
    lock = worker.load(files.read_text(file))
    lock["stages"][f"train@{model}"]["outs"][0]["md5"] = "0" * 32
    files.write_text(file, worker.dump(lock))
    return time.perf_counter() - began


def with_runs(folder: Path, count: int) -> dict[str, Any]:
    """Sizes and times of a store of so many runs."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    store = folder / "mlflow.db"
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.create_experiment("many", artifact_location=folder.as_uri())
    settings = [Param(f"models.ae.key_{i}", str(i)) for i in range(PARAMETERS)]
    began = time.perf_counter()
    for number in range(count):
        made = client.create_run(experiment)
        metrics = [Metric(f"eval/metric_{i}", number + i / 7, 0, 0) for i in range(METRICS)]
        curve = [Metric("train/loss", 1 / (i + 1), i, i) for i in range(POINTS)]
        client.log_batch(made.info.run_id, [*metrics, *curve], settings)
        client.set_terminated(made.info.run_id)
    logged = time.perf_counter() - began
    began = time.perf_counter()
    order = ["metrics.`eval/metric_3` ASC"]
    client.search_runs([experiment], order_by=order, max_results=SHOWN)
    return {
        "runs": count,
        "store_megabytes": store.stat().st_size / 1e6,
        "seconds_per_run": logged / count,
        "seconds_to_list": time.perf_counter() - began,
    }


def _done(*command: str, folder: Path | None = None, codes: tuple[int, ...] = (0,)) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise PipelineError(f"{' '.join(command)}: exit code {done.returncode}: {''.join(last)}")
    return time.perf_counter() - began
