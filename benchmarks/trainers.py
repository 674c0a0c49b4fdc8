"""How near the trainer is to its own networks, and these to what the machine can do.

Each model of params.yaml takes some steps with the trainer, and as many in a bare loop of what
belongs to the model: networks, losses, optimisers, clipping, averages, and batches from memory.
What it lacks is the trainer's: named randomness, rates that change, history, progress, checkpoints.
Both take turns, so that both see the same machine. The limit is a product of two matrices in the
same process.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import results
from pipeline.blocks.nets import Ema
from pipeline.core import cost, params, paths, stage
from pipeline.core.contract import Batch, Family
from pipeline.core.mapped import Mapped
from pipeline.datasets.store import Store
from pipeline.models import entries, weights
from pipeline.training.trainer import Trainer

STEPS, TURNS = 20, 7
"""Steps of a turn, and turns of each; the fastest half of turns counts."""
SIDE = 1024
"""Of the matrices."""


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--models", nargs="+", help="of params.yaml; all, if nothing is said")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of {STEPS} steps each")


def run(given: argparse.Namespace) -> None:
    """Measure, and write the rows."""
    raw = params.read()
    device = stage.prepare_torch(params.section(raw, "runtime"))
    known = list(params.model_blocks(raw))
    for name in given.models or ():
        params.entry(raw, name)
    limit = _product(device, given.turns)
    rows = []
    for name in given.models or known:
        with results.quiet():
            rows.append(_row(raw, name, device, given.turns, limit))
        print(results.line(rows[-1]), flush=True)
    results.write("trainers", {"gflops": limit, "side": SIDE, "rows": rows})


def _row(
    raw: dict[str, Any], name: str, device: torch.device, turns: int, limit: float
) -> dict[str, Any]:
    chosen = entries.read(raw, name)
    store = Store(paths.DATA / chosen.data)
    split = store.split("train")
    labels = torch.from_numpy(np.array(split.labels))
    others = None if split.others is None else Mapped(split.others)

    def family() -> Family:
        return weights.build(chosen, store.spec, 0, device)

    trainer = Trainer(family(), Mapped(split.images), labels, others=others, seed=0, steps=10**9)
    images = torch.from_numpy(np.array(split.images)).to(device)
    second = None if others is None else torch.from_numpy(np.array(split.others)).to(device)
    bare = _bare(family(), images, labels.to(device), second)
    trainer.run(stop_at=2 * STEPS)
    for _ in range(2 * STEPS):
        bare()

    def train() -> None:
        trainer.run(stop_at=trainer.step + STEPS)

    def loop() -> None:
        for _ in range(STEPS):
            bare()

    ours, theirs = _turns([train, loop], turns)
    step = ours / STEPS
    flops = trainer.flops_per_image
    return {
        "model": name,
        "images_per_second": trainer.batch / step,
        "milliseconds_per_step": 1000 * step,
        "share_of_bare_loop": theirs / ours,
        "gflops": None if flops is None else flops * trainer.batch / step / 1e9,
        "share_of_matmul": None if flops is None else flops * trainer.batch / step / 1e9 / limit,
    }


def _bare(
    family: Family, images: Tensor, labels: Tensor, others: Tensor | None
) -> Callable[[], None]:
    """One step of what anyone would write."""
    batch = family.params.training.batch
    groups = family.groups()
    optimisers = {name: each.optimiser(each.parameters) for name, each in groups.items()}
    averages = {
        name: Ema(each.parameters, each.ema)
        for name, each in groups.items()
        if each.ema is not None
    }
    rng = torch.Generator(device=images.device).manual_seed(0)
    family.train()
    order = [torch.randperm(len(images)), torch.randperm(len(images if others is None else others))]
    place = 0

    def update(name: str, loss: Tensor) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward(inputs=groups[name].parameters)
        if groups[name].clip is not None:
            torch.nn.utils.clip_grad_norm_(groups[name].parameters, groups[name].clip)
        optimisers[name].step()
        if groups[name].after_step is not None:
            groups[name].after_step()
        if name in averages:
            averages[name].update()

    def step() -> None:
        nonlocal place
        if place + batch > min(map(len, order)):
            place = 0
        index = order[0][place : place + batch]
        second = None if others is None else others[order[1][place : place + batch]]
        place += batch
        family.training_step(Batch(images[index], labels[index], second), update, rng)

    return step


def _turns(calls: Sequence[Callable[[], None]], turns: int) -> list[float]:
    """Seconds of each call: they take turns, and of each the faster half counts."""
    took: list[list[float]] = [[] for _ in calls]
    for _ in range(turns):
        for call, seconds in zip(calls, took, strict=True):
            clock = cost.Clock(time.perf_counter)
            call()
            seconds.append(clock.total)
    return [float(np.mean(sorted(each)[: max(1, turns // 2 + 1)])) for each in took]


def _product(device: torch.device, turns: int) -> float:
    """GFLOP/s of a product of two float32 matrices in this process."""
    a, b = (torch.rand(SIDE, SIDE, device=device) for _ in range(2))

    def call() -> None:
        for _ in range(5):
            torch.matmul(a, b)

    call()
    [seconds] = _turns([call], turns)
    return 5 * 2 * SIDE**3 / seconds / 1e9
