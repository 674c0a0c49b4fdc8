"""The families of generators: one file each, found by its name and imported only when used."""

import importlib
import pkgutil


def names() -> list[str]:
    """The known families: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type:
    """The family's class, a `core.contract.Family`; each module holds one as ``FAMILY``."""
    return importlib.import_module(f"{__name__}.{name}").FAMILY
