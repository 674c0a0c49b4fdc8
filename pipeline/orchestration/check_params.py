"""Validate the whole of ``params.yaml`` before anything runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.core import params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.datasets import sources
from pipeline.models import entries


def check(
    path: Path = paths.PARAMS, sections: Mapping[str, Callable[[dict[str, Any]], Any]] | None = None
) -> None:
    """Validate every section and every model.

    A stage validates what it depends on; this finds the mistakes in the rest before an hour of
    training is spent.

    Args:
        path: the file.
        sections: what reads the sections that no stage depends on, by name.

    Raises:
        PipelineError: one line for each mistake, with the file, the key path, the value and
            what would be right.
    """
    raw = params.read(path)
    known = [*params.SHARED, *(sections or {}), "models"]
    problems = [
        f"{path}: {key}: {params.one_of('section', key, known)}" for key in raw if key not in known
    ]
    shared = {}
    for name in params.SHARED:
        try:
            shared[name] = params.section(raw, name, path)
        except PipelineError as error:
            problems.append(str(error))
    if "data" in shared:
        try:
            sources.load(shared["data"].name, path).configured(shared["data"], path)
        except PipelineError as error:
            problems.append(str(error))
    try:
        models = params.model_blocks(raw, path)
    except PipelineError as error:
        problems.append(str(error))
        models = {}
    device = None
    if "runtime" in shared:
        try:
            device = stage.device_of(shared["runtime"])
        except PipelineError as error:
            problems.append(str(error))
    for name in models:
        try:
            model = entries.read(raw, name, path=path)
            if device is not None:
                entries.check_device(model, device)
        except PipelineError as error:
            problems.append(str(error))
    for read in (sections or {}).values():
        try:
            read(raw)
        except PipelineError as error:
            problems.append(str(error))
    if problems:
        raise PipelineError("\n".join(problems))
