"""Run the whole graph with models side by side, through DVC itself.

DVC runs one stage at a time. Several `dvc repro` processes may share a repository if each waits
for its locks, so the models' chains run in as many processes as there are cores (or GPUs), one
compute thread each. The result is that of a plain `dvc repro`: the same files, the same dvc.lock.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline import check, files, params, paths
from pipeline.errors import PipelineError

DVC = (sys.executable, "-m", "dvc")
MODEL_STAGES = ("train", "sample", "evaluate")
LAST_SHARED = "reference"
"""Reproducing it reproduces everything that comes before the models."""
UNCHANGED = re.compile(r"^Stage '([^']+)' didn't change, skipping")
MENTIONED = re.compile(r"[Ss]tage '([^']+)'")


def reproduce(jobs: int | None, models: Sequence[str] | None, *, force: bool) -> None:
    """Bring everything up to date, or only ``models`` and what compares them.

    A model that fails does not hide the others: its stale metrics are removed, and the comparison
    runs and marks it as failed.

    Args:
        jobs: models at a time; None for the number of cores, or of GPUs where they are used.
        models: names, or None for all.
        force: run also what did not change, past DVC's run-cache.

    Raises:
        PipelineError: if params.yaml has a mistake, something runs already, or a stage failed.
    """
    check.check()
    every = list(params.model_blocks(params.read()))
    chosen = every if models is None else list(models)
    for name in chosen:
        if name not in every:
            raise PipelineError(f"MODELS: {params.one_of('model', name, every)}")
    paths.LOCKS.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.LOCKS / "repro.lock", timeout=0):
            _reproduce(jobs, chosen, force)
    except Timeout:
        raise PipelineError("make repro is already running in this folder; wait for it") from None


def _reproduce(jobs: int | None, models: list[str], force: bool) -> None:
    stale = None if force else stale_stages()
    if stale is None or stale & {"download", "preprocess", "judge", LAST_SHARED}:
        _dvc("repro", *(["--force"] if force else []), LAST_SHARED)
        stale = None if force else stale_stages()
    waiting = [
        name
        for name in models
        if stale is None or any(f"{stage}@{name}" in stale for stage in MODEL_STAGES)
    ]
    failed = _run_models(waiting, jobs, force) if waiting else []
    for name in failed:
        # What is left is of another version of this model, and would pass for its result.
        paths.model_metrics(name).unlink(missing_ok=True)
        paths.curve(name).unlink(missing_ok=True)
    try:
        if waiting or stale is None or "compare" in stale:
            _dvc("repro", "--single-item", *(["--force"] if force else []), "compare")
        else:
            print("Nothing changed: all models and their comparison are up to date.")
        _dvc("repro", "--single-item", "track")
    finally:
        tidy_lock()
    if failed:
        raise PipelineError(f"failed: {', '.join(failed)}; the reasons are above")


def stale_stages() -> set[str] | None:
    """Stages that a plain `dvc repro` would run or restore from the cache, but for `track`.

    None if DVC cannot tell, as when results are missing that a stage would need.
    """
    done = subprocess.run([*DVC, "repro", "--dry"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    stale = set()
    for line in done.stdout.splitlines():
        found = MENTIONED.search(line)
        if found and not UNCHANGED.match(line):
            stale.add(found.group(1))
    return stale - {"track"}


def default_jobs() -> tuple[int, int]:
    """How many models at a time, and how many GPUs they share (0 for none)."""
    if params.section(params.read(), "runtime").device != "cpu":
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            return gpus, gpus
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), 0


def _run_models(models: list[str], jobs: int | None, force: bool) -> list[str]:
    """Run the chains of ``models`` side by side and return those that failed."""
    default, gpus = default_jobs()
    jobs = min(jobs or default, len(models))
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    children: set[subprocess.Popen] = set()
    stopping = threading.Event()

    def chain(model: str) -> bool:
        slot = slots.get()
        try:
            if stopping.is_set():
                return False
            environment = dict(os.environ)
            if gpus > 1:
                environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
            return _run_chain(model, force, environment, children, prefixed=jobs > 1)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            succeeded = list(pool.map(chain, models))
        except BaseException:
            # DVC does not take its child along when it is killed: end the whole group.
            stopping.set()
            for child in list(children):
                os.killpg(child.pid, signal.SIGTERM)
            raise
    return [model for model, good in zip(models, succeeded, strict=True) if not good]


def _run_chain(
    model: str, force: bool, environment: dict[str, str], children: set, *, prefixed: bool
) -> bool:
    targets = [f"{stage}@{model}" for stage in MODEL_STAGES]
    command = [*DVC, "--wait-for-lock", "repro", "--single-item"]
    command += [*(["--force"] if force else []), *targets]
    child = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if prefixed else None,
        stderr=subprocess.STDOUT if prefixed else None,
        text=True,
        errors="replace",
    )
    children.add(child)
    try:
        for line in child.stdout or ():
            if line.strip():
                print(f"[{model}] {line.rstrip()}", flush=True)
        return child.wait() == 0
    finally:
        children.discard(child)


def _dvc(*arguments: str) -> None:
    if subprocess.run([*DVC, "--wait-for-lock", *arguments], check=False).returncode != 0:
        raise PipelineError(f"dvc {' '.join(arguments)} failed; the reason is above")


def tidy_lock() -> None:
    """Drop the entries of models that are gone from dvc.lock, and sort the rest.

    Processes that run side by side append in the order in which they finish.
    """
    if not paths.DVC_LOCK.exists():
        return
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    lock = yaml.load(paths.DVC_LOCK.read_text(encoding="utf-8"))
    models = params.model_blocks(params.read())
    stages = lock.get("stages", {})
    kept = {
        name: stages[name]
        for name in sorted(stages)
        if "@" not in name or name.split("@", 1)[1] in models
    }
    if list(kept) != list(stages):
        with files.replacing(paths.DVC_LOCK) as temporary, temporary.open("w") as stream:
            yaml.dump({**lock, "stages": kept}, stream)
