"""Models as params.yaml names them: an entry, validated by its family."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline import families
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import BLOCKS, ModelParams, one_of, validate


def read(
    raw: dict[str, Any],
    name: str,
    blocks: Iterable[str] = BLOCKS,
    path: Path = paths.PARAMS,
) -> ModelParams:
    """One model of params.yaml with the given blocks validated by its family, the others None.

    Args:
        raw: what `pipeline.core.params.read` returned.
        name: the model's.
        blocks: those that the caller depends on.
        path: the file, for messages.

    Raises:
        PipelineError: one line for each mistake, with its key.
    """
    entry = params.entry(raw, name, path)
    where = f"models.{name}"
    if entry["family"] not in families.names():
        message = one_of("family", entry["family"], families.names())
        raise PipelineError(f"{path}: {where}.family: {message}")
    family = families.load(entry["family"])
    if entry["data"] != family.data:
        # It says what dvc.yaml needs to know, which cannot ask the family.
        raise PipelineError(
            f"{path}: {where}.data = {entry['data']!r}: models of the family "
            f"{entry['family']} are trained on {family.data}"
        )
    schemas = {block: getattr(family, block.capitalize()) for block in BLOCKS}
    return ModelParams(
        name=name,
        family=entry["family"],
        data=entry["data"],
        **{b: validate(schemas[b], entry[b], f"{where}.{b}", path) for b in blocks},
    )


def check_device(model: ModelParams, device: Any) -> None:
    """Refuse a model that cannot be trained on a device (`core.contract.Family.unsupported`).

    Args:
        model: with its training block.
        device: the ``torch.device``.

    Raises:
        PipelineError: with the key and what to set instead.
    """
    reason = families.load(model.family).unsupported(model, device)
    if reason:
        raise PipelineError(f"{paths.PARAMS}: models.{model.name}.{reason}")
