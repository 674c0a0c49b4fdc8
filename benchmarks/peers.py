"""Quality after so many seconds, of our models and of what people would otherwise use.

Everybody is trained on the images of the last run, in a process of one thread, two of them side by
side in an order that is another for each seed; imports, reading and drawing do not count. All draw
as many samples, which are judged as `python -m pipeline evaluate-images` judges any. What is
measured already, by the same code on the same machine, is taken from work/peers/.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders, peers_page, results
from benchmarks.contenders import timing
from pipeline.core import files, params, paths, seeds
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store
from pipeline.evaluation import external

SEEDS = (0, 1, 2)
SECONDS = (30.0, 60.0, 120.0)
SAMPLES = 200
SIDE_BY_SIDE = 2
FOLDER = paths.WORK / "peers"
INSTALL = "python -m pip install -c constraints.txt -e '.[bench]'"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
HERE = Path(__file__).parent
POLL = 0.1
"""Seconds between two looks at processes that run."""


@dataclass(frozen=True)
class Task:
    """One contender with one seed, which a process of its own trains."""

    contender: str
    seed: int
    seconds: Sequence[float]
    samples: int
    code: str

    @property
    def record(self) -> Path:
        """Where the facts of its trainings are, once it is done."""
        return FOLDER / f"{self.contender}-{self.seed}-{files.sha256_of(asdict(self))[:16]}.json"

    def drawn(self, place: int) -> Path:
        """Where the samples of one of them are."""
        return self.record.with_suffix(f".{place}.npy")


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    known = list(contenders.KNOWN)
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", default=known, help=", ".join(known)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of trainings")
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS, help="of trainings")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="that each draws")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def run(given: argparse.Namespace) -> None:
    """Measure, write the rows and draw them; ``--one`` is what the processes are started with."""
    if given.one:
        with results.quiet():
            _do(Task(**json.loads(given.one)))
        return
    chosen = _chosen(given.contenders)
    _check_numbers(given)
    judging = external.Judging(params.read(), given.samples)
    tasks = []
    for seed in dict.fromkeys(given.seeds):
        of_seed = [
            Task(each.name, seed, sorted(set(given.seconds)), given.samples, _code(each))
            for each in chosen
        ]
        random.Random(seed).shuffle(of_seed)
        tasks += of_seed
    _do_all(tasks)
    rows = [row for task in tasks for row in _judged(task, judging)]
    found = {
        "dataset": judging.store.name,
        "n_samples": judging.n,
        "packages": {each.package: each.version for each in chosen if each.package},
        "real": _judged_real(judging),
        "rows": sorted(rows, key=lambda row: (names_order(row), row["seed"], row["seconds"])),
    }
    results.write("peers", found)
    peers_page.draw(found)


def names_order(row: dict[str, Any]) -> int:
    """The place of a row's contender among all."""
    return list(contenders.KNOWN).index(row["contender"])


def _chosen(names: Sequence[str]) -> list[contenders.Contender]:
    """The contenders of these names.

    Raises:
        PipelineError: if one is unknown, or its package is not installed.
    """
    known = contenders.KNOWN
    for name in names:
        if name not in known:
            raise PipelineError(f"--contenders: {params.one_of('contender', name, known)}")
    chosen = [known[name] for name in dict.fromkeys(names)]
    missing = [each for each in chosen if each.missing]
    if missing:
        told = ", ".join(f"{each.name} ({each.package})" for each in missing)
        raise PipelineError(f"--contenders: not installed: {told}; install them by `{INSTALL}`")
    return chosen


def _check_numbers(given: argparse.Namespace) -> None:
    least = params.LEAST_SAMPLES
    if given.samples < least:
        raise PipelineError(f"--samples {given.samples}: metrics need {least} at the least")
    if not all(0 < each < float("inf") for each in given.seconds):
        raise PipelineError("--seconds: must be above 0")
    if min(given.seeds) < 0:
        raise PipelineError("--seeds: must be 0 or above")


def _code(contender: contenders.Contender) -> str:
    """16 hex digits of all that its numbers depend on beside what a `Task` says."""
    folder = HERE / "contenders"
    code = [folder / f"{name}.py" for name in ("__init__", "timing", "loops", contender.module)]
    facts: list[Any] = [contender.version, Store().sha256, results.machine()]
    if contender.ours:
        entry = params.entry(params.read(), contender.name)
        code += [paths.CODE / room for room in ("core", "blocks", "models", "training", "sampling")]
        code.append(paths.CODE / "families" / f"{entry['family']}.py")
        facts.append(entry)
    return files.sha256_of([facts, [files.sha256(path, ".py") for path in code]])[:16]


def _do(task: Task) -> None:
    """Train and draw, in this process."""
    images = np.array(Store().split("train").images)
    found = timing.measure(
        contenders.KNOWN[task.contender], images, task.seed, task.seconds, task.samples
    )
    with files.together() as made:
        for place, (_, drawn) in enumerate(found):
            np.save(made.file(task.drawn(place)), drawn)
        made.file(task.record).write_text(files.as_json([facts for facts, _ in found]))


def _do_all(tasks: Sequence[Task]) -> None:
    """Have processes do what is not done yet, `SIDE_BY_SIDE` at a time.

    Raises:
        PipelineError: if one fails.
    """
    left = [task for task in tasks if not task.record.exists()]
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} trainings are there", flush=True)
    running: dict[subprocess.Popen, Task] = {}
    done, begun = len(tasks) - len(left), time.monotonic()
    try:
        while left or running:
            while left and len(running) < SIDE_BY_SIDE:
                task = left.pop(0)
                running[_start(task)] = task
            for process, task in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[process]
                if code or not task.record.exists():
                    raise PipelineError(
                        f"{task.contender}, seed {task.seed}: its process ended with exit code "
                        f"{code}; what is done is kept, and the same command goes on from there"
                    )
                done += 1
                minutes = (time.monotonic() - begun) / 60
                facts = files.read_json(task.record)[-1]
                del facts["parameters"], facts["network_evaluations"]
                print(
                    f"{done}/{len(tasks)} after {minutes:.1f} min: {results.line(facts)}",
                    flush=True,
                )
            time.sleep(POLL)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _start(task: Task) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks", "peers", "--one", json.dumps(asdict(task))]
    command += ["--results", str(FOLDER)]  # so that the page is not theirs to write
    return subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL)


def _judged(task: Task, judging: external.Judging) -> list[dict[str, Any]]:
    rows = files.read_json(task.record)
    return [{**row, **_quality(task.drawn(place), judging)} for place, row in enumerate(rows)]


def _judged_real(judging: external.Judging) -> dict[str, float | None]:
    """What as many training images have, which no generator can be expected to beat."""
    images = judging.store.split("train").images
    if len(images) < judging.n:
        raise PipelineError(f"--samples {judging.n}: there are {len(images)} training images")
    path = FOLDER / "real.npy"
    with files.replacing(path) as temporary:
        np.save(temporary, images[seeds.subset(len(images), judging.n, 0, "real images")])
    return _quality(path, judging)


def _quality(path: Path, judging: external.Judging) -> dict[str, float | None]:
    found = judging.of(path)
    return {key: found[key] for key in ("fid", "second_fid", "coverage")}
