"""Models as params.yaml names them: an entry, validated by its family."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import families
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import BLOCKS, ModelParams, one_of, validate

if TYPE_CHECKING:
    from pipeline.core.contract import TrainingImages

BYTES_PER_PARAMETER = 4 * 5
"""While training: the parameter, its gradient, its average, and Adam's two, in float32."""
SMALL = 1 << 28
"""Bytes that any machine has, so that it is not asked."""


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
            f"{path}: {where}.data = {params.shown(entry['data'])}: models of the family "
            f"{entry['family']} are trained on {family.data}"
        )
    schemas = {block: getattr(family, block.capitalize()) for block in BLOCKS}
    problems, made = [], {}
    for block in blocks:
        try:
            made[block] = validate(schemas[block], entry[block], f"{where}.{block}", path)
        except PipelineError as error:
            problems.append(str(error))
    if problems:
        raise PipelineError("\n".join(problems))
    return ModelParams(name=name, family=entry["family"], data=entry["data"], **made)


def scaled(model: ModelParams, budget: float) -> ModelParams:
    """The model as it is trained: the counts of images in its training times ``train.budget``."""
    return model.model_copy(update={"training": model.training.scaled(budget)})


def check_device(
    model: ModelParams,
    device: Any,
    images: "TrainingImages | None" = None,
    path: Path = paths.PARAMS,
) -> None:
    """Refuse a model that a stage would refuse later (`core.contract.Family.unsupported`).

    Args:
        model: with the blocks that the caller depends on, its training `scaled`.
        device: the ``torch.device``.
        images: what it is to be trained on, where that is known.
        path: the file, for messages.

    Raises:
        PipelineError: with the key and what to set instead.
    """
    reason = families.load(model.family).unsupported(model, device, images)
    if reason:
        raise PipelineError(f"{path}: models.{model.name}.{reason}")


def check_batch(model: ModelParams, devices: int, path: Path = paths.PARAMS) -> None:
    """Refuse training batches that ``runtime.devices`` processes cannot share evenly.

    Raises:
        PipelineError: with the key and what to set instead.
    """
    batch = model.training.batch
    if batch % devices:
        raise PipelineError(
            f"{path}: models.{model.name}.training.batch = {batch}: {devices} devices "
            f"(runtime.devices) share each batch evenly; make it a multiple of {devices}"
        )


def check_network(
    model: ModelParams, device: Any, images: "TrainingImages", path: Path = paths.PARAMS
) -> None:
    """Refuse a network that cannot be built, or is too large for the machine.

    It is built without values, which takes no memory and milliseconds.

    Args:
        model: with all its blocks.
        device: where it is to be trained, a ``torch.device``.
        images: what it is to be trained on.
        path: the file, for messages.

    Raises:
        PipelineError: with the key, and the memory that it would need.
    """
    from pipeline.core import contract

    where = f"{path}: models.{model.name}.network"
    try:
        built = contract.on_paper(families.load(model.family), images.spec, model)
        parameters = contract.count_parameters(built)
        buffers = sum(each.nbytes for each in built.buffers())
    except PipelineError:
        raise
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).partition("\n")[0].split())
        raise PipelineError(f"{where}: such a network cannot be built ({reason})") from None
    except Exception:
        return  # a defect of its code, which its own training shows; the others need not wait
    needed = BYTES_PER_PARAMETER * parameters + buffers
    there = memory(device) if needed > SMALL else needed
    if needed > there:
        raise PipelineError(
            f"{where}: training its {parameters:,} parameters takes {needed / 1e9:,.1f} GB at the "
            f"least, and there are {there / 1e9:,.1f} GB here; make it smaller"
        )


def memory(device: Any = None) -> int:
    """Bytes of memory of a device; without one, of the machine, as far as this process has it."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    there = psutil.virtual_memory().total
    try:  # less, in a container
        return min(there, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return there
