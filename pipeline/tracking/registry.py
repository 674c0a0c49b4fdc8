"""Put a trained model into MLflow's registry, from which anybody can draw its images."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from pipeline import families
from pipeline.comparison import dvc_lock
from pipeline.core import arrays, files, params, paths
from pipeline.core.contract import Samples
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store
from pipeline.models import entries, weights
from pipeline.tracking import mirror, mlflow_store, serving, shipping

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
    "psutil",
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
    images = mlflow.pyfunc.load_model("models:/{name}@{alias}").predict({{"n": 4, "seed": 0}})

over HTTP, on loopback:
    export MLFLOW_TRACKING_URI={uri}
    mlflow models serve -m models:/{name}@{alias} --port 5001 --env-manager local
    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
        -d '{{"dataframe_records": [{{"n": 4, "seed": 0}}]}}'"""
FORMAT = "2"
"""Raised by hand when what is registered changes, so that models are registered once more."""
CHECKED = 4
"""Images that a registered model must draw as the sample stage did."""


def register(model: str, alias: str) -> None:
    """Register the current run of a model, give the version an alias, and say how to use it.

    It is called ``<title>-<model>``, so that those of several data sets stand side by side. The
    first version of a model becomes ``baseline`` too. A run that was registered before is not
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
    uri = mlflow_store.uri()
    with mlflow_store.opened(uri) as client:
        title = params.results(raw).title
        name = f"{title}-{model}"
        run = _current_run(client, title, model)
        found = _registered(client, name, run)
        first = not _versions(client, name)
        if found is None:
            found = _create(client, name, model, run, raw)
            print(f"{name}: version {found.version} registered")
        else:
            print(f"{name}: version {found.version} is this run already")
        for each in {alias, *(["baseline"] if first else [])}:
            client.set_registered_model_alias(name, each, found.version)
            print(f"{name}: version {found.version} is {each}")
    print(USE.format(uri=mlflow_store.without_password(uri), name=name, alias=alias))


def _current_run(client: "MlflowClient", title: str, model: str) -> "Run":
    ids = [each.experiment_id for each in mirror.experiments(client, title)]
    query = f"tags.model = '{model}' and tags.current = 'true'"
    runs = client.search_runs(ids, query) if ids else []
    if not runs:
        raise PipelineError(f"{model}: MLflow has no current run of it; run `make repro`")
    if runs[0].data.tags["lock_hash"] != dvc_lock.of_model(model, dvc_lock.entries()):
        raise PipelineError(
            f"{model}: MLflow's current run is not the one in {paths.DVC_LOCK}; run `make repro`"
        )
    return runs[0]


def _versions(client: "MlflowClient", name: str) -> "list[ModelVersion]":
    return list(client.search_model_versions(f"name = '{name}'"))


def _registered(client: "MlflowClient", name: str, run: "Run") -> "ModelVersion | None":
    wanted = run.data.tags["lock_hash"]
    for each in _versions(client, name):
        if each.tags.get("lock_hash") == wanted and each.tags.get("format") == FORMAT:
            return each
    return None


def _create(
    client: "MlflowClient", name: str, model: str, run: "Run", raw: dict[str, Any]
) -> "ModelVersion":
    from mlflow.exceptions import RestException

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / ARTIFACT
        save(folder, model, raw)
        _check(folder, model)
        client.log_artifacts(run.info.run_id, str(folder), ARTIFACT)
    if not any(each.name == name for each in client.search_registered_models(f"name = '{name}'")):
        client.create_registered_model(name, description=f"Draws images: {name}")
    try:
        return client.create_model_version(
            name,
            f"{run.info.artifact_uri}/{ARTIFACT}",
            run.info.run_id,
            tags={key: run.data.tags[key] for key in ("lock_hash", "protocol", "family")}
            | {"format": FORMAT},
        )
    except RestException as error:
        raise PipelineError(f"{name}: {error.message}") from None


def save(folder: Path, model: str, raw: dict[str, Any]) -> None:
    """Write a model as MLflow stores it: code, safetensors and JSON.

    Raises:
        PipelineError: if the model or its data are missing or damaged.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    store = Store(paths.DATA / raw["models"][model]["data"])
    chosen = entries.read(raw, model, blocks=("network", "sampling"))
    weights.load(paths.model_dir(model), chosen, store.spec, torch.device("cpu"))  # are they whole?
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
        code = Path(temporary) / "code"
        package, script = shipping.ship(code)
        with _path_kept():
            sys.path.insert(0, str(code))
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(script),
                artifacts={serving.FOLDER: str(artifacts)},
                code_paths=[str(package)],
                pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
                signature=ModelSignature(inputs, outputs),
                input_example=pd.DataFrame([{"n": CHECKED, "seed": 0}]),
            )


@contextmanager
def _path_kept() -> Iterator[None]:
    """Let MLflow, which leaves the folder of each model in ``sys.path``, change it for a while."""
    kept, content = sys.path, list(sys.path)
    try:
        yield
    finally:
        kept[:] = content
        sys.path = kept


def _check(folder: Path, model: str) -> None:
    """Draw a few images with what was saved, and compare them with the sample stage's."""
    import mlflow

    try:
        with _path_kept():
            drawn = mlflow.pyfunc.load_model(str(folder)).predict({"n": CHECKED})
    except Exception as error:
        # The code that was shipped has a class of its own for what a person can mend.
        if PipelineError.__name__ not in [each.__name__ for each in type(error).__mro__]:
            raise
        raise PipelineError(str(error)) from None
    samples = paths.samples_dir(model)
    remedy = f"delete {samples}, and the next run restores or draws it again"
    if "samples" not in arrays.names(samples, remedy):
        return
    if not np.array_equal(drawn, arrays.load(samples, "samples", remedy)[:CHECKED]):
        raise PipelineError(
            f"{model}: its weights draw other images than {samples} holds, which another kind of "
            f"machine or other code made; `dvc repro --single-item --force sample@{model}` and "
            "`make repro` draw them here"
        )
