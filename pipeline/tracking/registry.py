"""Put a trained model into MLflow's registry, from which anybody can draw its images."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline import families
from pipeline.comparison import dvc_lock
from pipeline.core import files, params, paths
from pipeline.core.contract import Samples
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store
from pipeline.models import entries
from pipeline.tracking import mirror, serving

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

ARTIFACT = "sampler"
REQUIREMENTS = (
    "filelock",
    "mlflow",
    "numpy",
    "pandas",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "scikit-learn",
    "threadpoolctl",
    "torch",
    "tqdm",
)
USE = """
from Python:
    import mlflow
    mlflow.set_tracking_uri("{uri}")
    images = mlflow.pyfunc.load_model("models:/{model}@{alias}").predict({{"n": 4, "seed": 0}})

over HTTP, on loopback:
    export MLFLOW_TRACKING_URI={uri}
    mlflow models serve -m models:/{model}@{alias} --port 5001 --env-manager local
    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
        -d '{{"dataframe_records": [{{"n": 4, "seed": 0}}]}}'"""
CHECKED = 4
"""Images that a registered model must draw as the sample stage did."""


def register(model: str, alias: str) -> None:
    """Register the current run of a model, give the version an alias, and say how to use it.

    The first version of a model becomes ``baseline`` too. A run that was registered before is not
    registered again.

    Raises:
        PipelineError: if the model draws no images, was not tracked, or what was registered does
            not draw the images that the sample stage drew.
    """
    raw = params.read()
    family = families.load(entries.read(raw, model).family)
    if not issubclass(family, Samples):
        raise PipelineError(
            f"{model}: models of the family {raw['models'][model]['family']} draw no images, "
            "so there is nothing to register"
        )
    if not paths.model_dir(model).exists():
        raise PipelineError(f"{paths.model_dir(model)}: no trained model; run `make repro`")
    uri = mirror.store_uri()
    with mirror.store_locked(), mirror.connected(uri) as client:
        run = _current_run(client, model)
        found = _registered(client, model, run)
        first = not _versions(client, model)
        if found is None:
            found = _create(client, model, run, raw)
            print(f"{model}: version {found.version} registered")
        else:
            print(f"{model}: version {found.version} is this run already")
        for name in {alias, *(["baseline"] if first else [])}:
            client.set_registered_model_alias(model, name, found.version)
            print(f"{model}: version {found.version} is {name}")
    print(USE.format(uri=mirror.without_password(uri), model=model, alias=alias))


def _current_run(client: "MlflowClient", model: str) -> "Run":
    ids = [each.experiment_id for each in mirror.experiments(client)]
    query = f"tags.model = '{model}' and tags.current = 'true'"
    runs = client.search_runs(ids, query) if ids else []
    if not runs:
        raise PipelineError(f"{model}: MLflow has no current run of it; run `make repro`")
    if runs[0].data.tags["lock_hash"] != dvc_lock.of_model(model, dvc_lock.entries()):
        raise PipelineError(
            f"{model}: MLflow's current run is not the one in {paths.DVC_LOCK}; run `make repro`"
        )
    return runs[0]


def _versions(client: "MlflowClient", model: str) -> "list[ModelVersion]":
    return list(client.search_model_versions(f"name = '{model}'"))


def _registered(client: "MlflowClient", model: str, run: "Run") -> "ModelVersion | None":
    wanted = run.data.tags["lock_hash"]
    same = [v for v in _versions(client, model) if v.tags.get("lock_hash") == wanted]
    return same[0] if same else None


def _create(client: "MlflowClient", model: str, run: "Run", raw: dict[str, Any]) -> "ModelVersion":
    from mlflow.exceptions import RestException

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / ARTIFACT
        save(folder, model, raw)
        _check(folder, model)
        client.log_artifacts(run.info.run_id, str(folder), ARTIFACT)
    if not any(each.name == model for each in client.search_registered_models(f"name = '{model}'")):
        client.create_registered_model(model, description=f"Draws images: {model}")
    try:
        return client.create_model_version(
            model,
            f"{run.info.artifact_uri}/{ARTIFACT}",
            run.info.run_id,
            tags={key: run.data.tags[key] for key in ("lock_hash", "protocol", "family")},
        )
    except RestException as error:
        raise PipelineError(f"{model}: {error.message}") from None


def save(folder: Path, model: str, raw: dict[str, Any]) -> None:
    """Write a model as MLflow stores it: code, safetensors and JSON."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    store = Store(paths.DATA / raw["models"][model]["data"])
    counts = np.bincount(store.split("train").labels, minlength=store.spec.classes)
    inputs = Schema(
        [
            ColSpec(DataType.long, "n"),
            ColSpec(DataType.long, "seed", required=False),
            ColSpec(Array(DataType.long), "labels", required=False),
        ]
    )
    outputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, *store.spec.shape), name="images")])
    with tempfile.TemporaryDirectory() as temporary:
        artifacts = Path(temporary) / serving.FOLDER
        shutil.copytree(paths.model_dir(model), artifacts)
        files.write_json(
            artifacts / serving.DESCRIPTION, serving.describe(raw, model, store.spec, counts)
        )
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(paths.CODE / "tracking" / "serving.py"),
            artifacts={serving.FOLDER: str(artifacts)},
            code_paths=[str(paths.CODE)],
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
            signature=ModelSignature(inputs, outputs),
            input_example=pd.DataFrame([{"n": CHECKED, "seed": 0}]),
        )


def _check(folder: Path, model: str) -> None:
    """Draw a few images with what was saved, and compare them with the sample stage's."""
    import mlflow

    drawn = mlflow.pyfunc.load_model(str(folder)).predict({"n": CHECKED})
    samples = paths.samples_dir(model) / "samples.npy"
    if samples.exists() and not np.array_equal(drawn, np.load(samples, mmap_mode="r")[:CHECKED]):
        raise PipelineError(
            f"{model}: its weights draw other images than {samples} holds, which another kind of "
            f"machine or other code made; `dvc repro --single-item --force sample@{model}` and "
            "`make repro` draw them here"
        )
