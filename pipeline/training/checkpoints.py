"""A training on disk while it runs: one safetensors file, from which it goes on bit for bit.

It holds weights, optimisers, averages, what was logged and the step. Randomness is derived from the
step, so none of it needs to be there. Nothing is taken over from a file that is not exactly what
was saved (`pipeline.core.tensors`) or does not fit the training.
"""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from pipeline.core import files, records, tensors
from pipeline.core.tensors import Damaged

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

SCALARS = "scalars"
"""The name of the bytes that hold everything but tensors, as JSON."""
REMEDY = "start from the beginning"


class Scalars(records.Record):
    """What is no tensor; see `Trainer` and `History`."""

    step: int = Field(ge=0)
    updates: dict[str, int]
    kinds: dict[str, int]
    flops: dict[str, int]
    rows: list[dict[str, float]]
    counts: dict[str, int]
    times: list[list[float]]
    averages: dict[str, int]


def take(trainer: "Trainer") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that resuming needs, on the CPU: tensors by name, and what is JSON.

    The tensors may be the trainer's own, so that saving copies nothing.
    """
    state = {f"family/{k}": v for k, v in trainer.family.state_dict().items()}
    scalars: dict[str, Any] = {
        "step": trainer.step,
        "updates": trainer.updates,
        "kinds": trainer.kinds,
        "flops": trainer.flops,
        "rows": trainer.history.rows,
        "counts": trainer.history.counts,
        "times": [list(each) for each in trainer.history.times],
        "averages": {k: a.updates for k, a in trainer.averages.items()},
    }
    for name, value in trainer.history.sums.items():
        state[f"sums/{name}"] = value
    for name, average in trainer.averages.items():
        for i, shadow in enumerate(average.shadow):
            state[f"average/{name}/{i}"] = shadow
    for name, optimiser in trainer.optimisers.items():
        for i, entry in optimiser.state_dict()["state"].items():
            for key, value in entry.items():
                state[f"optimiser/{name}/{i}/{key}"] = torch.as_tensor(value)
    return {k: v.detach().cpu() for k, v in state.items()}, scalars


def remember(trainer: "Trainer") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A copy of what `take` gives, for `restore` in the same process."""
    state, scalars = take(trainer)
    return {k: v.clone() for k, v in state.items()}, copy.deepcopy(scalars)


def restore(trainer: "Trainer", state: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Bring a trainer, which was made with the same parameters, to where another was."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        kind, rest = key.split("/", 1)
        parts.setdefault(kind, {})[rest] = value
    trainer.step = scalars["step"]
    trainer.updates = scalars["updates"]
    trainer.kinds = scalars["kinds"]
    trainer.flops = scalars["flops"]
    trainer.history.rows = scalars["rows"]
    trainer.history.counts = scalars["counts"]
    trainer.history.times = [(step, at) for step, at in scalars["times"]]
    trainer.family.load_state_dict(parts.get("family", {}))
    trainer.history.sums = {k: v.to(trainer.device) for k, v in parts.get("sums", {}).items()}
    for name, average in trainer.averages.items():
        average.updates = scalars["averages"][name]
        for i, shadow in enumerate(average.shadow):
            shadow.copy_(parts["average"][f"{name}/{i}"])
    for name, optimiser in trainer.optimisers.items():
        _restore_optimiser(optimiser, name, parts.get("optimiser", {}))


def save(path: Path, trainer: "Trainer") -> None:
    """Write everything that resuming needs to one file, atomically.

    Raises:
        PipelineError: if it cannot be written.
    """
    state, scalars = take(trainer)
    encoded = json.dumps(scalars, sort_keys=True).encode()
    state[SCALARS] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    with files.replacing(path) as temporary:
        tensors.save(temporary, state, name=path.name)


def load(path: Path, trainer: "Trainer") -> None:
    """Bring a trainer, which was made with the same parameters, to where `save` left another.

    Raises:
        files.Unreadable: if the file is not what was saved, is of another training or is of no use;
            the trainer is as it was.
    """
    try:
        state, text = tensors.load(path, REMEDY)
    except FileNotFoundError:
        raise Damaged(f"{path}: no such file; {REMEDY}") from None
    if text.get("name") != path.name:
        raise Damaged(f"{path}: damaged (saved as {text.get('name')}); {REMEDY}")
    scalars = _scalars(path, state)
    _check(path, trainer, state, scalars)
    restore(trainer, state, scalars)


def _scalars(path: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    try:
        scalars = json.loads(bytes(state.pop(SCALARS).tolist()))
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"{path}: damaged (it holds no step); {REMEDY}") from None
    records.parse(scalars, Scalars, path, REMEDY)
    return scalars  # as it stands there: numbers keep their types


def _check(
    path: Path, trainer: "Trainer", state: dict[str, Tensor], scalars: dict[str, Any]
) -> None:
    """See to it that `restore` will succeed, and that there is something to go on from.

    Raises:
        Damaged: if not.
    """

    def refuse(reason: str) -> None:
        raise Damaged(f"{path}: {reason}; {REMEDY}")

    if scalars["step"] >= trainer.steps:
        refuse(f"at step {scalars['step']:,}, but this training has {trainer.steps:,}")
    groups, averages = trainer.groups.keys(), trainer.averages.keys()
    if scalars["updates"].keys() != groups or scalars["averages"].keys() != averages:
        refuse("of another model")
    expected = {f"family/{k}": v for k, v in trainer.family.state_dict().items()}
    for name, average in trainer.averages.items():
        expected |= {f"average/{name}/{i}": each for i, each in enumerate(average.shadow)}
    for name in scalars["counts"]:
        expected[f"sums/{name}"] = torch.zeros(())
    for name, each in expected.items():
        if name not in state:
            refuse(f"of another model: it has no {name}")
        if state[name].shape != each.shape or state[name].dtype != each.dtype:
            refuse(f"of another model: its {name} has another shape or type")
    for name in sorted(state.keys() - expected.keys()):
        kind, group, *rest = name.split("/")
        known = kind == "optimiser" and group in groups and len(rest) == 2 and rest[0].isdecimal()
        parameters = _parameters(trainer.optimisers[group]) if known else []
        if not known or int(rest[0]) >= len(parameters):
            refuse(f"of another model: it has {name}, which this one has not")
        parameter = parameters[int(rest[0])]
        if state[name].numel() > 1 and state[name].shape != parameter.shape:
            refuse(f"of another model: its {name} has another shape")
    # Buffers may hold infinity, such as what masks the future; what is trained may not.
    trained = {f"family/{name}" for name, _ in trainer.family.named_parameters()}
    for name, each in state.items():
        if (name in trained or not name.startswith("family/")) and not each.isfinite().all():
            refuse(f"{name} is not finite")


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """In the order of its state, which need not be that of the group."""
    return [each for group in optimiser.param_groups for each in group["params"]]


def _restore_optimiser(
    optimiser: torch.optim.Optimizer, name: str, saved: dict[str, Tensor]
) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        group, i, entry = key.split("/", 2)
        if group == name:
            entries.setdefault(int(i), {})[entry] = value
    current = optimiser.state_dict()
    optimiser.load_state_dict({**current, "state": entries})
    for parameter, entry in optimiser.state.items():
        for key, value in entry.items():
            if value.shape == parameter.shape:
                # Fused optimisers pair raw memory, so the strides must be the same too.
                entry[key] = torch.empty_like(parameter).copy_(value)
