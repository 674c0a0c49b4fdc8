"""What the tools own: they write and remove it, so nothing of the user's may be there."""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import PipelineError

OWNED = (
    paths.INPUTS,
    paths.RAW,
    paths.PROCESSED,
    paths.DOMAINS,
    paths.JUDGE,
    paths.MODELS,
    paths.SAMPLES,
    paths.SCORES,
    paths.METRICS,
    paths.WORK,
    paths.MLFLOW_DB,
    paths.MLFLOW_ARTIFACTS,
    Path(".dvc"),
    Path(".git"),
    Path(".venv"),
)
"""DVC removes the outputs of a stage before it runs; `make clean`, a person's `git clean` and
MLflow remove the others."""


def refuse(path: Path, where: str, allow: Iterable[Path] = ()) -> None:
    """Refuse a path of the user's that is, contains or lies in something that the tools own.

    Args:
        path: as the user wrote it, ~ expanded.
        where: who names it, for the message, such as ``params.yaml: data.folder``.
        allow: of `OWNED`, what is meant for this.

    Raises:
        PipelineError: with both paths and what would be right.
    """
    try:
        real = Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{where} = {str(path)!r}: not a path ({error})") from None
    for each in OWNED:
        if each in allow:
            continue
        owned = Path(os.path.realpath(each))
        if _within(real, owned):
            how = "is" if _same(real, owned) else "lies in"
        elif _within(owned, real):
            how = "contains"
        else:
            continue
        raise PipelineError(
            f"{where} = {str(path)!r}: it {how} {each}, which the pipeline writes and removes; "
            "keep your own files in a folder beside this project, or in one with a name of its own"
        )


def _within(inner: Path, outer: Path) -> bool:
    return any(_same(each, outer) for each in (inner, *inner.parents))


def _same(one: Path, other: Path) -> bool:
    """Whether two real paths are one, also where a disk tells no capitals from small letters."""
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
