"""Make docs/benchmarks.md, docs/scale.md and docs/small-data.md of what the benchmarks found.

Nobody types a number there.
"""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import optimisers, peers_page, results, samplers, scale_page, small_data
from pipeline.core import files

PAGE = Path("docs/benchmarks.md")
HEAD = """# How fast, how large

Made by `make bench`, or one part of it by the command above each table; every file of numbers is in
[benchmarks/results/](../benchmarks/results/). Nobody types a number here.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(given: argparse.Namespace) -> None:
    """Write it."""
    write()


def write() -> None:
    """Write all pages.

    Raises:
        PipelineError: if that is not possible.
    """
    files.write_text(PAGE, text())
    files.write_text(small_data.PAGE, small_data.text())
    with suppress(FileNotFoundError):  # what it needs was not measured
        files.write_text(scale_page.PAGE, scale_page.text())


def text() -> str:
    """The page."""
    parts = [HEAD]
    for name, part in PARTS.items():
        try:
            found = results.read(name)
        except FileNotFoundError:
            continue
        parts.append(part(found) + "\n" + _machine(found["machine"]))
    return "\n".join(parts)


def _trainers(found: dict[str, Any]) -> str:
    rows = [
        [
            row["model"],
            f"{row['images_per_second']:,.0f}",
            f"{row['milliseconds_per_step']:.1f}",
            f"{row['share_of_bare_loop']:.2f}",
            "-" if row["gflops"] is None else f"{row['gflops']:.1f}",
            "-" if row["share_of_matmul"] is None else f"{100 * row['share_of_matmul']:.0f} %",
        ]
        for row in found["rows"]
    ]
    side = found["side"]
    titles = ["model", "images/s", "ms per step", "of the bare loop", "GFLOP/s", "of the limit"]
    return f"""## How near the trainer is to its networks, and these to the machine

```bash
python -m benchmarks trainers     # on the data of the last run
```

One process of one thread for each model, as in a run. The bare loop has what belongs to the model:
networks, losses, optimisers, clipping, averages. The trainer has named randomness, rates that
change, history, progress and checkpoints beside that. Both take turns. A product of two float32
matrices of {side}x{side} makes {found["gflops"]:.0f} GFLOP/s in such a process: that is the limit
of the last column, which counts the operations of convolutions and products alone.

{results.table(titles, rows)}
"""


def _drawing(found: dict[str, Any]) -> str:
    rows = [
        [
            row["model"],
            "x".join(map(str, row["shape"][1:] + row["shape"][:1])),
            f"{1000 * row['seconds_per_image']:.1f}",
            f"{row['microseconds_per_pixel']:.1f}",
            f"{row['of_first']:.1f}",
        ]
        for row in found["rows"]
    ]
    titles = ["model", "images", "ms per sample", "µs per pixel", "of the smallest images'"]
    return f"""## How long a sample takes as images grow

```bash
python -m benchmarks drawing
```

Untrained models of the presets, whose samples cost the same; on one core.

{results.table(titles, rows)}
"""


def _growth(found: dict[str, Any]) -> str:
    models = [
        [
            f"{row['models']:,}",
            f"{row['params_kilobytes']:,.0f}",
            f"{row['lock_kilobytes']:,.0f}",
            f"{row['seconds_to_rewrite_lock_first']:.2f}",
            f"{row['seconds_to_rewrite_lock']:.2f}",
            f"{row['seconds_to_check']:.1f}",
            f"{row['seconds_to_look']:.1f}",
        ]
        for row in found["models"]
    ]
    runs = [
        [
            f"{row['runs']:,}",
            f"{row['store_megabytes']:,.1f}",
            f"{1000 * row['seconds_per_run']:.0f}",
            f"{row['seconds_to_list']:.2f}",
        ]
        for row in found["runs"]
    ]
    titles = ["models", "params.yaml KB", "dvc.lock KB", "rewriting it first s", "then s"]
    titles += ["check s", "looking s"]
    return f"""## What grows with models and runs

```bash
python -m benchmarks growth
```

A checkout with so many models in `params.yaml` and `dvc.lock`. `dvc.lock` is read and written once
for each stage that ran; a worker parses all of it the first time, and then what changed. `make
check` validates all parameters, and DVC looks at every stage before a run.

