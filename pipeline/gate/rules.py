"""The section ``gate`` of params.yaml: which metrics are compared, and how far they may move.

No stage depends on it, so that it stands beside the gate and not among the sections of
`pipeline.core.params`, of which every stage depends on the code.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from pipeline.comparison import results
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.params import Section
from pipeline.gate import baseline


class Rule(Section):
    """How one metric is compared.

    ``relative`` pools standard deviations as shares of the mean, as distances spread.
    """

    better: Literal["lower", "higher"]
    absolute: float = Field(0.0, ge=0, allow_inf_nan=False)
    relative: float = Field(0.0, ge=0, allow_inf_nan=False)
    level: Literal["fail", "warn"] = "fail"


class Override(Section):
    """What differs from the rule for one model."""

    absolute: float | None = Field(None, ge=0, allow_inf_nan=False)
    relative: float | None = Field(None, ge=0, allow_inf_nan=False)
    level: Literal["fail", "warn"] | None = None


class Gate(Section):
    """The section ``gate`` of params.yaml, which no stage depends on.

    A metric whose allowance by chance is a larger share of its baseline than ``noisy`` only warns:
    a gate that sees nothing smaller than that must not pass for one.
    """

    false_alarms: float = Field(0.01, gt=0, lt=1)
    noisy: float = Field(1.0, gt=0, allow_inf_nan=False)
    metrics: dict[str, Rule] = Field(min_length=1)
    models: dict[str, dict[str, Override]] = {}

    def rule(self, model: str, metric: str) -> Rule:
        """The rule of a metric with what a model overrides."""
        override = self.models.get(model, {}).get(metric)
        if override is None:
            return self.metrics[metric]
        return self.metrics[metric].model_copy(
            update={key: value for key, value in override.model_dump().items() if value is not None}
        )


def section(raw: dict[str, Any]) -> Gate:
    """The validated rules.

    Raises:
        PipelineError: one line for each mistake, also for models and metrics that are not there.
    """
    if "gate" not in raw:
        raise PipelineError(f"{paths.PARAMS}: gate: missing section; see the commented original")
    if not isinstance(raw["gate"], dict):
        raise PipelineError(f"{paths.PARAMS}: gate: must have the key metrics, not {raw['gate']!r}")
    block = dict(raw["gate"])
    # Each by itself, so that a mistake is told with the keys that could be meant.
    if isinstance(block.get("metrics"), dict):
        block["metrics"] = {
            metric: params.validate(Rule, rule, f"gate.metrics.{metric}")
            for metric, rule in block["metrics"].items()
        }
    if isinstance(block.get("models"), dict):
        block["models"] = {
            model: {
                metric: params.validate(Override, rule, f"gate.models.{model}.{metric}")
                for metric, rule in overrides.items()
            }
            if isinstance(overrides, dict)
            else overrides
            for model, overrides in block["models"].items()
        }
    found: Gate = params.validate(Gate, block, "gate")
    models = raw["models"] if isinstance(raw.get("models"), dict) else {}
    unknown = [metric for metric in found.metrics if metric not in results.NUMBERS]
    known = [*results.NUMBERS, *sorted(_measured(raw, models))] if unknown else []
    problems = [
        f"{paths.PARAMS}: gate.metrics.{metric}: {params.one_of('metric', metric, known)}"
        for metric in unknown
        if metric not in known
    ]
    problems += [
        f"{paths.PARAMS}: gate.models.{model}: {params.one_of('model', model, models)}"
        for model in found.models
        if model not in models
    ]
    problems += [
        f"{paths.PARAMS}: gate.models.{model}.{metric}: "
        f"{params.one_of('metric', metric, found.metrics)}"
        for model, overrides in found.models.items()
        for metric in overrides
        if metric not in found.metrics
    ]
    if problems:
        raise PipelineError("\n".join(problems))
    return found


def _measured(raw: dict[str, Any], models: Iterable[str]) -> set[str]:
    """The metrics of results and of the baseline that are there now: families have their own.

    A file that cannot be read is told by whoever needs what is in it.
    """
    found: set[str] = set()
    try:
        home = params.results(raw)
    except PipelineError:
        return found
    for model in models:
        with suppress(PipelineError, FileNotFoundError):
            found |= {
                key
                for key, value in results.of_model(model, home.model_metrics(model)).items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
    with suppress(PipelineError):
        models_of = baseline.read(home.baseline).models
        found |= {metric for metrics in models_of.values() for metric in metrics}
    return found
