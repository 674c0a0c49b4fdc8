"""Fail if a result is worse than the worst value that its model may have.

A floor is absolute, unlike a comparison with an earlier result: it catches a model that got worse
little by little.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, RootModel, model_validator

from pipeline.comparison import results
from pipeline.core import owned, params, paths, records
from pipeline.core.errors import PipelineError
from pipeline.gate import compare

KINDS = {"at_most": "at most", "at_least": "at least"}
REMEDY = "it should hold {model: {at_most | at_least: {metric: limit}}}"
Limit = Annotated[Any, AfterValidator(results.number)]


class Limits(records.Record):
    """The limits of one model, by kind and metric."""

    at_most: dict[str, Limit] = {}
    at_least: dict[str, Limit] = {}

    @model_validator(mode="after")
    def _some(self) -> Self:
        for kind in self.model_extra or {}:
            raise ValueError(f"{kind}: must be at_most or at_least")
        if not self.at_most and not self.at_least:
            raise ValueError("has no limit")
        return self


class Floors(RootModel[dict[str, Limits]]):
    """The limits of models."""

    root: dict[str, Limits] = Field(min_length=1)


def check(file: str) -> None:
    """Compare the models' metrics with the limits in ``file``.

    It holds ``{model: {"at_most": {metric: limit}, "at_least": {metric: limit}}}``, either of them
    possibly left out.

    Raises:
        PipelineError: one line for each mistake in the file, such as a model that params.yaml does
            not have, and for each metric that is missing or beyond its limit.
    """
    path = Path(file)
    owned.refuse(path, "floors", allow=(paths.METRICS,))
    try:
        floors = records.read(path, Floors, REMEDY).root
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; {REMEDY}") from None
    raw = params.read()
    models, home = params.model_blocks(raw), params.results(raw)
    unknown = [
        f"{path}: {params.one_of('model', model, models)}"
        for model in floors
        if model not in models
    ]
    if unknown:
        raise PipelineError("\n".join(unknown))
    found = compare.current(sorted(floors), home)
    problems = []
    for model, kind, metric, limit in _limits(floors):
        if model not in found:
            value, shown, hint = None, "missing", "; the model has no metrics, run `make repro`"
        else:
            value, shown, hint = _value(found[model], metric)
        met = value is not None and (value <= limit if kind == "at_most" else value >= limit)
        print(f"{'ok    ' if met else 'MISSED'} {model} {metric} {shown} ({KINDS[kind]} {limit})")
        if not met:
            problems.append(
                f"{home.model_metrics(model)}: {metric} is {shown}, must be {KINDS[kind]} "
                f"{limit}{hint}"
            )
    if problems:
        raise PipelineError("\n".join(problems))


def _limits(floors: dict[str, Limits]) -> Iterator[tuple[str, str, str, float]]:
    """Model, kind, metric and limit of every line."""
    for model, limits in sorted(floors.items()):
        for kind in sorted(KINDS):
            for metric, limit in sorted(getattr(limits, kind).items()):
                yield model, kind, metric, limit


def _value(metrics: dict[str, Any], metric: str) -> tuple[float | None, str, str]:
    """A metric's number, if it has one, how to show it, and what may be wrong with its name."""
    if metric not in metrics:
        return None, "missing", f" ({params.one_of('metric', metric, metrics)})"
    value = metrics[metric]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, "null" if value is None else repr(value), ""
    return value, str(value), ""
