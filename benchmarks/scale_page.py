"""Make docs/scale.md: what happens at a hundred and at ten thousand times, from measured slopes.

What a size costs is carried on from the two largest that were measured: as the straight line
through them, or, where costs rise faster than sizes, as the power of the size that joins them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from pipeline.orchestration.estimate import clock

PAGE = Path("docs/scale.md")
TIMES = (1, 100, 10_000)
IMAGES, MODELS, SAMPLES = 3_600, 16, 1_000
"""Of the default run."""
SLOPED = 1.1
"""Exponents above this are told as such; below, costs are in proportion within what is measured."""


def exponent(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> float:
    """By which power of ``x`` the values ``y`` of the two largest rows rise."""
    (x0, y0), (x1, y1) = _last_two(rows, x, y)
    return math.log(y1 / y0) / math.log(x1 / x0)


def at(rows: Sequence[Mapping[str, Any]], x: str, y: str, size: float) -> float:
    """``y`` at a size: measured, between two that were, or carried on from the two largest."""
    points = sorted((row[x], row[y]) for row in rows)
    power = exponent(rows, x, y)
    if size > points[-1][0] and power > SLOPED:
        return points[-1][1] * (size / points[-1][0]) ** power
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if size <= x1 or x1 == points[-1][0]:
            return y0 + (y1 - y0) * (size - x0) / (x1 - x0)
    raise ValueError(f"one size of {x} says nothing of others")


def _last_two(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    found = sorted((row[x], row[y]) for row in rows)[-2:]
    if len(found) < 2:
        raise ValueError(f"one size of {x} says nothing of others")
    return found


def text() -> str:
    """The page.

    Raises:
        FileNotFoundError: if something was not measured.
    """
    scale, growth = results.read("scale"), results.read("growth")
    models, runs = growth["models"], growth["runs"]
    per_byte = math.prod(scale["shape"])
    trained = [row for row in scale["training"] if row["model"] == scale["training"][0]["model"]]
    times = [row["microseconds_per_image"] for row in trained]
    spread = f"{100 * (max(times) / min(times) - 1):.0f} %"
    rise = f"{exponent(models, 'models', 'seconds_to_look'):.1f}"
    largest = max(trained, key=lambda row: row["images"])
    least = min(trained, key=lambda row: row["images"])
    per_image = (largest["memory_mb"] - least["memory_mb"]) * 1e6 / largest["images"]
    judging = scale["judging"]
    data = [
        [
            f"{times:,}",
            f"{IMAGES * times:,}",
            size(IMAGES * times * per_byte),
            size(least["memory_mb"] * 1e6 + IMAGES * times * per_image),
        ]
        for times in TIMES
    ]
    drawn = [
        [f"{n:,}", _took(at(judging, "samples", "seconds", n)), _memory(judging, n)]
        for n in [row["samples"] for row in judging] + [100 * SAMPLES]
    ]
    many = [
        [
            f"{times:,}",
            f"{MODELS * times:,}",
            _took(at(models, "models", "seconds_to_look", MODELS * times)),
            _took(at(models, "models", "seconds_to_rewrite_lock", MODELS * times)),
            size(1e3 * at(models, "models", "lock_kilobytes", MODELS * times)),
        ]
        for times in TIMES[:2]
    ]
    kept = [
        [
            f"{times:,}",
            f"{MODELS * times:,}",
            size(1e6 * at(runs, "runs", "store_megabytes", MODELS * times)),
            f"{1000 * at(runs, 'runs', 'seconds_per_run', MODELS * times):,.0f} ms",
        ]
        for times in TIMES
    ]
    return f"""# What happens at a hundred times, and at ten thousand?

Made by `python -m benchmarks page` of what `make bench` measured ([benchmarks.md](benchmarks.md));
nobody types a number here. Beyond the largest size that was measured, costs are carried on from
the two largest: italic words say where something breaks first.

## More images

Splits stay on the disk. A training reads its batches from there, so an image costs the same time
however many there are ({spread} between the fastest and the slowest size, with no slope), and
memory grows by {per_image:.0f} bytes an image: its place in the order of an epoch.

{results.table(["times", "images", "disk, at " + _shape(scale), "memory of a training"], data)}

Folders of images are read and split some at a time, too. Judges look at 60,000 training images at
the most, so they cost no more beyond these. *What breaks first is the folder of single files*: all
are read before the first run, and again when their times changed (not measured here).

## More samples

`sample.n` for one model, on one core:

{results.table(["samples", "judging takes", "memory"], drawn)}

Images are drawn one batch after the other, so drawing takes time in proportion. *What breaks first
is patience*: features, neighbours and copies are compared in pieces, which need no memory.

## More models

{results.table(["times", "models", "DVC looks", "dvc.lock rewritten, in each", "dvc.lock"], many)}

Time to look rises like models to the power of {rise}, and
is paid once a run; `dvc.lock` is rewritten after every stage. *Looking breaks first.* Before that,
several titles (`data.title`) with some models each are the better way. Trainings run side by side,
also on several machines ([cluster.md](cluster.md)). The report has a row and pictures for each
model on one page: it is meant for tens of them.

## More runs

Runs in MLflow's store, a SQLite file, of {MODELS} models each time:

{results.table(["times", "runs", "file", "one more takes"], kept)}

Only what changed is logged again. *Where people look at tens of thousands of runs, MLflow wants a
server with another database* (`MLFLOW_TRACKING_URI`, [mlflow.md](mlflow.md)). DVC's cache grows
with each training that changed; nothing here collects its garbage.
"""


def size(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _took(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 60 else clock(seconds)


def _memory(judging: Sequence[Mapping[str, Any]], n: int) -> str:
    return size(1e6 * at(judging, "samples", "memory_mb", n))


def _shape(scale: Mapping[str, Any]) -> str:
    return "x".join(map(str, scale["shape"][1:] + scale["shape"][:1]))
