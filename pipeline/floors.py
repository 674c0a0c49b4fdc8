"""Fail if a result is worse than the worst value that its model may have.

A floor is absolute, unlike a comparison with an earlier result: it catches a model that got worse
little by little. All metrics here are better when lower.
"""

from math import isfinite
from pathlib import Path

from pipeline import files, paths
from pipeline.errors import PipelineError


def check(file: str) -> None:
    """Compare metrics/models/<model>.json with ``file``: {model: {metric: worst allowed value}}.

    Raises:
        PipelineError: one line for each metric that is missing or too high.
    """
    try:
        floors = files.read_json(Path(file))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{file}: not readable as JSON: {error}") from None
    problems = []
    for model, limits in sorted(floors.items()):
        path = paths.model_metrics(model)
        result = files.read_json(path) if path.exists() else {}
        for metric, worst in sorted(limits.items()):
            value = result.get(metric)
            met = isinstance(value, int | float) and isfinite(value) and value <= worst
            shown = "missing" if value is None else value
            print(f"{'ok    ' if met else 'MISSED'} {model} {metric} {shown} (at most {worst})")
            if not met:
                problems.append(f"{path}: {metric} is {shown}, must be at most {worst}")
    if problems:
        raise PipelineError("\n".join(problems))
