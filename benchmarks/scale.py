"""Time and memory against the size of the data and the number of samples.

Trainings read maps of random images of 32x32x3 from the disk, up to more than the memory holds;
samples are judged by untrained judges, to which they cost as much. Each measurement has a process
of its own. Memory is what that process holds beside the data that it is given: pages of a mapped
file are the system's, which takes them back when it needs them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks import results
from pipeline.core import params, stage
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.mapped import Mapped
from pipeline.datasets import store as stores
from pipeline.evaluation import classifier, judge, quality
from pipeline.models import entries, weights
from pipeline.training.trainer import Trainer

IMAGES = (5_000, 60_000, 1_000_000, 10_000_000)
SAMPLES = (1_000, 10_000, 50_000)
MODELS = ("vae", "dcgan")
SPEC = ImageSpec(channels=3, height=32, width=32, classes=10)
STEPS, WARM = 300, 30
"""How many steps are timed, and how many come before."""
JUDGES, TRAINING = 3, 60_000
"""Judges that look, and training images among which originals are looked for."""


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--images", type=int, nargs="*", default=IMAGES, help="sizes of data sets")
    parser.add_argument("--samples", type=int, nargs="*", default=SAMPLES, help="samples judged")
    parser.add_argument(
        "--folder", type=Path, help="where the maps are written; 31 GB for the default"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def run(given: argparse.Namespace) -> None:
    """Measure, and write the rows; ``--one`` is what the processes are started with."""
    if given.one:
        task = json.loads(given.one)
        with results.quiet():
            found = PARTS[task.pop("part")](**task)
        print(json.dumps(found))
        return
    found: dict[str, list[dict[str, Any]]] = {"training": [], "judging": []}
    before: dict[str, Any] = {}
    with suppress(FileNotFoundError):
        before = results.read("scale")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for n in given.images:
            path = Path(folder) / "images.npy"
            _write(path, n)
            for model in MODELS:
                found["training"].append(
                    _alone("training", path=str(path), model=model, steps=given.steps)
                )
                print(results.line(found["training"][-1]), flush=True)
            path.unlink()
    for n in given.samples:
        found["judging"].append(_alone("judging", n=n))
        print(results.line(found["judging"][-1]), flush=True)
    # A part of which nothing was asked stays as it was.
    found = {part: rows or before.get(part, []) for part, rows in found.items()}
    results.write("scale", {"shape": list(SPEC.shape), "steps": given.steps, **found})


def training(path: str, model: str, steps: int) -> dict[str, Any]:
    """Seconds for each image seen, and memory, of a model trained on the map at ``path``."""
    raw = params.read()
    device = stage.prepare_torch(params.section(raw, "runtime"))
    images = np.load(path, mmap_mode="r")
    block = entries.read(raw, model)
    family = weights.build(block, SPEC, 0, device)
    labels = torch.zeros(len(images), dtype=torch.int64)
    before = _own()
    began = time.perf_counter()
    trainer = Trainer(family, Mapped(images), labels, seed=0, steps=10**9)
    trainer.run(stop_at=WARM)
    first = time.perf_counter() - began
    took = []
    for step in range(WARM, WARM + steps):
        began = time.perf_counter()
        trainer.run(stop_at=step + 1)
        took.append(time.perf_counter() - began)
    return {
        "images": len(images),
        "gigabytes": images.nbytes / 1e9,
        "model": model,
        "microseconds_per_image": 1e6 * float(np.mean(took)) / trainer.batch,
        "seconds_before": first,
        "memory_mb": (_own() - before) / 1e6,
    }


def judging(n: int) -> dict[str, Any]:
    """Seconds and memory for all that judges say of n samples against as many real images."""
    rng = np.random.default_rng(0)
    device = stage.prepare_torch(params.section(params.read(), "runtime"))
    section: params.Judge = params.section(params.read(), "judge")
    found = []
    for seed in range(JUDGES):
        torch.manual_seed(seed)
        net = classifier.Classifier(SPEC, section.features).eval()
        found.append(judge.Judge(net.to(memory_format=torch.channels_last), 1.0, device))
    judges = judge.Judges(found)

    def images(count: int) -> np.ndarray:
        return rng.integers(256, size=(count, *SPEC.shape), dtype=np.uint8)

    samples, asked = images(n), np.arange(n) % SPEC.classes
    with tempfile.TemporaryDirectory() as folder:
        splits = {
            name: stores.Split(images(count), np.arange(count) % SPEC.classes)
            for name, count in (("train", TRAINING), ("val", 10), ("test", n))
        }
        stores.write(Path(folder) / "data", "noise", [str(y) for y in range(SPEC.classes)], splits)
        del splits
        store = stores.Store(Path(folder) / "data")
        with _Peak() as peak:
            began = time.perf_counter()
            real = quality.real_images(store, judges, "test", n, 0)
            seen = time.perf_counter() - began
            quality.of_samples(judge.see(judges, samples), asked, real)
            seconds = time.perf_counter() - began
    return {
        "samples": n,
        "seconds": seconds,
        "seconds_for_real_images": seen,
        "memory_mb": peak.bytes / 1e6,
    }


PARTS = {"training": training, "judging": judging}


def _alone(part: str, **task: Any) -> dict[str, Any]:
    """What a process of its own says of a task.

    Raises:
        PipelineError: if it fails.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "scale",
        "--one",
        json.dumps({"part": part, **task}),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"{part} {task}: failed")
    return json.loads(done.stdout.splitlines()[-1])


def _write(path: Path, n: int) -> None:
    """A map of n images, of 20,000 random ones again and again.

    Raises:
        PipelineError: if there is no room for it.
    """
    needed = n * SPEC.dimensions
    there = psutil.disk_usage(str(path.parent)).free
    if needed > 0.9 * there:
        raise PipelineError(
            f"{path.parent}: {n:,} images take {needed / 1e9:.0f} GB, and {there / 1e9:.0f} are "
            "free; name another --folder, or fewer --images"
        )
    block = np.random.default_rng(0).integers(256, size=(20_000, *SPEC.shape), dtype=np.uint8)
    with path.open("wb") as stream:
        head = {"descr": "|u1", "fortran_order": False, "shape": (n, *SPEC.shape)}
        np.lib.format.write_array_header_1_0(stream, head)
        for start in range(0, n, len(block)):
            stream.write(block[: n - start].data)
        stream.flush()
        os.fsync(stream.fileno())


def _own() -> int:
    """Bytes that this process holds beside pages of files."""
    found = psutil.Process().memory_info()
    return found.rss - found.shared


class _Peak:
    """The most that `_own` said meanwhile, above what it said first."""

    def __enter__(self) -> "_Peak":
        self._first, self.bytes, self._ended = _own(), 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.bytes = max(self.bytes, _own() - self._first)

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
