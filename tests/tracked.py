"""A small checkout whose results are mirrored into MLflow, for tests."""

import csv
import json
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from pipeline import families
from pipeline.core import files, params, paths
from pipeline.tracking import mirror, mlflow_store, sqlite_file

HOME = paths.Results("mnist-5k")

ROOT = Path(__file__).parents[1]
FAMILIES = {"dcgan": "gan", "ddpm": "ddpm", "vae": "vae"}
PICTURES = ("reconstructions", "samples")
METRICS = {
    "data_sha256": "d" * 64,
    "dataset": "mnist-5k",
    "fid": 12.5,
    "fid_features": "judge",
    "fid_max": 14.0,
    "fid_min": 11.0,
    "images_seen": 6400,
    "judge_recipe": "j" * 64,
    "metric_version": 1,
    "n_reference": 1000,
    "n_samples": 1000,
    "parameters": 12345,
    "protocol": "a1b2c3d4",
    "reconstruction_kind": None,
    "reconstruction_mse": None,
    "reconstruction_psnr": None,
    "reference_seed": 0,
    "reference_split": "test",
    "likelihood_bound": "elbo",
    "likelihood_kl_nats": 3.5,
    "nats_per_image": 700.0,
    "bits_per_dim": 1.25,
    "bits_per_dim_stderr": 0.01,
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


class Training(params.Section):
    images: int
    batch: int = 64
    learning_rate: float = 1e-3
    precision: str = "fp32"


class Project:
    """A small checkout in the current folder, as the stages before ``track`` leave it."""

    def __init__(self) -> None:
        self.models = list(FAMILIES)
        self.write_yaml()
        self.lock = {
            f"{stage}@{model}": {"cmd": f"python -m stages.{stage} {model}", "outs": [{"md5": "1"}]}
            for model in self.models
            for stage in ("train", "sample", "evaluate")
        }
        self.write_lock()
        for model in self.models:
            self.write_metrics(model)
            self.write_curve(model, [(10, 320, 1.5, 0.5), (20, 640, 1.25, 0.25)])
            HOME.pictures_dir(model).mkdir(parents=True)
            for name in PICTURES:
                (HOME.pictures_dir(model) / f"{name}.png").write_bytes(PNG)
            paths.model_dir(model).mkdir(parents=True)
            (paths.model_dir(model) / "weights.safetensors").write_bytes(model.encode())

    def write_yaml(self, title: str = HOME.title) -> None:
        blocks = {
            model: {"family": FAMILIES[model], "training": {"images": 6400, "batch": 32}}
            | {"data": "processed", "network": {"width": 8}, "sampling": {}, "scoring": {}}
            for model in self.models
        }
        # JSON is YAML, too.
        content = {
            "data": {"title": title},
            "train": {"seed": 3, "budget": 1.0},
            "models": blocks,
        }
        paths.PARAMS.write_text(json.dumps(content))

    def write_lock(self) -> None:
        paths.DVC_LOCK.write_text(json.dumps({"schema": "2.0", "stages": self.lock}))

    def write_metrics(self, model: str, **changes: object) -> None:
        result = {**METRICS, "model": model, "family": FAMILIES[model], **changes}
        HOME.model_metrics(model).parent.mkdir(parents=True, exist_ok=True)
        HOME.model_metrics(model).write_text(json.dumps(result))

    def write_curve(self, model: str, rows: list[tuple]) -> None:
        HOME.curve(model).parent.mkdir(parents=True, exist_ok=True)
        with HOME.curve(model).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([("step", "images", "generator/loss", "critic/loss"), *rows])

    def write_timing(self, model: str) -> None:
        digest = files.sha256(paths.model_dir(model) / "weights.safetensors")
        points = [[10, 1_700_000_010.25], [20, 1_700_000_020.5]]
        timing = {"started": 1.7e9, "seconds": 21.5, "device": "cpu", "points": points}
        files.write_json(paths.timing("train", model, digest), timing)

    def retrain(self, model: str, version: str) -> None:
        self.lock[f"train@{model}"]["outs"] = [{"md5": version}]
        self.write_lock()

    def drop(self, model: str) -> None:
        self.models.remove(model)
        self.write_yaml()


def use_small_families(patch: pytest.MonkeyPatch) -> None:
    """Families that need no torch, and that nobody changes."""
    patch.setattr(families, "names", lambda: sorted(set(FAMILIES.values())))
    blocks = {"Network": None, "Training": Training, "Sampling": None, "Scoring": None}
    patch.setattr(families, "load", lambda _: SimpleNamespace(data="processed", **blocks))


def track() -> None:
    mirror.mirror(*mirror.read())


def track_in_a_process() -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_small_families(patch)
        track()


def child_environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=mlflow_store.uri())


def all_runs(view: int = ViewType.ACTIVE_ONLY) -> list:
    ids = [each.experiment_id for each in client().search_experiments()]
    return list(client().search_runs(ids, run_view_type=view, max_results=1000))


def runs_of(model: str) -> list:
    return [run for run in all_runs() if run.data.tags["model"] == model]


def current() -> dict[str, str]:
    """Lock hash of the current run of each model; fails if there are two."""
    found = [run for run in all_runs() if run.data.tags["current"] == "true"]
    hashes = {run.data.tags["model"]: run.data.tags["lock_hash"] for run in found}
    assert len(hashes) == len(found)
    return hashes


def store() -> tuple[str, dict[str, int]]:
    """All that the store holds: each row of each table, and each file with its time."""
    with sqlite3.connect(paths.MLFLOW_DB) as database:
        rows = "\n".join(database.iterdump())
    root = paths.MLFLOW_ARTIFACTS
    return rows, {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


def artifacts(run_id: str, folder: str | None = None) -> list[str]:
    """Names of the files of a run; of images what comes before their times and random numbers."""
    found = []
    for each in client().list_artifacts(run_id, folder):
        found += artifacts(run_id, each.path) if each.is_dir else [each.path.partition("+")[0]]
    return sorted(found)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; making one takes seconds, and each module of tests asks for it anew."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    sqlite_file.create(path)  # nothing to do if it is there
    return path


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without a store, in a folder whose name needs quoting."""
    folder = tmp_path / "my checkout, 100%25"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    use_small_families(monkeypatch)
    return Project()


@pytest.fixture
def project(fresh: Project, migrated: Path) -> Project:
    """A project with an empty store."""
    shutil.copy(migrated, paths.MLFLOW_DB)
    return fresh
