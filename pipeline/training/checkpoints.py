"""A training on disk while it runs: one safetensors file, from which it goes on bit for bit.

It holds weights, optimisers, averages, what was logged and the step. Randomness is derived from the
step, so none of it needs to be there.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.core import files
from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer


def save(path: Path, trainer: "Trainer") -> None:
    """Write everything that resuming needs to one safetensors file, atomically."""
    state = {f"family/{k}": v for k, v in trainer.family.state_dict().items()}
    scalars: dict[str, Any] = {
        "step": trainer.step,
        "updates": trainer.updates,
        "kinds": trainer.kinds,
        "flops": trainer.flops,
        "rows": trainer.history.rows,
        "counts": trainer.history.counts,
        "times": trainer.history.times,
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
    encoded = json.dumps(scalars, sort_keys=True).encode()
    state["scalars"] = torch.tensor(list(encoded), dtype=torch.uint8)
    with files.replacing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary)


def load(path: Path, trainer: "Trainer") -> None:
    """Bring a trainer, which was made with the same parameters, to where `save` left another.

    Raises:
        PipelineError: if the file is damaged.
    """
    try:
        state = load_file(path)
        scalars = json.loads(bytes(state.pop("scalars").tolist()))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PipelineError(f"{path}: not a readable checkpoint ({error}); delete it") from None
    trainer.step = scalars["step"]
    trainer.updates = scalars["updates"]
    trainer.kinds = scalars["kinds"]
    trainer.flops = scalars["flops"]
    trainer.history.rows = scalars["rows"]
    trainer.history.counts = scalars["counts"]
    trainer.history.times = [(step, at) for step, at in scalars["times"]]
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        kind, rest = key.split("/", 1)
        parts.setdefault(kind, {})[rest] = value
    trainer.family.load_state_dict(parts["family"])
    trainer.history.sums = {k: v.to(trainer.device) for k, v in parts.get("sums", {}).items()}
    for name, average in trainer.averages.items():
        average.updates = scalars["averages"][name]
        for i, shadow in enumerate(average.shadow):
            shadow.copy_(parts["average"][f"{name}/{i}"])
    for name, optimiser in trainer.optimisers.items():
        _load_optimiser(optimiser, name, parts.get("optimiser", {}))


def _load_optimiser(optimiser: torch.optim.Optimizer, name: str, saved: dict[str, Tensor]) -> None:
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
