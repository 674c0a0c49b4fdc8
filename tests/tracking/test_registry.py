import ast
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import packages_distributions

import mlflow
import numpy as np
import pytest
import torch
from builders import SMALL, TINY, some_images
from imports import closure, imported
from mlflow import MlflowClient
from ruamel.yaml import YAML
from tracked import migrated as migrated

from pipeline import families
from pipeline.comparison import dvc_lock
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Split, Store, write
from pipeline.models import entries, weights
from pipeline.sampling import drawing
from pipeline.tracking import mirror, registry

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
        client = MlflowClient(tracking_uri=mirror.store_uri())
        home = client.create_experiment("toy", mirror.artifact_root(), tags={"protocol": "p"})
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
    shared = {"runtime": {"threads": 1}, "sample": {"n": 12, "seed": 3, "batch": 5}}
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump({**shared, "models": entries}, stream)


def lock(name, version):
    """Let DVC have recorded a version of a model; its hash."""
    stages = dvc_lock.entries() if paths.DVC_LOCK.exists() else {}
    stages |= {f"{stage}@{name}": {"outs": version} for stage in dvc_lock.MODEL_STAGES}
    paths.DVC_LOCK.write_text(json.dumps({"stages": stages}))
    return dvc_lock.of_model(name, stages)


def draw(name, seed=0):
    """Initial weights, and what the sample stage draws with them."""
    store = Store()
    family = weights.build(entries.read(params.read(), name), store.spec, seed, torch.device("cpu"))
    with torch.no_grad():
        for each in family.generator.parameters():
            each.mul_(20)  # initial weights draw flat images
    weights.save(paths.model_dir(name), family.eval(), {})
    section = params.section(params.read(), "sample")
    paths.samples_dir(name).mkdir(parents=True, exist_ok=True)
    for kind, array in drawing.everything(family, store, section).items():
        np.save(paths.samples_dir(name) / f"{kind}.npy", array)


def samples(name, kind="samples"):
    return np.load(paths.samples_dir(name) / f"{kind}.npy")


@pytest.fixture(scope="module")
def loaded(project):
    registry.register("dcgan", "champion")
    registry.register("cgan", "champion")
    mlflow.set_tracking_uri(mirror.store_uri())
    return {
        name: mlflow.pyfunc.load_model(f"models:/{name}@champion") for name in ("dcgan", "cgan")
    }


@pytest.fixture
def indeterministic():
    """PyTorch as other programs have it, whatever former tests in this process switched on."""
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(2)
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)


def test_the_same_seed_gives_the_images_of_the_sample_stage(loaded, indeterministic):
    drawn = loaded["dcgan"].predict({"n": 12, "seed": 3})
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, samples("dcgan"))
    np.testing.assert_array_equal(loaded["dcgan"].predict({"n": 3}), drawn[:3])
    assert (loaded["dcgan"].predict({"n": 12, "seed": 4}) != drawn).any()
    assert torch.get_num_threads() == 2
    assert torch.get_deterministic_debug_mode() == 0


def test_labels_are_those_that_are_asked_for_or_those_of_the_stage(loaded):
    labels = samples("cgan", "labels")
    np.testing.assert_array_equal(loaded["cgan"].predict({"n": 12}), samples("cgan"))
    asked = loaded["cgan"].predict({"n": 12, "labels": labels.tolist()})
    np.testing.assert_array_equal(asked, samples("cgan"))
    others = loaded["cgan"].predict({"n": 12, "labels": [7] * 12})
    assert (others != asked).any()
    with pytest.raises(ValueError, match="labels must be 12 whole numbers from 0 to 9"):
        loaded["cgan"].predict({"n": 12, "labels": [10] * 12})
    with pytest.raises(ValueError, match="takes no labels"):
        loaded["dcgan"].predict({"n": 2, "labels": [1, 2]})
    with pytest.raises(ValueError, match="at least one"):
        loaded["dcgan"].predict({"n": 0})


def test_nothing_in_it_is_a_pickle(loaded, project):
    version = project.get_model_version_by_alias("dcgan", "champion")
    folder = mlflow.artifacts.download_artifacts(
        f"models:/dcgan/{version.version}", tracking_uri=mirror.store_uri()
    )
    names = [name for _, _, found in os.walk(folder) for name in found]
    assert "weights.safetensors" in names and "serving.py" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]


def test_what_it_requires_is_what_drawing_images_imports():
    files = set()
    for family in families.names():
        files |= closure(ROOT, "pipeline/tracking/serving.py", family)
    trees = [ast.parse((ROOT / name).read_text()) for name in files]
    used = {name.partition(".")[0] for tree in trees for name in imported(tree)}
    used -= {*sys.stdlib_module_names, "pipeline"}
    named = packages_distributions()
    required = set(registry.REQUIREMENTS)
    assert all(required & set(named[name]) for name in used)
    assert required <= {each for name in used for each in named[name]}


def test_a_run_is_registered_once_and_its_first_version_is_the_baseline(loaded, project, capsys):
    registry.register("dcgan", "champion")
    assert "version 1 is this run already" in capsys.readouterr().out
    assert project.get_model_version_by_alias("dcgan", "baseline").version == 1
    draw("dcgan", seed=1)
    (run,) = project.search_runs([project.get_experiment_by_name("toy").experiment_id],
                                 "tags.model = 'dcgan'")  # fmt: skip
    newer = lock("dcgan", "2")
    with pytest.raises(PipelineError, match=r"current run is not the one in dvc.lock"):
        registry.register("dcgan", "champion")
    project.set_tag(run.info.run_id, "lock_hash", newer)
    registry.register("dcgan", "champion")
    assert project.get_model_version_by_alias("dcgan", "champion").version == 2
    assert project.get_model_version_by_alias("dcgan", "baseline").version == 1
    again = mlflow.pyfunc.load_model("models:/dcgan@champion").predict({"n": 12})
    np.testing.assert_array_equal(again, samples("dcgan"))


def test_what_cannot_be_registered_is_one_line(project):
    with pytest.raises(PipelineError, match="draw no images"):
        registry.register("cyclegan", "champion")
    with pytest.raises(PipelineError, match="unknown model 'dcgam'; did you mean 'dcgan'"):
        registry.register("dcgam", "champion")


def test_weights_that_draw_other_images_are_not_registered(project, loaded):
    np.save(paths.samples_dir("cgan") / "samples.npy", 255 - samples("cgan"))
    (run,) = project.search_runs([project.get_experiment_by_name("toy").experiment_id],
                                 "tags.model = 'cgan'")  # fmt: skip
    project.set_tag(run.info.run_id, "lock_hash", lock("cgan", "2"))
    before = len(project.search_model_versions("name = 'cgan'"))
    with pytest.raises(PipelineError, match="draw other images"):
        registry.register("cgan", "champion")
    assert len(project.search_model_versions("name = 'cgan'")) == before
    draw("cgan")


@pytest.mark.slow
def test_a_server_answers_a_request_for_images(project, loaded):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/cgan@champion"]
    command += ["--port", str(port), "--env-manager", "local"]
    server = subprocess.Popen(
        command, env={**os.environ, "MLFLOW_TRACKING_URI": mirror.store_uri()}
    )
    try:
        body = json.dumps({"dataframe_records": [{"n": 4, "seed": 3}]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        answer = None
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    answer = json.loads(response.read())
                break
            except urllib.error.URLError:
                time.sleep(1)
        drawn = np.array(answer["predictions"], np.uint8)
        np.testing.assert_array_equal(drawn, samples("cgan")[:4])
    finally:
        server.terminate()
        server.wait(30)
