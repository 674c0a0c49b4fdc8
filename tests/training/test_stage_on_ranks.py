"""The stages of a model on two devices, as processes: started by themselves and by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from clone import Clone
from faults import harness

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stages on ranks")]
SECONDS = 120


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    clone = Clone(tmp_path_factory.mktemp("project") / "it", ("vae", "dcgan"))
    clone.params["runtime"] |= {"device": "cpu", "devices": 2, "checkpoint_seconds": 0.01}
    clone.params["judge"]["seeds"] = [1]
    clone.write_params()
    for stage in ("inputs", "download", "preprocess", "judge"):
        clone.run(f"stages.{stage}")
    return clone


@pytest.fixture
def long(project):
    """Its vae trains for minutes."""
    images = project.params["models"]["vae"]["training"]["images"]
    project.params["models"]["vae"]["training"]["images"] = 10_000_000
    project.write_params()
    yield project
    project.params["models"]["vae"]["training"]["images"] = images
    project.write_params()
    for each in (project.folder / "work").glob("*.ckpt"):
        each.unlink()


def results(clone, model):
    return harness.hashes(
        *(
            clone.folder / path
            for path in (
                f"data/models/{model}",
                f"metrics/mnist-5k/curves/{model}.csv",
                f"data/samples/{model}",
                f"data/scores/{model}",
                f"metrics/mnist-5k/models/{model}.json",
            )
        )
    )


def with_devices(clone, devices, *command):
    before = clone.params["runtime"]["devices"]
    clone.params["runtime"]["devices"] = devices
    clone.write_params()
    try:
        return clone.run(*command)
    finally:
        clone.params["runtime"]["devices"] = before
        clone.write_params()


@pytest.mark.parametrize("model", ["vae", "dcgan"])
def test_a_model_is_trained_drawn_and_scored_by_two_and_scored_the_same_by_one(project, model):
    done = project.run("stages.train", model)
    assert done.stderr.count(f"train {model}: 100%") == 1
    for stage in ("sample", "evaluate"):
        project.run(f"stages.{stage}", model)
    two = results(project, model)
    assert two
    for devices in (1, 3):
        for stage in ("sample", "evaluate"):
            with_devices(project, devices, f"stages.{stage}", model)
        assert results(project, model) == two
    assert harness.temporaries(project.folder) == []
    (timing,) = (project.folder / "work/timings").glob(f"train-{model}-*")
    assert json.loads(timing.read_text())["device"] == "2 x cpu"


def launched(clone, *command):
    """Who started the ranks, these, and the file of errors, once a checkpoint is there."""
    environment = {**os.environ, "PYTHONPATH": str(clone.folder)}
    errors = clone.folder / "errors.txt"
    with errors.open("w") as stream:
        parent = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=clone.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
    end = time.monotonic() + SECONDS
    while not list((clone.folder / "work").glob("*.ckpt")):
        assert time.monotonic() < end and parent.poll() is None, errors.read_text()
        time.sleep(0.1)
    every = psutil.Process(parent.pid).children(recursive=True)
    return parent, sorted(every, key=lambda each: int(each.environ()["RANK"])), errors


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_the_next_run_goes_on(long, killed):
    before = results(long, "vae")
    parent, every, errors = launched(long, "stages.train", "vae")
    every[killed].kill()
    assert parent.wait(20) == 1
    told = [line for line in errors.read_text().splitlines() if not line.startswith("train vae:")]
    assert len(told) == 1, told
    assert told[0].startswith(f"error: train@vae: rank {killed} of 2 was killed by SIGKILL")
    assert not [each for each in every if each.is_running() and each.status() != "zombie"]
    assert results(long, "vae") == before
    (checkpoint,) = (long.folder / "work").glob("*.ckpt")
    step = written(checkpoint)
    parent, every, errors = launched(long, "stages.train", "vae")
    while written(checkpoint) == step:
        time.sleep(0.1)
    assert written(checkpoint) > step
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) == 130
    told = [line for line in errors.read_text().splitlines() if not line.startswith("train vae:")]
    assert told == ["stopped"]
    assert not [each for each in every if each.is_running() and each.status() != "zombie"]


def written(checkpoint: Path) -> int:
    """The step of a checkpoint."""
    from pipeline.core import tensors
    from pipeline.training import checkpoints

    state, _ = tensors.load(checkpoint, "")
    return json.loads(bytes(state[checkpoints.SCALARS].tolist()))["step"]


def test_torchrun_starts_the_ranks_as_well(project):
    project.run("stages.train", "vae")
    expected = results(project, "vae")
    done = torchrun(project, 2)
    assert done.returncode == 0, done.stderr
    assert results(project, "vae") == expected


def test_torchrun_with_another_number_is_refused(project):
    done = torchrun(project, 3)
    assert done.returncode != 0
    assert (
        "error: params.yaml: runtime.devices = 2: 3 processes were started; make it 3, or start 2"
        in done.stderr
    )


def torchrun(clone, number):
    command = ["torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    return subprocess.run(
        [sys.executable, "-m", *command, "-m", "stages.train", "vae"],
        cwd=clone.folder,
        env={**os.environ, "PYTHONPATH": str(clone.folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
