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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import psutil
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline import check, locked
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError

DVC = (sys.executable, "-m", "dvc")
DATA_STAGES = ("download", "preprocess", "domains")
DATA_STAGE = {"processed": "preprocess", "domains": "domains"}
"""The stage that makes what a model is trained on (its key ``data``)."""
JUDGE_STAGES = ("judge", "reference")
"""Needed by `evaluate` alone, so they run beside the trainings."""
LAST_STAGES = ("report", "track")
"""They run each time, since they show what dvc.lock says, on which no stage can depend."""
ENDING_SECONDS = 30
"""The longest wait for what was asked to end: where nobody reaps the dead, they stay listed."""
UNCHANGED = re.compile(r"^Stage '([^']+)' didn't change, skipping")
MENTIONED = re.compile(r"[Ss]tage '([^']+)'")


def reproduce(
    jobs: int | None, models: Sequence[str] | None, *, force: bool, compare: bool = True
) -> None:
    """Bring everything up to date, or only ``models`` and what compares them.

    A model that fails does not hide the others: its stale metrics are removed, and the comparison
    runs and marks it as failed.

    Args:
        jobs: models at a time; None for the number of cores, or of GPUs where they are used.
        models: names, or None for all.
        force: run also what did not change, past DVC's run-cache.
        compare: do what shows the results side by side, too.

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
            _reproduce(jobs, chosen, force, compare)
    except Timeout:
        raise PipelineError("make repro is already running in this folder; wait for it") from None


def _reproduce(jobs: int | None, models: list[str], force: bool, compare: bool) -> None:
    stale = None if force else stale_stages()
    if stale is None or stale & {*DATA_STAGES}:
        blocks = params.model_blocks(params.read())
        wanted = {DATA_STAGE[blocks[name]["data"]] for name in models} | {"preprocess"}
        _dvc("repro", *_flags(force), *sorted(wanted, key=DATA_STAGES.index))
    judging = stale is None or bool(stale & {*DATA_STAGES, *JUDGE_STAGES})
    waiting = [
        name
        for name in models
        if judging or any(f"{stage}@{name}" in stale for stage in locked.MODEL_STAGES)
    ]
    failed = _run_models(waiting, jobs, force, judging=judging) if waiting else []
    for name in failed:
        # What is left is of another version of this model, and would pass for its result.
        paths.model_metrics(name).unlink(missing_ok=True)
        paths.curve(name).unlink(missing_ok=True)
    try:
        if compare and (waiting or stale is None or "compare" in stale):
            _dvc("repro", "--single-item", *_flags(force), "compare")
        elif compare:
            print("Nothing changed: all models and their comparison are up to date.")
        if compare:
            _dvc("repro", "--single-item", *LAST_STAGES)
    finally:
        tidy_lock()
    if failed:
        raise PipelineError(f"failed: {', '.join(failed)}; the reasons are above")


def make_judges() -> None:
    """Bring the judges and the reference rows up to date, and the data that they need.

    Raises:
        PipelineError: if a stage failed.
    """
    _dvc("repro", "--quiet", JUDGE_STAGES[-1])


def stale_stages() -> set[str] | None:
    """Stages that a plain `dvc repro` would run or restore from the cache, but for the last ones.

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
    return stale - {*LAST_STAGES}


def default_jobs() -> tuple[int, int]:
    """How many models at a time, and how many GPUs they share (0 for none)."""
    if params.section(params.read(), "runtime").device != "cpu":
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            return gpus, gpus
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), 0


def _run_models(models: list[str], jobs: int | None, force: bool, *, judging: bool) -> list[str]:
    """Run the chains of ``models`` side by side, and the judges' first if ``judging``.

    Returns the models that failed.

    Raises:
        PipelineError: if the judges failed, without which there is nothing to compare.
    """
    default, gpus = default_jobs()
    jobs = min(jobs or default, len(models) + judging)
    runner = _Runner(jobs, gpus, force)
    judges: Future[bool] | None = None

    def chain(model: str) -> bool:
        train, sample, evaluate = (f"{stage}@{model}" for stage in locked.MODEL_STAGES)
        if judges is None:
            return runner.run(model, train, sample, evaluate)
        return runner.run(model, train, sample) and judges.result() and runner.run(model, evaluate)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            if judging:
                judges = pool.submit(runner.run, "judge", *JUDGE_STAGES)
            succeeded = list(pool.map(chain, models))
        except BaseException:
            runner.stop()
            raise
    if judges is not None and not judges.result():
        raise PipelineError(f"failed: {' or '.join(JUDGE_STAGES)}; the reasons are above")
    return [model for model, good in zip(models, succeeded, strict=True) if not good]


class _Runner:
    """Runs DVC for one chain of stages at a time in each of ``jobs`` slots."""

    def __init__(self, jobs: int, gpus: int, force: bool) -> None:
        self.gpus, self.force, self.prefixed = gpus, force, jobs > 1
        self.slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(jobs):
            self.slots.put(slot)
        self.children: set[subprocess.Popen] = set()
        self.stopping = threading.Event()

    def run(self, label: str, *targets: str) -> bool:
        """Reproduce these stages in turn, each alone; whether all succeeded."""
        slot = self.slots.get()
        try:
            if self.stopping.is_set():
                return False
            environment = dict(os.environ)
            if self.gpus > 1:
                environment["CUDA_VISIBLE_DEVICES"] = str(slot % self.gpus)
            return self._wait(label, self._start(targets, environment))
        finally:
            self.slots.put(slot)

    def stop(self) -> None:
        """End what runs."""
        self.stopping.set()
        _end(*self.children)

    def _start(self, targets: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
        return subprocess.Popen(
            [*DVC, "--wait-for-lock", "repro", "--single-item", *_flags(self.force), *targets],
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.prefixed else None,
            stderr=subprocess.STDOUT if self.prefixed else None,
            text=True,
            errors="replace",
        )

    def _wait(self, label: str, child: subprocess.Popen) -> bool:
        self.children.add(child)
        try:
            for line in child.stdout or ():
                if line.strip():
                    print(f"[{label}] {line.rstrip()}", flush=True)
            return child.wait() == 0
        finally:
            self.children.discard(child)


def _flags(force: bool) -> list[str]:
    return ["--force"] if force else []


def to_its_end(command: Sequence[str], **options: Any) -> int:
    """Run a command and return its exit code; if this process is interrupted, end it first.

    It has a session of its own, so that it is told once, together with what it has started.
    """
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, **options)
    try:
        return child.wait()
    except BaseException:
        _end(child)
        child.wait()
        raise


def _end(*children: subprocess.Popen) -> None:
    """End processes that have a session of their own, with what they have started.

    DVC does not take its child along, so the whole group is told. It may also end before its
    child, which still writes to the same files, so all are waited for.
    """
    started = []
    for child in children:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it ended by itself just now
            started += psutil.Process(child.pid).children(recursive=True)
            os.killpg(child.pid, signal.SIGTERM)
    psutil.wait_procs(started, timeout=ENDING_SECONDS)


def _dvc(*arguments: str) -> None:
    if to_its_end([*DVC, "--wait-for-lock", *arguments]) != 0:
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
