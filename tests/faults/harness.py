"""What the fault-injection tests share: a small project, processes to kill, and what must hold."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import MODELS
from clone import ROOT, Clone
from filelock import FileLock
from ruamel.yaml import YAML


def _seed() -> int:
    if "FAULT_SEED" in os.environ:
        return int(os.environ["FAULT_SEED"])
    # One for all processes of a run, and another for each run.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()} {time.time_ns()}"
    return int(hashlib.sha256(run.encode()).hexdigest()[:8], 16)


SEED = _seed()
"""Names all that is random; the environment's FAULT_SEED, or another one each time."""
FAMILIES = [*{each["family"]: name for name, each in reversed(MODELS.items())}.values(), "wgan"]
"""The first model in params.yaml of each family, and a critic whose weights are clipped."""
TEMPORARY = re.compile(r"\.tmp|\.old$")
"""What has such a name should be gone when its process is."""


@dataclass
class Done:
    """How a process ended."""

    command: list[str]
    code: int | str
    out: str
    err: str

    def __str__(self) -> str:
        told = f"--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-6000:]}"
        return f"{' '.join(self.command)}: exit code {self.code}\n{told}"

    @property
    def errors(self) -> list[str]:
        """The lines that begin with ``error:``, without that."""
        lines = self.err.splitlines()
        return [each.removeprefix("error: ") for each in lines if each.startswith("error: ")]

    @property
    def warnings(self) -> list[str]:
        """As `errors`, for warnings."""
        lines = self.err.splitlines()
        return [each.removeprefix("warning: ") for each in lines if each.startswith("warning: ")]

    def succeeded(self) -> "Done":
        """Fail unless it ended well."""
        assert self.code == 0, self
        return self.calm()

    def calm(self) -> "Done":
        """Fail if it hung or showed a traceback."""
        assert self.code != "hung", self
        assert "Traceback" not in self.out + self.err, self
        return self

    def refused(self, *names: str) -> "Done":
        """Fail unless it ended with error lines alone, the first of which holds all ``names``."""
        self.calm()
        assert self.code not in (0, None) and not (isinstance(self.code, int) and self.code < 0), (
            self
        )
        assert 1 <= len(self.errors) <= 8, self
        assert all(len(each) < 1000 and each.isprintable() for each in self.errors), self
        for name in names:
            assert name in self.errors[0], f"no {name} in the first line of\n{self}"
        return self


class Server:
    """Runs stages and commands as processes; see `faults.server`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "100",
        }
        for name in ("FAULT_SEED", "MLFLOW_TRACKING_URI", "DATA_MIRROR", "GITHUB_STEP_SUMMARY"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py")],
            cwd=folder,  # no project: what is imported is the code under test
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def call(self, folder: Path, *command: str, **options: Any) -> Done:
        """Run a command in a folder, by the options that `faults.server` has."""
        call = {
            "folder": str(folder),
            "command": list(command),
            "stdout": str(self.folder / "stdout"),
            "stderr": str(self.folder / "stderr"),
            **options,
        }
        self._process.stdin.write(json.dumps(call) + "\n")
        code = json.loads(self._process.stdout.readline())
        out, err = (
            Path(call[name]).read_text(errors="replace") if Path(call[name]).exists() else ""
            for name in ("stdout", "stderr")
        )
        return Done(list(command), code, out, err)


def small(folder: Path, models: Iterable[str]) -> Clone:
    """The project with these models, each a few steps long, whose checkpoints come at each step."""
    folder.mkdir(parents=True)
    clone = Clone(folder, tuple(models))
    clone.params["judge"] |= {
        "seeds": [1],
        "classifier": {"steps": 6, "learning_rate": 0.01},
        "label_free": {"steps": 2, "learning_rate": 0.003},
    }
    clone.params["runtime"] |= {"device": "cpu", "threads": 1, "checkpoint_seconds": 1e-9}
    if "began" in clone.params["models"]:
        clone.params["models"]["began"]["training"]["alone"] = 32
    if "vqvae" in clone.params["models"]:
        # Two steps of four: a checkpoint within its part, one at its end, one within the prior's.
        clone.params["models"]["vqvae"]["training"]["autoencoder"] = 32
    clone.write_params()
    return clone


def finished(tmp_path_factory: pytest.TempPathFactory, worker: str) -> Path:
    """A small project after a run, with git and DVC; made once for all processes of the tests.

    Nobody may change it: `copied` gives a copy that may be.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if worker != "master" else base) / "finished"
    with FileLock(f"{shared}.lock"):
        if not (shared / "whole").exists():
            shutil.rmtree(shared, ignore_errors=True)
            clone = small(shared / "project", ("vae", "dcgan", "cyclegan"))
            (clone.folder / ".venv").mkdir()  # ignored, and owned by the tools
            clone.commit()
            clone.run("pipeline", "repro", "--jobs", "2")
            # In a process of its own: it sets what torch does with numbers near 0, and threads.
            child = multiprocessing.get_context("fork").Process(target=_add_committed, args=[clone])
            child.start()
            child.join()
            assert child.exitcode == 0
            clone.run("pipeline", "repro", "--jobs", "2")
            clone.commit()
            (shared / "whole").touch()
    return shared / "project"


