"""A folder with two small models that were sampled and tracked, to be registered by tests."""

import json
import shutil

import mlflow
import numpy as np
import pytest
import torch
from builders import FACTS, SMALL, TINY, some_images
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline.comparison import dvc_lock
from pipeline.core import arrays, params, paths
from pipeline.datasets.store import Split, Store, write
from pipeline.models import entries, weights
from pipeline.sampling import drawing
from pipeline.tracking import mlflow_store

ROOT = paths.CODE.resolve().parent
BLOCKS = {
    "dcgan": {"network": {**TINY["gan"], "conditional": False}},
    "cgan": {"network": {**TINY["gan"], "conditional": True}},
    "cyclegan": {"network": TINY["cyclegan"]},
}
FAMILIES = {"dcgan": "gan", "cgan": "gan", "cyclegan": "cyclegan"}


@pytest.fixture(scope="module")
def project(tmp_path_factory, migrated):
    """A folder with two small models that were sampled and tracked; all tests here share it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("registered")
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (folder / "pipeline").symlink_to(ROOT / "pipeline")
        shutil.copy(migrated, paths.MLFLOW_DB)
        dump()
        labels = np.arange(30) % SMALL.classes
        splits = {name: Split(some_images(30).numpy(), labels) for name in ("train", "test")}
        write(paths.PROCESSED, "toy", [str(i) for i in range(10)], splits)
        client = MlflowClient(tracking_uri=mlflow_store.uri())
        home = client.create_experiment(
            "toy", mlflow_store.artifact_root(), tags={"protocol": "p", "title": "toy"}
        )
        for name in ("dcgan", "cgan"):
            draw(name)
            tags = {"model": name, "current": "true", "lock_hash": lock(name, "1"), "protocol": "p"}
            client.create_run(home, tags={**tags, "family": "gan"}, run_name=name)
        yield client
        mlflow.set_tracking_uri(None)


def dump():
    entries = {}
    for name, blocks in BLOCKS.items():
        training = {"images": 64, "batch": 8}
        data = "domains" if name == "cyclegan" else "processed"
        entries[name] = {
            "family": FAMILIES[name], "data": data, "training": training,
            "sampling": {}, "scoring": {}, **blocks,
        }  # fmt: skip
    shared = {
        "data": {"title": "toy"},
        "runtime": {"threads": 1},
        "sample": {"n": 12, "seed": 3, "batch": 5},
    }
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump({**shared, "models": entries}, stream)


def lock(name, version):
    """Let DVC have recorded a version of a model; its hash."""
    stages = dvc_lock.entries() if paths.DVC_LOCK.exists() else {}
    outs = [{"path": name, "md5": version}]
    stages |= {f"{each}@{name}": {"cmd": "x", "outs": outs} for each in dvc_lock.MODEL_STAGES}
    paths.DVC_LOCK.write_text(json.dumps({"stages": stages}))
    return dvc_lock.of_model(name, stages)


def draw(name, seed=0):
    """Initial weights, and what the sample stage draws with them."""
    store = Store()
    family = weights.build(entries.read(params.read(), name), store.spec, seed, torch.device("cpu"))
    with torch.no_grad():
        for each in family.generator.parameters():
            each.mul_(20)  # initial weights draw flat images
    weights.save(paths.model_dir(name), family.eval(), FACTS)
    section = params.section(params.read(), "sample")
    paths.samples_dir(name).mkdir(parents=True, exist_ok=True)
    arrays.save(paths.samples_dir(name), drawing.everything(family, store, section, section.n))


def samples(name, kind="samples"):
    return np.load(paths.samples_dir(name) / f"{kind}.npy")
