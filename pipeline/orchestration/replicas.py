"""The pipeline with other seeds: the same stages in a copy of the project, one DVC cache.

A copy, since params.yaml holds one seed, and what a person works on must not change under them.
DVC's run-cache is shared, so whatever was once trained with a seed is never trained again with it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.orchestration import dvc_workers, repro

COPIED = (paths.CODE, Path("stages"), paths.DVC_YAML, Path(".dvcignore"))
LEFT = shutil.ignore_patterns("__pycache__", ".*")
"""What is not copied of these folders."""


@contextmanager
def alone() -> Iterator[str]:
    """Let in one command at a time that makes copies; gives the `state` that all are of.

    Raises:
        PipelineError: if another one runs in this folder.
    """
    paths.LOCKS.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.LOCKS / "replicas.lock", timeout=0):
            yield state()
    except Timeout:
        raise PipelineError(
            "make thorough or make baseline is already running in this folder; wait for it"
        ) from None


def state() -> str:
    """Hash of params.yaml, the graph and the code."""
    sources = {str(path): files.sha256(path, ".py") for path in COPIED if path.exists()}
    return files.sha256_of({"params": params.read(), "sources": sources})


def confirm(before: str) -> None:
    """See to it that what is reported together was made by one state of the project.

    Raises:
        PipelineError: if the state is not what it was ``before``.
    """
    if state() != before:
        raise PipelineError(
            f"{paths.PARAMS}, {paths.DVC_YAML}, {paths.CODE}/ or stages/ changed since this began; "
            "start it again: what was trained is kept"
        )


def training_seeds(raw: dict[str, Any], trainings: int) -> list[tuple[int, int]]:
    """(train.seed, sample.seed) of so many trainings, of which the first is the default run's.

    Each has samples of its own. Whoever counts like this shares what was trained before.
    """
    start = params.section(raw, "train").seed, params.section(raw, "sample").seed
    return [(start[0] + k, start[1] + k) for k in range(trainings)]


def trainings(seeds: int, jobs: int | None) -> list[dict[str, dict[str, Any]]]:
    """The metrics of all models by name, of so many trainings, each of which is paid for once.

    The first is the default run, which is brought up to date; the runs are those of
    `pipeline.orchestration.thorough`.

    Raises:
        PipelineError: if it runs already, a stage failed, or the project changed meanwhile.
    """
    raw = params.read()
    with alone() as state:
        repro.reproduce(jobs, None, force=False)
        runs = [
            {name: files.read_json(paths.model_metrics(name)) for name in params.model_blocks(raw)}
        ]
        for place, chosen in enumerate(training_seeds(raw, seeds)[1:], start=2):
            print(f"baseline: training {place} of {seeds}", flush=True)
            runs.append(measure(*chosen, jobs, state))
        confirm(state)
    return runs


def measure(
    train_seed: int, sample_seed: int, jobs: int | None, before: str
) -> dict[str, dict[str, Any]]:
    """The metrics of all models, trained and sampled with these seeds, by name.

    An interrupted copy is kept and goes on where it was; a finished one is removed.

    Args:
        train_seed: of all trainings.
        sample_seed: of all samples.
        jobs: models at a time, as of `pipeline.orchestration.repro.reproduce`.
        before: the `state` that the copy must be of.

    Raises:
        PipelineError: if a stage failed, or the project's state is another one.
    """
    folder = paths.replica(train_seed, sample_seed)
    raw = params.read()
    raw["train"]["seed"], raw["sample"]["seed"] = train_seed, sample_seed
    _copy(folder, raw)
    confirm(before)
    command = [sys.executable, "-m", "pipeline", "repro", "--no-compare"]
    if jobs:
        command += ["--jobs", str(jobs)]
    # The project's own folder may be on PYTHONPATH; the copy must come first.
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    if dvc_workers.to_its_end(command, cwd=folder, env=environment) != 0:
        raise PipelineError(f"{folder}: failed; the reason is above")
    found = {
        name: files.read_json(folder / paths.model_metrics(name))
        for name in params.model_blocks(raw)
    }
    shutil.rmtree(folder)
    return found


def _copy(folder: Path, raw: dict[str, Any]) -> None:
    """Put the code, the graph and these parameters into a folder, and the cache within reach."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in COPIED:
        if source.is_dir():
            shutil.rmtree(folder / source, ignore_errors=True)
            shutil.copytree(source, folder / source, ignore=LEFT)
        elif source.exists():
            shutil.copy(source, folder / source)
    if paths.DVC_LOCK.exists() and not (folder / paths.DVC_LOCK).exists():
        shutil.copy(paths.DVC_LOCK, folder / paths.DVC_LOCK)
    for named in (raw["data"]["folder"], raw["evaluate"]["inception"]["weights"]):
        _link(Path(named), folder)
    yaml = YAML(typ="safe")
    yaml.sort_base_mapping_type_on_output = False  # models start in the order of the file
    with files.replacing(folder / paths.PARAMS) as temporary:
        yaml.dump(raw, temporary)
    (folder / ".dvc").mkdir(exist_ok=True)
    # The copy lies where git does not look, which DVC would refuse.
    lines = ["[core]", "no_scm = true", "analytics = false", "check_update = false", "[cache]"]
    lines += [f"dir = {_cache()}"]
    files.write_text(folder / ".dvc" / "config", "\n".join(lines) + "\n")


def _link(named: Path, folder: Path) -> None:
    """Let a path that params.yaml names from this folder lead to the same from another folder."""
    link = folder / named
    if not named.name or named.is_absolute() or named.parts[0] == "~" or link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(named.resolve())


def _cache() -> Path:
    """Where DVC keeps what it caches.

    Raises:
        PipelineError: if it does not say.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PipelineError(f"dvc cache dir failed: {done.stderr.strip()}")
    return Path(done.stdout.strip()).resolve()
