"""What DVC recorded of each stage in dvc.lock."""

from typing import Any

from ruamel.yaml import YAML

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError

MODEL_STAGES = ("train", "sample", "evaluate")


def entries() -> dict[str, Any]:
    """What dvc.lock says, by stage.

    Raises:
        PipelineError: if there is no such file.
    """
    try:
        text = paths.DVC_LOCK.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(f"{paths.DVC_LOCK}: no such file; run `make repro` first") from None
    return YAML(typ="safe").load(text).get("stages", {})


def missing(model: str, recorded: dict[str, Any]) -> list[str]:
    """Stages of a model that have no entry."""
    return [name for stage in MODEL_STAGES if (name := f"{stage}@{model}") not in recorded]


def of_model(model: str, recorded: dict[str, Any]) -> str | None:
    """Hash of all that was recorded of a model's stages; None if one of them has no entry."""
    if missing(model, recorded):
        return None
    names = [f"{stage}@{model}" for stage in MODEL_STAGES]
    return files.sha256_of({name: recorded[name] for name in names})
