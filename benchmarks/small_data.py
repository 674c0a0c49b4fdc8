"""FID and coverage with few training images, with and without differentiable augmentation.

Models of params.yaml are trained on a part of the images of the last run, by class, for as long as
on all of them, and judged by the judges of that run against the same real images. How far samples
are from the middle says whether the augmentation's translations leak into them. What was measured
before, of other trainings, stays.
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results, trained
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.datasets import splits
from pipeline.datasets.store import Store
from pipeline.evaluation import external
from pipeline.models import entries

MODELS = ("dcgan", "lsgan")
SIZES = (250, 500, 1000, 3600)
SEEDS = (0, 1, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "without": {"augment": "none"},
    "augmented": {"augment": "colour,translation,cutout", "augment_target": 0.0},
    "adaptive": {"augment": "colour,translation,cutout", "augment_target": 0.6},
}
FOLDER = paths.WORK / "small-data"
PAGE = Path("docs/small-data.md")


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--models", nargs="+", default=MODELS, help="of the family gan")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of trainings")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on all trainings")
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], help=", ".join(VARIANTS))


def run(given: argparse.Namespace) -> None:
    """Measure, write the rows and draw them."""
    raw = params.read()
    for name in given.models:
        family = entries.read(raw, name, blocks=("network",)).family
        if family != "gan":
            raise PipelineError(f"--models: {name} is of the family {family}; must be of gan")
    for name in given.variants:
        if name not in VARIANTS:
            raise PipelineError(f"--variants: {params.one_of('variant', name, VARIANTS)}")
    most = Store().counts["train"]
    if not 0 < min(given.sizes) <= max(given.sizes) <= most:
        raise PipelineError(f"--sizes: must be 1 to {most}, of which there are so many images")
    judging = external.Judging(raw)
    tasks = [
        (model, size, variant, seed, given.budget)
        for seed in given.seeds
        for size in given.sizes
        for model in given.models
        for variant in given.variants
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = trained.judged(judging, _drawn, tasks, lambda row: FOLDER / _file(row))
    rows = _with_those_of_before(rows, judging.store.name, judging.n)
    real = np.asarray(judging.store.split("train").images)
    found = {
        "dataset": judging.store.name,
        "n_samples": judging.n,
        "from_the_middle": from_the_middle(real),
        "rows": rows,
    }
    results.write("small_data", found)
    draw(found)


def _which(row: dict[str, Any]) -> tuple[Any, ...]:
    """What names a training, in the order of the table."""
    order = [*MODELS, row["model"]].index(row["model"]), [*VARIANTS].index(row["variant"])
    return row["budget"], order[0], row["model"], row["images"], order[1], row["seed"]


def _with_those_of_before(
    rows: list[dict[str, Any]], dataset: str, n_samples: int
) -> list[dict[str, Any]]:
    every = {_which(row): row for row in rows}
    with suppress(FileNotFoundError):
        before = results.read("small_data")
        if (before["dataset"], before["n_samples"]) == (dataset, n_samples):
            every = {_which(row): row for row in before["rows"]} | every
    return [every[key] for key in sorted(every)]


def _file(row: dict[str, Any]) -> str:
    named = (row[key] for key in ("model", "images", "variant", "seed", "budget"))
    return "-".join(map(str, named)) + ".npy"


def _drawn(model: str, size: int, variant: str, seed: int, budget: float) -> dict[str, Any]:
    """Train a model on so many images and draw from it, in a process of its own."""
    raw = params.read()
    chosen = entries.read(raw, model)
    training = chosen.training.model_copy(update=VARIANTS[variant])
    chosen = entries.scaled(chosen.model_copy(update={"training": training}), budget)
    store, data = Store(), params.section(raw, "data")
    part = splits.limited(store.split("train"), size, store.spec.classes, data, "train")
    made = trained.train(chosen, seed, part)
    row = {"model": model, "images": size, "variant": variant, "seed": seed, "budget": budget}
    if training.augment_target > 0:
        row["augment_p"] = made.family.augment_p.item()
    return {**row, "from_the_middle": from_the_middle(trained.draw(made, FOLDER / _file(row)))}


def from_the_middle(images: np.ndarray) -> float:
    """How far the centres of mass of images uint8 [N, C, H, W] are from the middle.

    A root mean square over images and both directions, in pixels.
    """
    light = images.astype(np.float64).sum(axis=1) + 1e-9
    squares = []
    for axis in (1, 2):
        away = np.arange(light.shape[axis]) - (light.shape[axis] - 1) / 2
        along = light.sum(axis=3 - axis)
        squares.append(((along @ away) / along.sum(axis=1)) ** 2)
    return float(np.sqrt(np.mean(squares)))


def _of(rows: Sequence[dict[str, Any]], **keys: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in keys.items())]


def draw(found: dict[str, Any]) -> None:
    """Write the picture: a panel for each model, means and ranges over seeds."""
    rows = _of(found["rows"], budget=1.0)
    if not rows:
        return
    models = list(dict.fromkeys(row["model"] for row in rows))
    with results.picture("small_data", len(models)) as panels:
        for axes, model in zip(panels, models, strict=True):
            for variant in dict.fromkeys(row["variant"] for row in rows):
                sizes = sorted({row["images"] for row in rows})
                fids = [
                    [row["fid"] for row in _of(rows, model=model, variant=variant, images=size)]
                    for size in sizes
                ]
                mean = np.array([np.mean(each) for each in fids])
                low, high = (np.array([f(each) for each in fids]) for f in (min, max))
                axes.errorbar(
                    *(sizes, mean),
                    yerr=(mean - low, high - mean),
                    marker="o",
                    markersize=4,
                    capsize=3,
                    label=variant,
                )
            axes.set_title(model)
            results.dress(axes, x="training images", y="FID (judge)")
            axes.set_xticks(sorted({row["images"] for row in rows}))
            axes.xaxis.set_minor_formatter("")
            axes.yaxis.set_minor_formatter("{x:g}")


HEAD = """# Few images

