"""On a cluster comes out what comes out here, also when a part of it is lost meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import clusters
import psutil
import pytest
from clone import Clone
from remotes import Directory, buckets, web

from pipeline.core import params
from pipeline.core.errors import PipelineError
from pipeline.orchestration import cluster

MODELS = ("vae", "gan")
NEEDS = "pip install -c constraints.txt -e '.[cluster]'"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Settings of this module alone; what DVC knows of other tests' remotes is not here."""
    pytest.importorskip("distributed", reason=NEEDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        patch.delenv("PYTHONPATH", raising=False)
        yield patch


@pytest.fixture(scope="module")
def serial(tmp_path_factory, environment):
    """A clone in which DVC ran all stages by itself, one after the other."""
    clone = Clone(tmp_path_factory.mktemp("serial"), MODELS)
    clone.run("pipeline.orchestration.dvc_process", "repro")
    return clone


@pytest.fixture
def dask(environment, tmp_path):
    (tmp_path / "dask").mkdir()
    with clusters.dask(tmp_path / "dask") as found:
        yield found


def head(folder, remote=None, models=MODELS):
    """A clone that nothing was run in, with what git holds of it committed."""
    folder.mkdir()
    clone = Clone(folder, models)
    if remote is not None:
        clone.run("dvc", "remote", "add", "--default", "store", remote.url)
        for key, value in remote.settings.items():
            clone.run("dvc", "remote", "modify", "store", key, value)
    clone.commit()
    return clone


def cloned(clone, folder):
    subprocess.run(["git", "clone", "--quiet", str(clone.folder), str(folder)], check=True)
    return folder


def repro(clone, dask, *arguments, **options):
    return clone.run("pipeline", "repro", "--scheduler", dask.address, *arguments, **options)


def start(clone, dask):
    """The run of a clone, as a process that can be stopped."""
    command = [sys.executable, "-m", "pipeline", "repro", "--scheduler", dask.address]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        command,
        cwd=clone.folder,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What is started in the background of a shell may be told to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stages(lock):
    """What dvc.lock says of models and judges."""
    judging = ("judge", "reference")
    return {name: each for name, each in lock.items() if "@" in name or name in judging}


def slowed(clone, seconds):
    """Have the training of the first model take longer."""
    clone.replace(
        "stages/train.py",
        '    with stage.guard("train", model) as guard:\n',
        f'    with stage.guard("train", model) as guard:\n        time.sleep({seconds})\n',
    )


def trains(clone):
    """Whether a training has begun, as the head has heard."""
    logs = (clone.folder / "work/logs").glob("*.log")
    return any("Running stage 'train@" in each.read_text() for each in logs)


def dvc_in(folder):
    """Processes of DVC, and stages, in the clones that a worker made in a folder."""
    return [each for each in clusters.working(folder / "work") if "dvc_process" in each]


def test_in_a_shared_folder_the_result_is_that_of_dvc_alone(serial, dask, tmp_path):
    clone = head(tmp_path / "head")
    dask.worker(clone.folder, "--resources", "GPU=1")
    without = dask.worker(clone.folder)
    done = repro(clone, dask)
    assert stages(clone.lock()) == stages(serial.lock())
    assert "warning: machines" not in done.stderr
    assert ran(dask, without) is False, "`auto` means GPUs, where some have one"
    assert "Nothing changed" in repro(clone, dask).stdout
    assert not list((clone.folder / "work/cluster").iterdir())


def ran(dask, worker):
    """Whether a worker was given a stage."""
    from distributed import Client

    with Client(dask.address) as client:
        known = client.run(lambda dask_worker: "generative-families" in dask_worker.extensions)
        pids = client.run(lambda dask_worker: __import__("os").getpid())
    return {pids[name]: found for name, found in known.items()}[worker.pid]


@pytest.fixture
def remote(request, tmp_path, environment):
    if request.param == "folder":
        yield Directory(tmp_path / "store")
    elif request.param == "S3":
        with buckets(environment) as found:
            yield found
    else:
        (tmp_path / "store").mkdir()
        with web(tmp_path / "store") as found:
            yield found


@pytest.mark.parametrize("remote", ["folder", "S3"], indirect=True)
def test_two_clones_and_one_worker_killed_give_the_same(serial, dask, remote, tmp_path):
    clone = head(tmp_path / "head", remote)
    first, second = (cloned(clone, tmp_path / name) for name in ("first", "second"))
    lost = dask.worker(first)
    running = start(clone, dask)
    clusters.until(lambda: trains(clone), 120)
    lost.send_signal(signal.SIGKILL)
    clusters.until(lambda: not dvc_in(first))  # or it would write beside the next one
    dask.worker(second)
    told, errors = running.communicate(timeout=900)
    assert running.returncode == 0, errors
    assert stages(clone.lock()) == stages(serial.lock())
    assert len(list((second / "work/cluster/0/data/models").iterdir())) == len(MODELS)
    # dvc.lock is what is here: DVC would run nothing.
    assert not {name for name in clone.stale() if "@" in name}, told


@pytest.mark.parametrize("remote", ["web"], indirect=True)
def test_a_worker_that_is_killed_while_it_pushes_is_replaced(serial, dask, remote, tmp_path):
    clone = head(tmp_path / "head", remote, MODELS[:1])
    first, second = (cloned(clone, tmp_path / name) for name in ("first", "second"))
    lost = dask.worker(first)
    running = start(clone, dask)
    clusters.until(lambda: trains(clone), 120)
    remote.slow.set()
    remote.taking.clear()
    assert remote.taking.wait(120), "nothing was pushed"
    lost.send_signal(signal.SIGKILL)
    clusters.until(lambda: not dvc_in(first))
    remote.slow.clear()
    dask.worker(second)
    _, errors = running.communicate(timeout=900)
    assert running.returncode == 0, errors
    expected = {name: each for name, each in stages(serial.lock()).items() if "@gan" not in name}
    assert stages(clone.lock()) == expected


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_the_head_ends_nothing_is_left_on_workers(dask, tmp_path, how):
    clone = head(tmp_path / "head", models=MODELS[:1])
    slowed(clone, 300)
    worker = dask.worker(clone.folder)
    running = start(clone, dask)

    def stage():
        found = [clusters.command(each) for each in psutil.Process(worker.pid).children(True)]
        return [each for each in found if "dvc_process" in each]

    clusters.until(lambda: trains(clone), 120)  # for minutes, so that it ends by itself no sooner
    assert stage()
    running.send_signal(how)
    _, errors = running.communicate(timeout=300)
    clusters.until(lambda: not stage())
    if how == signal.SIGINT:
        assert running.returncode == 130
        assert errors.strip().splitlines()[-1] == "stopped"
        assert "Traceback" not in errors


def refused(done):
    assert done.returncode == 1, done.stdout
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("error: "))
    return line