def _add_committed(clone: Clone) -> None:
    """What people make and commit besides: error bars, a baseline, images of another generator.

    The figures are those of the run and small changes of them, since trainings take longer.
    """
    from pipeline.comparison import results, spread
    from pipeline.core import files, params, paths
    from pipeline.evaluation import external
    from pipeline.gate import baseline

    os.chdir(clone.folder)
    models, home = clone.params["models"], params.results(clone.params)
    found = {name: results.of_model(name, home.model_metrics(name)) for name in models}

    def moved(factor: float, metrics: dict[str, Any]) -> dict[str, Any]:
        known = [key for key in spread.SPREAD if metrics.get(key) is not None]
        return metrics | {key: factor * metrics[key] for key in known}

    for name, metrics in found.items():
        runs = {(0, 0): metrics, (1, 1): moved(1.001, metrics), (0, 1): moved(0.999, metrics)}
        result = {
            "model": name,
            "protocol": metrics["protocol"],
            "configuration": spread.configuration(clone.params, name),
            **spread.summary(runs, (0, 0)),
        }
        files.write_json(home.thorough_metrics(name), result)
    rules = list(clone.params["gate"]["metrics"])
    both = [found, {name: moved(1.001, metrics) for name, metrics in found.items()}]
    baseline.summarised(both, rules).write(home.baseline)
    external.evaluate(paths.samples_dir("dcgan") / "samples.npy", "mine")


def opened(folder: Path) -> Clone:
    """A project that is there."""
    clone = Clone.__new__(Clone)
    clone.folder = folder
    clone.params = YAML(typ="safe").load((folder / "params.yaml").read_text())
    return clone


def copied(project: Path, folder: Path) -> Clone:
    """A copy of a project that a test may change."""
    shutil.copytree(project, folder, symlinks=True)
    return opened(folder)


def tree(folder: Path, *, but: Iterable[str] = ()) -> dict[str, str]:
    """What is below a folder: kinds of entries and hashes of files, by relative path.

    Args:
        folder: where.
        but: relative paths that do not count, with what is below them.
    """
    found = {}
    skipped = tuple(but)
    for where, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(where, name)
            relative = path.relative_to(folder).as_posix()
            if any(relative == each or relative.startswith(f"{each}/") for each in skipped):
                if name in folders:
                    folders.remove(name)
                continue
            if path.is_symlink():
                found[relative] = f"link to {os.readlink(path)}"
            elif path.is_dir():
                found[relative] = "folder"
            elif path.is_file():
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[relative] = "special"
    return found


def hashes(*paths: Path) -> dict[str, str]:
    """Hashes of files and of the files in folders, by path; what is missing is not there."""
    found = {}
    for path in paths:
        if path.is_dir():
            found |= {f"{path}/{name}": value for name, value in tree(path).items()}
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


RESULTS = (
    "data",
    "dvc.lock",
    "metrics/mnist-5k/comparison.csv",
    "metrics/mnist-5k/comparison.md",
    "metrics/mnist-5k/curves",
    "metrics/mnist-5k/models",
    "metrics/mnist-5k/pictures",
    "metrics/mnist-5k/reference.json",
)
"""What two runs of the same project have in common."""


def differences(one: Path, other: Path, names: Iterable[str] = RESULTS) -> list[str]:
    """Results of two projects that are not the same, to the last bit."""
    found = []
    for name in names:
        first, second = (
            {path.removeprefix(str(each)): value for path, value in hashes(each / name).items()}
            for each in (one, other)
        )
        keys = sorted(first.keys() | second.keys())
        found += [key for key in keys if first.get(key) != second.get(key)]
    return found


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[str]:
    """What writers left that did not end well."""
    return [
        str(path.relative_to(folder))
        for where, folders, names in os.walk(folder)
        for path in (Path(where, name) for name in [*folders, *names])
        if TEMPORARY.search(path.name) and ".git" not in path.parts and ".dvc" not in path.parts
    ]


def git(folder: Path, *arguments: str) -> str:
    """What git says in a project."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes whose working directory is in a folder."""
    found = []
    for each in psutil.process_iter():
        try:
            if Path(each.cwd()).is_relative_to(folder) and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except (psutil.Error, OSError):
            continue
    return found


def assert_none_runs(folder: Path, seconds: float = 30) -> None:
    """Fail if processes in a folder do not end by themselves."""
    deadline = time.monotonic() + seconds
    while left := processes_in(folder):
        if time.monotonic() > deadline:
            told = [(each.pid, each.cmdline()) for each in left]
            for each in left:
                each.kill()
            raise AssertionError(f"still running in {folder}: {told}")
        time.sleep(0.05)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a folder, with what it holds, on a small disk of its own meanwhile.

    Skips the test where nothing can be mounted.
    """
    kept = folder.with_name(f"{folder.name}.kept")
    folder.mkdir(parents=True, exist_ok=True)
    folder.rename(kept)
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        folder.rmdir()
        kept.rename(folder)
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", folder], capture_output=True)
        empty(folder)
        shutil.rmtree(kept)
        shutil.copytree(folder, kept, symlinks=True)
        for _ in range(50):
            if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
        kept.rename(folder)


def fill(folder: Path, free: int) -> None:
    """Leave so many bytes on the disk of ``folder``."""
    ballast = folder / ".ballast"
    ballast.unlink(missing_ok=True)
    facts = os.statvfs(folder)
    size = facts.f_bavail * facts.f_frsize - free
    if size > 0:
        with ballast.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)


def empty(folder: Path) -> None:
    """Undo `fill`."""
    (folder / ".ballast").unlink(missing_ok=True)
