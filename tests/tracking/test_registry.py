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
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from imports import closure, imported
from mlflow import MlflowClient
from registered import ROOT, draw, lock, samples
from registered import project as project
from tracked import migrated as migrated

from pipeline import families
from pipeline.core import arrays, paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import mirror, mlflow_store, registry


@pytest.fixture(scope="module")
def loaded(project):
    registry.register("dcgan", "champion")
    registry.register("cgan", "champion")
    mlflow.set_tracking_uri(mlflow_store.uri())
    return {
        name: mlflow.pyfunc.load_model(f"models:/toy-{name}@champion") for name in ("dcgan", "cgan")
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
    version = project.get_model_version_by_alias("toy-dcgan", "champion")
    folder = mlflow.artifacts.download_artifacts(
        f"models:/toy-dcgan/{version.version}", tracking_uri=mlflow_store.uri()
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
    assert project.get_model_version_by_alias("toy-dcgan", "baseline").version == 1
    draw("dcgan", seed=1)
    (run,) = project.search_runs([project.get_experiment_by_name("toy").experiment_id],
                                 "tags.model = 'dcgan'")  # fmt: skip
    newer = lock("dcgan", "2")
    with pytest.raises(PipelineError, match=r"current run is not the one in dvc.lock"):
        registry.register("dcgan", "champion")
    project.set_tag(run.info.run_id, "lock_hash", newer)
    registry.register("dcgan", "champion")
    assert project.get_model_version_by_alias("toy-dcgan", "champion").version == 2
    assert project.get_model_version_by_alias("toy-dcgan", "baseline").version == 1
    again = mlflow.pyfunc.load_model("models:/toy-dcgan@champion").predict({"n": 12})
    np.testing.assert_array_equal(again, samples("dcgan"))


def test_what_cannot_be_registered_is_one_line(project):
    with pytest.raises(PipelineError, match="draw no images"):
        registry.register("cyclegan", "champion")
    with pytest.raises(PipelineError, match="unknown model 'dcgam'; did you mean 'dcgan'"):
        registry.register("dcgam", "champion")


def test_weights_that_draw_other_images_are_not_registered(project, loaded):
    arrays.save(paths.samples_dir("cgan"), {"samples": 255 - samples("cgan")})
    (run,) = project.search_runs([project.get_experiment_by_name("toy").experiment_id],
                                 "tags.model = 'cgan'")  # fmt: skip
    project.set_tag(run.info.run_id, "lock_hash", lock("cgan", "2"))
    before = len(project.search_model_versions("name = 'toy-cgan'"))
    with pytest.raises(PipelineError, match="draw other images"):
        registry.register("cgan", "champion")
    assert len(project.search_model_versions("name = 'toy-cgan'")) == before
    draw("cgan")


def test_a_version_of_an_earlier_format_is_registered_once_more(project, loaded, capsys):
    known = project.get_model_version_by_alias("toy-cgan", "champion")
    project.set_model_version_tag("toy-cgan", known.version, "format", "1")
    registry.register("cgan", "champion")
    newer = project.get_model_version_by_alias("toy-cgan", "champion")
    assert newer.version > known.version
    assert f"version {newer.version} registered" in capsys.readouterr().out


def test_weights_that_are_damaged_are_one_line(project, loaded):
    path = paths.model_dir("cgan") / "weights.safetensors"
    whole = path.read_bytes()
    (run,) = project.search_runs([project.get_experiment_by_name("toy").experiment_id],
                                 "tags.model = 'cgan'")  # fmt: skip
    before = lock("cgan", "3")
    project.set_tag(run.info.run_id, "lock_hash", before)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(PipelineError, match=rf"^{path}: damaged"):
            registry.register("cgan", "champion")
    finally:
        path.write_bytes(whole)


def test_what_was_registered_is_loaded_from_the_place_of_a_moved_project(
    project, loaded, tmp_path, monkeypatch
):
    old, new = Path.cwd(), tmp_path / "new"
    shutil.copytree(old, new, symlinks=True)
    monkeypatch.chdir(new)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it to what it is told
    mirror.tracked(mlflow_store.uri())  # as whatever opens the store
    source = MlflowClient(mlflow_store.uri(), mlflow_store.uri()).get_model_version_by_alias(
        "toy-dcgan", "baseline"
    )
    assert source.source.startswith(new.as_uri())
    mlflow.set_tracking_uri(mlflow_store.uri())
    hidden = old / "mlartifacts hidden"
    (old / "mlartifacts").rename(hidden)
    try:
        moved = mlflow.pyfunc.load_model("models:/toy-dcgan@champion")
        np.testing.assert_array_equal(moved.predict({"n": 3}), samples("dcgan")[:3])
    finally:
        hidden.rename(old / "mlartifacts")


@pytest.mark.slow
def test_a_server_answers_a_request_for_images(project, loaded):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toy-cgan@champion"]
    command += ["--port", str(port), "--env-manager", "local"]
    server = subprocess.Popen(
        command, env={**os.environ, "MLFLOW_TRACKING_URI": mlflow_store.uri()}
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
