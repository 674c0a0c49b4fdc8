"""The families of generators: one file each, found by its name and imported only when used."""

import importlib
import pkgutil
from typing import Any

from pipeline.core import paths
from pipeline.core.errors import PipelineError


def names() -> list[str]:
    """The known families: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type:
    """The family's class, a `core.family.Family`; each module holds one as ``FAMILY``."""
    return importlib.import_module(f"{__name__}.{name}").FAMILY


def check_device(model: Any, device: Any) -> None:
    """Refuse a model that cannot be trained on a device (`core.family.Family.unsupported`).

    Args:
        model: its `core.params.ModelParams`, with the training block.
        device: the ``torch.device``.

    Raises:
        PipelineError: with the key and what to set instead.
    """
    reason = load(model.family).unsupported(model, device)
    if reason:
        raise PipelineError(f"{paths.PARAMS}: models.{model.name}.{reason}")