{results.table(titles, models)}

MLflow's SQLite file with so many runs, and a page of the hundred best of them:

{results.table(["runs", "MB", "ms to log one", "listing s"], runs)}
"""


def _planned(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['minutes']:g}",
            f"{row['real_minutes']:.1f}",
            f"{100 * (row['real_minutes'] / row['minutes'] - 1):+.0f} %",
            f"{row['budget']:g}",
            row["models"],
            f"{row['planning_seconds']:.0f}",
        ]
        for row in found["rows"]
    ]
    titles = ["asked min", "took min", "off", "train.budget", "models", "planning s"]
    return f"""## Does a run end when it was planned to?

```bash
python -m benchmarks planned      # with nothing else computing
```

`python -m pipeline plan --minutes N --write` in a fresh clone, where nothing was timed before, and
then the whole run.

{results.table(titles, rows)}
"""


def _machine(machine: dict[str, Any]) -> str:
    device = f", {machine['device']}" if machine["device"] != "cpu" else ""
    return (
        f"Measured on {machine['cores']} cores{device} with {machine['instructions']} and "
        f"{machine['memory_gb']:.0f} GB, torch {machine['torch']}.\n"
    )


def _samplers(found: dict[str, Any]) -> str:
    of = {(row["steps"], row["solver"], row["spacing"]): row for row in found["rows"]}
    table = []
    for count in sorted({steps for steps, *_ in of}):
        rows = [of[count, *variant] for variant in samplers.VARIANTS]
        took = f"{1000 * rows[0]['seconds_per_image']:.1f}"
        table.append([count, *(_both(row) for row in rows), took])
    titles = ["steps", *(samplers.TITLES[each] for each in samplers.VARIANTS), "ms per image"]
    return f"""## How many steps a diffusion sampler needs

```bash
python -m benchmarks samplers     # of the trained model {found["model"]}
```

FID (second FID) of {found["n_samples"]:,} samples of {found["model"]} on {found["dataset"]}, all
from the same noise. A step is one evaluation of the network; times that are even in log-SNR would
be there twice near pure noise, and are taken once, so that these samplers evaluate it less often.

{results.table(titles, table)}

![FID against network evaluations](../benchmarks/results/samplers.png)
"""


def _both(row: dict[str, Any]) -> str:
    second = "" if row["second_fid"] is None else f" ({row['second_fid']:.2f})"
    return f"{row['fid']:.2f}{second}"


def _scale(found: dict[str, Any]) -> str:
    trained = [
        [
            f"{row['images']:,}",
            f"{row['gigabytes']:.2f}",
            row["model"],
            f"{row['microseconds_per_image']:,.0f}",
            f"{row['memory_mb']:.0f}",
        ]
        for row in found["training"]
    ]
    judged = [
        [
            f"{row['samples']:,}",
            f"{row['seconds']:.1f}",
            f"{row['seconds_for_real_images']:.1f}",
            f"{row['memory_mb']:,.0f}",
        ]
        for row in found["judging"]
    ]
    shape = "x".join(map(str, found["shape"][1:] + found["shape"][:1]))
    return f"""## How large data may be

```bash
python -m benchmarks scale        # writes 31 GB to a folder for temporary files, for a while
```

Trainings on {shape} images that lie on the disk. The mean of {found["steps"]} steps, and what the
process holds beside the labels and the pages of the file, which belong to the system: network,
optimiser, a batch, and 8 bytes for each image in the order of an epoch.

{results.table(["images", "GB", "model", "µs per image seen", "MB"], trained)}

All that judges say of samples (FID, KID, precision and recall, coverage, copies of 60,000 training
images among the first 10,000, classes), by three judges of one kind, on one core:

{results.table(["samples", "seconds", "of them for the real images", "MB"], judged)}
"""


PARTS = {
    "peers": peers_page.part,
    "trainers": _trainers,
    "optimisers": optimisers.section,
    "samplers": _samplers,
    "drawing": _drawing,
    "scale": _scale,
    "growth": _growth,
    "planned": _planned,
}
"""What writes the part of each benchmark."""