## What helps a model that has few training images?

A discriminator that is trained for long learns a few hundred images by heart, and what it then
tells the generator is of no use. Show both players changed images, real and generated alike, and it
cannot (differentiable augmentation, [Zhao et al. 2020](https://arxiv.org/abs/2006.10738)):

```yaml
models:
  dcgan:
    training:
      augment: colour,translation,cutout   # or some of them
      augment_p: 1.0                       # the share of images that each of them changes
```

All models with a discriminator or critic take these keys: `gan`, `dcgan`, `lsgan`, `cgan`, `wgan`,
`wgan_gp`, `began`, `cyclegan`. Those of the family `gan` can also find the share by themselves, as
[Karras et al. 2020](https://arxiv.org/abs/2006.06676) do: with `augment_target: 0.6` it rises while
the discriminator is surer than that of real images, and falls while it is not.

- What generators make is judged as it is, against plain images: metrics never see a changed one.
- Where nothing is changed (`none`, or a share of 0), a training is bit for bit the one without.
- Where an image is moved, grey comes in from outside, so that a discriminator sees that it was
  moved, and samples stay where images are.
- Leave out what your images may not lose: `colour` where colours mean something.

`train.flips: true` mirrors every second training image, of all models: right for photos, wrong for
whatever has a left and a right; for the data sets of characters `make check` refuses it. A
likelihood is still that of the plain test images; a model that has seen mirrored ones gives half of
its probability to these, which costs at most one bit per image.

How many images there are to train on is `data.limit`: so many of the training split, by class.
"""


VERDICT = """On these digits it does not. Trainings as short as these learn not even 250 images by
heart: FID is as good as with all of them, and with four times the training it is better still.
Changed images are more to learn, which costs 2 to 3 points. `augment_target` finds that there is
little to mend, and keeps the share below .4. So it is off by default; try it where longer trainings
make samples worse, or `authenticity` says that they are copies."""
"""What the numbers say, in words."""


def text() -> str:
    """The page docs/small-data.md, with what was measured, if anything was."""
    try:
        return HEAD + "\n" + _measured(results.read("small_data"))
    except FileNotFoundError:
        return HEAD


def _measured(found: dict[str, Any]) -> str:
    rows = found["rows"]
    seeds = len({row["seed"] for row in rows})
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    tables = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        some = _of(rows, budget=budget)
        longer = "" if budget == 1 else f"Trained {budget:g} times as long:\n\n"
        tables.append(longer + _table(some, variants))
        if budget == 1:
            tables.append("![FID against training images](../benchmarks/results/small_data.png)")
    middle = ", ".join(
        f"{variant} {np.mean([row['from_the_middle'] for row in _of(rows, variant=variant)]):.2f}"
        for variant in variants
    )
    measured = "\n\n".join(tables)
    return f"""## How much does it help?

```bash
python -m benchmarks small_data   # on the data and by the judges of the last run
python -m benchmarks small_data --budget 4 --models dcgan --sizes 250
```

Means over {seeds} trainings and their range, of {found["n_samples"]:,} samples against as many test
images of {found["dataset"]}; `adaptive` has `augment_target: 0.6`. All are trained for as long as
params.yaml says, however few images there are:

{measured}

{VERDICT}

How far samples' centres of mass are from the middle, in pixels, which tells whether translations
leak: {middle}; training images {found["from_the_middle"]:.2f}.
"""


def _table(rows: Sequence[dict[str, Any]], variants: Sequence[str]) -> str:
    titles = ["", "images"]
    titles += [f"{what}, {each}" for what in ("FID", "coverage") for each in variants]
    table = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for size in sorted({row["images"] for row in rows}):
            cells = [model, f"{size:,}"]
            for key, digits in (("fid", 1), ("coverage", 2)):
                for variant in variants:
                    values = [
                        row[key] for row in _of(rows, model=model, images=size, variant=variant)
                    ]
                    low, mean, high = (f"{f(values):.{digits}f}" for f in (min, np.mean, max))
                    cells.append(f"{mean} ({low}..{high})")
            table.append(cells)
    return results.table(titles, table)