def test_what_a_clone_would_not_have_is_refused(dask, tmp_path):
    clone = head(tmp_path / "head", models=MODELS[:1])
    dask.worker(cloned(clone, tmp_path / "first"))
    assert "there is no default remote" in refused(repro(clone, dask, check=False))
    remote = Directory(tmp_path / "store")
    clone.run("dvc", "remote", "add", "--default", "store", remote.url)
    line = refused(repro(clone, dask, check=False))
    assert line.startswith("error: .dvc/config: not committed, and 1 of 1 workers")
    clone.commit()
    (clone.folder / "pipeline/families/new.py").write_text('"""New."""\n')
    assert "pipeline/families/new.py: not committed" in refused(repro(clone, dask, check=False))
    clone.commit()
    # The worker's own checkout lacks both commits, and fetches them.
    assert repro(clone, dask, "--no-compare").returncode == 0
    shutil.rmtree(clone.folder / "data/models/vae")
    told = repro(clone, dask, "--no-compare").stdout
    assert "training vae: done" not in told, "the head remembers it"
    assert (clone.folder / "data/models/vae/weights.safetensors").exists(), told


def test_a_commit_that_nobody_can_fetch_is_named(dask, tmp_path):
    clone = head(tmp_path / "head", Directory(tmp_path / "store"), MODELS[:1])
    first = cloned(clone, tmp_path / "first")
    subprocess.run(["git", "remote", "remove", "origin"], cwd=first, check=True)
    clone.replace("README.md", "#", "# ")
    clone.commit()
    dask.worker(first)
    done = repro(clone, dask, check=False)
    assert done.returncode == 1
    assert f"{first}: has no commit " in done.stderr


def test_without_a_scheduler_one_line_says_so(environment, tmp_path, monkeypatch):
    clone = head(tmp_path / "head", models=MODELS[:1])
    line = refused(clone.run("pipeline", "repro", "--scheduler", "tcp://127.0.0.1:9", check=False))
    assert "--scheduler tcp://127.0.0.1:9: no scheduler answers there" in line
    line = refused(clone.run("pipeline", "repro", "--scheduler", "nonsense://x", check=False))
    assert "nonsense://x" in line


def test_missing_dask_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PipelineError, match=r"pip install -c constraints.txt -e '\.\[cluster\]'"):
        cluster._connect("tcp://127.0.0.1:9")


def facts(host, instructions="AVX512", **versions):
    here = {"python": "3.11.7", "torch": "2.11.0", **versions}
    return {"host": host, "device": "cpu", "instructions": instructions, "versions": here}


def test_machines_that_differ_are_told(monkeypatch):
    made = object.__new__(cluster.Cluster)
    monkeypatch.setattr(cluster.cluster_task, "facts", lambda: facts("here"))
    made._ran = {"train@vae": facts("a"), "train@gan": facts("b")}
    assert made.told() == []
    made._ran["sample@gan"] = facts("c", "AVX2")
    (line,) = made.told()
    assert "1 on cpu with AVX2 (c); 2 on cpu with AVX512 (a, b)" in line
    made._ran = {"train@vae": facts("a", torch="2.10.0"), "train@gan": {}}
    (line,) = made.told()
    assert line == "warning: a has torch 2.10.0 (here 2.11.0); install the same on all"


@pytest.mark.parametrize(
    ("device", "gpus", "asked"), [("auto", 0, 0), ("auto", 1, 1), ("cpu", 1, 0), ("cuda", 1, 1)]
)
def test_auto_means_gpus_if_some_worker_has_one(monkeypatch, device, gpus, asked):
    made = object.__new__(cluster.Cluster)
    made.address = "tcp://head"
    made._workers = {
        "a": {"threads": 4, "gpus": 0, "shares": True},
        "b": {"threads": 4, "gpus": gpus, "shares": True},
    }
    raw = {"runtime": {"device": device, "threads": 1, "models_per_gpu": 2, "devices": 1}}
    monkeypatch.setattr(params, "read", lambda: raw)
    made._resources = made._gpus()
    assert len(made._resources) == asked
    assert made.threads == (2 if asked else 8)
    raw["runtime"]["devices"] = 4
    assert made._gpus() == ({"GPU": 4} if asked else {})
    if not gpus:
        raw["runtime"]["device"] = "cuda"
        with pytest.raises(PipelineError, match="no worker of tcp://head says that it has a GPU"):
            made._gpus()
