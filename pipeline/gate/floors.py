"""Fail if a result is worse than the worst value that its model may have.

A floor is absolute, unlike a comparison with an earlier result: it catches a model that got worse
little by little.
"""

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.gate import compare

KINDS = {"at_most": "at most", "at_least": "at least"}


def check(file: str) -> None:
    """Compare metrics/models/<model>.json with the limits in ``file``.

    It holds ``{model: {"at_most": {metric: limit}, "at_least": {metric: limit}}}``, either of them
    possibly left out.

    Raises:
        PipelineError: one line for each metric that is missing or beyond its limit.
    """
    try:
        floors = files.read_json(Path(file))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{file}: not readable as JSON: {error}") from None
    problems = []
    limits = list(_limits(file, floors))
    found = compare.current(list(floors))
    for model, kind, metric, limit in limits:
        value = found.get(model, {}).get(metric)
        met = isinstance(value, int | float) and isfinite(value)
        met = met and (value <= limit if kind == "at_most" else value >= limit)
        shown = "missing" if value is None else value
        print(f"{'ok    ' if met else 'MISSED'} {model} {metric} {shown} ({KINDS[kind]} {limit})")
        if not met:
            problems.append(
                f"{paths.model_metrics(model)}: {metric} is {shown}, must be {KINDS[kind]} {limit}"
            )
    if problems:
        raise PipelineError("\n".join(problems))


def _limits(file: str, floors: dict[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """Model, kind, metric and limit of every line.

    Raises:
        PipelineError: if a kind of limit is not known, since it would pass unchecked.
    """
    for model, kinds in sorted(floors.items()):
        for kind, limits in sorted(kinds.items()):
            if kind not in KINDS:
                raise PipelineError(f"{file}: {model}.{kind}: must be at_most or at_least")
            for metric, limit in sorted(limits.items()):
                yield model, kind, metric, limit
