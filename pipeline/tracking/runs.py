"""What the MLflow run of one model holds: parameters, tags, metrics, curves and pictures."""

import json
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field

from pipeline.comparison import results as comparison_results
from pipeline.comparison.colours import colour
from pipeline.core import files, paths, records
from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run

METRICS_PER_BATCH = 1000
ALIVE_SECONDS = 300.0
"""A checkpoint that was not written for so long is of a training that was stopped."""
FORMAT = "2"
"""Raised by hand when runs hold something new, so that results are mirrored once more."""
PACKAGES = ("torch", "torchvision", "numpy", "dvc", "mlflow")
"""Whose versions a run names."""
COST = (
    "parameters",
    "images_seen",
    "training_flops_per_image",
    "sampling_flops",
    "network_evaluations",
)
"""Numbers of a result that are costs; the others are judgements."""
CONDITIONS = (
    "metric_version",
    "n_samples",
    "n_reference",
    "reference_seed",
    "iwae_samples",
    "class_fid_n",
    "translation_n",
)
"""Numbers of a result that say how it was measured; they are tags."""


UnixTime = Annotated[float, Field(ge=0, lt=1e11)]
"""Seconds; MLflow stores milliseconds, as whole numbers of 64 bits."""
Step = Annotated[int, Field(ge=0, lt=2**53)]
Point = Annotated[list[Step | UnixTime], Field(min_length=2, max_length=2)]
"""A step that was logged, and when."""


class Timing(records.Record):
    """Wall-clock facts of a training, below ``work/timings``."""

    started: UnixTime
    seconds: UnixTime
    device: str
    points: list[Point]


@dataclass(frozen=True)
class Result:
    """What the files of the pipeline say about one model.

    Attributes:
        model: its name.
        lock_hash: hash of its entries in dvc.lock.
        metrics: the content of its metrics file.
        block: its block of params.yaml, as it stands there.
        place: how many models of its family stand before it in params.yaml.
        shared: parameters that models of all families have, as text.
        home: where the results of its data set are.
    """

    model: str
    lock_hash: str
    metrics: dict[str, Any]
    block: dict[str, Any]
    place: int
    shared: dict[str, str]
    home: paths.Results


def create(
    client: "MlflowClient", experiment_id: str, result: Result, followed: "Mapping[str, Run]"
) -> None:
    """Log a result as a run; the tag ``complete`` comes last and tells it from a crashed one.

    If its training was followed (`pipeline.tracking.live`), the run is that one.
    """
    from mlflow.entities import Param, RunTag

    timing = _timing(result.model)
    started = timing["started"] if timing else time.time()
    ended = started + timing["seconds"] if timing else started
    tags = _tags(result, timing)
    key = live_key(result.model, timing["points"]) if timing else None
    known = followed.get(key) if key else None
    if known is not None and known.info.experiment_id == experiment_id:
        run_id = known.info.run_id
        client.log_batch(run_id, tags=[RunTag(*each) for each in tags.items()])
    else:
        started_ms = _milliseconds(started)
        run = client.create_run(experiment_id, started_ms, tags, run_name=result.model)
        run_id = run.info.run_id
    client.log_batch(run_id, params=[Param(*each) for each in result.shared.items()])
    client.log_inputs(run_id, datasets=[_dataset(result)])
    log_metrics(client, run_id, _final_metrics(result, timing, ended))
    log_metrics(client, run_id, _curves(result, timing, ended))
    _log_artifacts(client, run_id, result)
    _log_pictures(client, run_id, result, ended)
    client.set_terminated(run_id, end_time=_milliseconds(ended))
    client.log_batch(run_id, tags=[RunTag("complete", "true"), RunTag("current", "true")])


def live_key(model: str, points: Sequence[Sequence[float]]) -> str | None:
    """Names a training by the time of its first logged point, (step, time); None without one."""
    return f"{model}-{points[0][1]:.3f}" if points else None


def mirrored_before(run: "Run", seconds: float) -> bool:
    """Whether `create` began more than so long ago with a run."""
    return time.time() - float(run.data.tags.get("mirrored", 0)) > seconds


def place() -> str:
    """Names this folder of this machine."""
    return f"{platform.node()}:{Path.cwd()}"


def alive(checkpoint: Path) -> bool:
    """Whether a training has written a checkpoint lately. One that was stopped leaves its own."""
    try:
        found = checkpoint.stat()
    except OSError:
        return False  # the training ended just now
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime <= ALIVE_SECONDS


def in_training(model: str) -> bool:
    """Whether a model is being trained in this folder."""
    return any(alive(path) for path in paths.WORK.glob(f"{model}-*.ckpt"))


def log_metrics(client: "MlflowClient", run_id: str, metrics: "Sequence[Metric]") -> None:
    """Log metrics in batches; what is logged already is not logged twice."""
    for start in range(0, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_BATCH])


