"""What a run has to do: which stages are stale, in which chains they run, how many at a time."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.comparison import dvc_lock
from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.datasets import inputs
from pipeline.orchestration import dvc_output
from pipeline.orchestration.dvc_workers import Slots

INPUTS = "inputs"
"""The stage that looks at a person's own images, which DVC is told to run always."""
RWLOCK = Path(".dvc/tmp/rwlock")
"""Where DVC lists who uses what."""
DATA_STAGES = (INPUTS, "download", "preprocess", "domains")
ALL_NEED = DATA_STAGES[:3]
DATA_STAGE = {"processed": "preprocess", "domains": "domains"}
"""The stage that makes what a model is trained on (its key ``data``)."""
JUDGE_STAGES = ("judge", "reference")
"""Needed by `evaluate` alone, so they run beside the trainings."""
COMPARE = "compare"
LAST_STAGES = ("report", "track")
"""They show more than any stage can depend on, dvc.lock and MLflow's store: see `repro`."""
JUDGES, DATA, COMPARISON = "the-judges", "the-data", "the-comparison"
"""Chains of stages that are no model's; no model can be called so."""


def check_graph() -> None:
    """Refuse a damaged dvc.yaml: what it lacks would look like a model that failed.

    Raises:
        PipelineError: if it cannot be read, or a stage is missing.
    """
    stage.bodies(*DATA_STAGES, *JUDGE_STAGES, *dvc_lock.MODEL_STAGES, COMPARE, *LAST_STAGES)


def stale_stages(slots: Slots) -> set[str] | None:
    """Stages that a plain `dvc repro` would run or restore from the cache, but for the last ones.

    None if DVC cannot tell, as when results are missing that a stage would need.

    Raises:
        PipelineError: if DVC can do nothing here, or the person's own images cannot be read.
    """
    said: list[str] = []
    code = slots.run(["repro", "--dry"], said.append)
    if code != 0 and dvc_output.has_broken_locks(said):
        files.remove(RWLOCK)  # whoever still runs could not read it either
        said.clear()
        code = slots.run(["repro", "--dry"], said.append)
    if code != 0:
        found = dvc_output.in_the_way(said)
        if found:
            raise PipelineError(found)
        return None
    stale = {name for name in map(dvc_output.mentioned, said) if name}
    if INPUTS in stale and _inputs_are_known(slots):
        stale.remove(INPUTS)
    return stale - {*LAST_STAGES}


def _inputs_are_known(slots: Slots) -> bool:
    """Whether the person's own images, and the code that looks at them, are those of the last run.

    Raises:
        PipelineError: if the images cannot be read.
    """
    said: list[str] = []
    if slots.run(["status", "--json", INPUTS], said.append) != 0:
        return False
    if json.dumps({INPUTS: ["always changed"]}) not in said:
        return False
    try:
        known = files.read_json(paths.INPUTS)
    except (FileNotFoundError, files.Unreadable):
        return False
    return inputs.current(params.section(params.read(), "data")) == known


def chains(
    models: list[str], every: dict[str, Any], stale: set[str] | None, compare: bool
) -> dict[str, list[str]]:
    """The stages to run, by chain, in the order in which they start; empty if there are none."""
    unknown = stale is None
    plan: dict[str, list[str]] = {}
    wanted = {DATA_STAGE[every[name]["data"]] for name in models} | {*ALL_NEED}
    if unknown or stale & wanted:
        plan[DATA] = [name for name in DATA_STAGES if name in wanted]
    judging = bool(plan) or bool((stale or set()) & {*JUDGE_STAGES})
    if judging:
        plan[JUDGES] = list(JUDGE_STAGES)
    for model in models:
        chain = [f"{each}@{model}" for each in dvc_lock.MODEL_STAGES]
        first = (
            0
            if unknown or DATA in plan
            else min([k for k, each in enumerate(chain) if each in stale], default=len(chain))
        )
        if judging:
            first = min(first, len(chain) - 1)
        if chain[first:]:
            plan[model] = chain[first:]
    if compare and (plan or COMPARE in stale):
        plan[COMPARISON] = [COMPARE, *LAST_STAGES]
    return plan


def default_jobs() -> tuple[int, list[str]]:
    """How many models at a time, and which GPUs each of them has, in turn; see `Slots.grow`.

    One for each core that it keeps busy; of those that share a GPU at most
    ``runtime.models_per_gpu``. A model on several GPUs (``runtime.devices``) shares them with none.
    """
    runtime: params.Runtime = params.section(params.read(), "runtime")
    gpus, devices = stage.count_gpus(runtime), runtime.devices
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not gpus:
        return max(1, cores // (devices * runtime.threads)), []
    groups = _groups(gpus, devices)
    if devices > 1:
        return len(groups), groups
    return max(gpus, min(cores, gpus * runtime.models_per_gpu)), groups


def _groups(gpus: int, devices: int) -> list[str]:
    """So many of the GPUs that this process sees for each model, as CUDA_VISIBLE_DEVICES has it."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = named if len(named) == gpus else [str(number) for number in range(gpus)]
    return [
        ",".join(names[first : first + devices])
        for first in range(0, max(1, gpus // devices) * devices, devices)
    ]
