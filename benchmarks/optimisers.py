"""Muon beside Adam in about the same time: likelihood and FID of the models that have the choice.

Models of params.yaml are trained on the images of the last run as the file says, and with Adam and
what suited it: the defaults from before there was Muon, which were tuned as long. Both are judged
by the judges of that run.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import results, trained
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import ModelParams
from pipeline.evaluation import external, likelihood
from pipeline.models import entries

ADAM: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ddpm": {"training": {"images": 52_000}},
    "vdm": {"training": {"images": 36_000}},
    "flow_matching": {"training": {"images": 36_000}},
    "vqvae": {
        "training": {
            "images": 38_000,
            "autoencoder": 22_000,
            "learning_rate": 0.004,
            "prior_learning_rate": 0.004,
        }
    },
    "pixelcnn": {"training": {"images": 4500, "learning_rate": 0.004}},
    "flow": {"training": {"images": 4400, "batch": 8, "learning_rate": 0.005}},
    "gpt": {"training": {"images": 4600, "learning_rate": 0.004}},
    "lstm": {
        "network": {"state": 256},
        "training": {"images": 4200, "batch": 4, "learning_rate": 0.004},
    },
}
"""What differs with Adam, by model and block."""
KINDS = ("adam", "muon")
FOLDER = paths.WORK / "optimisers"


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--models", nargs="+", default=tuple(ADAM), help=", ".join(ADAM))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,), help="of trainings")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on all trainings")


def run(given: argparse.Namespace) -> None:
    """Measure, and write the rows."""
    for name in given.models:
        if name not in ADAM:
            raise PipelineError(f"--models: {params.one_of('model', name, ADAM)}")
    judging = external.Judging(params.read())
    tasks = [
        (m, kind, s, given.budget) for s in given.seeds for m in given.models for kind in KINDS
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = trained.judged(judging, _measured, tasks, lambda row: FOLDER / _file(row))
    results.write(
        "optimisers", {"dataset": judging.store.name, "n_samples": judging.n, "rows": rows}
    )


def _file(row: Mapping[str, Any]) -> str:
    return f"{row['model']}-{row['optimiser']}-{row['seed']}.npy"


def chosen(model: str, kind: str, budget: float) -> ModelParams:
    """The model of params.yaml with one of `KINDS`."""
    found = entries.read(params.read(), model)
    blocks = {key: dict(value) for key, value in ADAM[model].items()} if kind == "adam" else {}
    blocks["training"] = {**blocks.get("training", {}), "optimiser": kind}
    found = found.model_copy(
        update={
            block: getattr(found, block).model_copy(update=values)
            for block, values in blocks.items()
        }
    )
    return entries.scaled(found, budget)


def _measured(model: str, kind: str, seed: int, budget: float) -> dict[str, Any]:
    """Train a model, draw from it and score it, in a process of its own."""
    raw = params.read()
    made = trained.train(chosen(model, kind, budget), seed)
    trained.draw(made, FOLDER / _file({"model": model, "optimiser": kind, "seed": seed}))
    section: params.Evaluate = params.section(raw, "evaluate")
    split, train = made.store.split(section.split), made.store.split("train")
    shares = np.bincount(train.labels, minlength=made.store.spec.classes) / len(train)
    with results.quiet():
        found, _ = likelihood.measure(
            made.family,
            split.images,
            split.labels,
            shares,
            seed=section.seed,
            batch=section.batch,
            label=model,
        )
    return {
        "model": model,
        "optimiser": kind,
        "seed": seed,
        "images": made.images,
        "seconds": made.seconds,
        "bits_per_dim": found["bits_per_dim"],
    }


def section(found: Mapping[str, Any]) -> str:
    """The part of docs/benchmarks.md."""
    by: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found["rows"]:
        by.setdefault((row["model"], row["optimiser"]), []).append(row)
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))

    def mean(model: str, key: str, digits: int) -> list[str]:
        return [f"{np.mean([row[key] for row in by[model, kind]]):,.{digits}f}" for kind in KINDS]

    keys = {"images": 0, "seconds": 0, "bits_per_dim": 3, "fid": 2, "second_fid": 2}
    titles = ["model", "images", "s", "bits/dim", "FID", "second FID"]
    table = [
        [model, *(" → ".join(mean(model, key, digits)) for key, digits in keys.items())]
        for model in models
    ]
    seeds = len({row["seed"] for row in found["rows"]})
    trainings = "one training each" if seeds == 1 else f"means over {seeds} trainings"
    return f"""## What Muon is worth

```bash
python -m benchmarks optimisers   # on the data and by the judges of the last run
```

Adam → Muon in about as many seconds of one core, {trainings}, on {found["dataset"]} and by
{found["n_samples"]:,} samples. Adam has the images, batches and rates that were the defaults
before, and the LSTM its state (`ADAM` in benchmarks/optimisers.py), Muon those of params.yaml.
Muon makes the updates of matrices orthogonal, so that directions that gradients say little of are
learned as fast as the others, which counts where trainings are short: each step costs more, and
far fewer images are needed. GANs and CycleGAN have Adam. On a GPU Muon's products are many small
launches, which was not timed there.

{results.table(titles, table)}
"""