def _timing(model: str) -> dict[str, Any] | None:
    """Wall-clock facts of the training, or None where it ran elsewhere or they are damaged."""
    weights = paths.model_dir(model) / "weights.safetensors"
    if not weights.exists():
        return None
    path = paths.timing("train", model, files.sha256(weights))
    try:
        return records.read(path, Timing, "its times are left out").model_dump()
    except FileNotFoundError:
        return None
    except files.Unreadable as error:
        print(f"{model}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def _tags(result: Result, timing: dict[str, Any] | None) -> dict[str, str]:
    tags = {
        key: str(value)
        for key, value in result.metrics.items()
        if isinstance(value, str | bool) or (key in CONDITIONS and value is not None)
    }
    tags |= {
        "model": result.model,
        "lock_hash": result.lock_hash,
        "current": "false",
        "format": FORMAT,
        "mirrored": f"{time.time():.0f}",
        "mlflow.runColor": colour(result.metrics["family"], result.place),
    }
    if timing:
        tags |= {"device": timing["device"], **_environment()}
    else:
        tags["train_seconds"] = "n/a"
    commit = _git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def _dataset(result: Result) -> "DatasetInput":
    """What the model was trained on and judged by, as MLflow lists data sets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = result.metrics
    profile = {
        key: found[key] for key in ("reference_split", "n_reference", "n_samples") if key in found
    }
    dataset = Dataset(
        name=found["dataset"],
        digest=str(found.get("data_sha256", "unknown"))[:16],
        source_type="dvc",
        source=json.dumps({"path": str(paths.DATA / result.block.get("data", "processed"))}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _environment() -> dict[str, str]:
    """Versions and processor of the machine that trained, as far as it is this one."""
    versions = {f"version.{name}": version(name) for name in PACKAGES}
    return {**versions, "version.python": platform.python_version(), "machine": platform.machine()}


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _final_metrics(result: Result, timing: dict[str, Any] | None, ended: float) -> "list[Metric]":
    """What was judged and what it cost, at the last step."""
    values = {
        f"{'cost' if key in COST else 'eval'}/{key}": value
        for key, value in result.metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in CONDITIONS
    }
    flops, images = (result.metrics.get(k) for k in ("training_flops_per_image", "images_seen"))
    if flops is not None and images is not None:
        values["cost/training_flops"] = flops * images
    if timing:
        values["cost/train_seconds"] = timing["seconds"]
    return finite(result.model, ((key, value, ended, 0) for key, value in values.items()))


def _curves(result: Result, timing: dict[str, Any] | None, ended: float) -> "list[Metric]":
    """The training curve, as ``train/<group>/<term>`` over steps."""
    try:
        rows = comparison_results.curve(result.home.curve(result.model))
    except FileNotFoundError:
        return []
    times = dict(timing["points"]) if timing else {}
    points = [
        (f"train/{name}", float(text), times.get(int(row["step"]), ended), int(row["step"]))
        for row in rows
        for name, text in row.items()
        if name not in ("step", "images") and text
    ]
    return finite(result.model, points)


def finite(model: str, points: Iterable[tuple[str, float, float, int]]) -> "list[Metric]":
    """Metrics from (key, value, unix time, step), without NaN and infinity: they break charts."""
    from mlflow.entities import Metric

    kept, dropped = [], set()
    for key, value, at, step in points:
        if abs(value) <= sys.float_info.max:  # nor a whole number that is beyond it
            kept.append(Metric(key, float(value), _milliseconds(at), step))
        else:
            dropped.add(key)
    if dropped:
        print(f"{model}: not finite, not logged: {', '.join(sorted(dropped))}", file=sys.stderr)
    return kept


def _log_artifacts(client: "MlflowClient", run_id: str, result: Result) -> None:
    client.log_dict(run_id, result.block, "params.json")
    for path, folder in (
        (result.home.model_metrics(result.model), "metrics"),
        (result.home.curve(result.model), "curves"),
    ):
        if path.exists():
            client.log_artifact(run_id, str(path), folder)


def _log_pictures(client: "MlflowClient", run_id: str, result: Result, ended: float) -> None:
    """Log the pictures of a model as files, and as images, which the chart view lays side by side.

    Images of one name are compared between runs, but their files have names for machines.
    """
    for path in result.home.pictures(result.model).values():
        try:
            with Image.open(path) as opened:
                picture = opened.copy()
        except Exception as error:  # whatever a damaged file makes the library raise
            raise PipelineError(
                f"{path}: not a readable picture ({files.reason(error)}); delete it and run "
                "`make repro`"
            ) from None
        client.log_artifact(run_id, str(path), "pictures")
        key = f"pictures/{path.stem}"
        client.log_image(run_id, picture, key=key, step=0, timestamp=_milliseconds(ended))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
