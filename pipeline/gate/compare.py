"""Compare the metrics with a baseline, and fail if a model got worse by more than chance allows.

A metric may be worse by the largest of an absolute tolerance, a share of its baseline, and k
standard errors. The standard error is of the difference between one new training and the mean of n
earlier ones, sd (1 + 1/n)^(1/2), on the logarithmic scale for what spreads in proportion to its
size. Three trainings of one model say little about its sd, so it is that of the model that moves
most; k is Student's t with the degrees of freedom of all models, at such a level that all checks
together raise a false alarm in a share ``false_alarms`` of runs (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import special

from pipeline.comparison import results
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.gate import baseline
from pipeline.gate.baseline import Baseline, Entry
from pipeline.gate.rules import Gate, Rule

PASSED, FAILED = 0, 1
"""Exit codes."""
OK, WORSE, MISSING, WARNING, BETTER, NEW = "ok", "worse", "missing", "warning", "better", "new"
"""Verdicts; `WORSE` and `MISSING` fail."""
NO_RULE = "gate.metrics has no rule for it: add one, or `gate --accept` drops it"
"""Why a metric of the baseline fails that nothing would compare otherwise."""
TINY = 1e-12
FARTHEST = 50.0
"""The largest logarithm of a ratio that is told apart from infinity."""


@dataclass(frozen=True)
class Check:
    """One metric of one model.

    Attributes:
        model: its name.
        metric: the key.
        better: whether lower or higher is better.
        baseline: mean of the baseline, or None where it has none.
        now: the value, or None where there is none.
        allowed: by how much it may be worse.
        verdict: one of the verdicts of this module.
        reason: what people must know beside the numbers.
    """

    model: str
    metric: str
    better: str
    baseline: float | None
    now: float | None
    allowed: float | None
    verdict: str
    reason: str = ""

    @property
    def change(self) -> float | None:
        """By how much it is worse; negative if it is better."""
        if self.now is None or self.baseline is None:
            return None
        difference = self.now - self.baseline
        return difference if self.better == "lower" else -difference

    @property
    def failed(self) -> bool:
        """Whether it stops the change."""
        return self.verdict in (WORSE, MISSING)


def current(models: Sequence[str], home: paths.Results) -> dict[str, dict[str, Any]]:
    """The metrics that stand in ``home`` of those models that have some.

    Raises:
        PipelineError: one line for each mistake in these files.
    """
    found, problems = {}, []
    for model in models:
        try:
            found[model] = results.of_model(model, home.model_metrics(model))
        except FileNotFoundError:
            continue
        except PipelineError as error:
            problems.append(str(error))
    if problems:
        raise PipelineError("\n".join(problems))
    return found


def check_judges(home: paths.Results) -> None:
    """Refuse to compare what judges say who were found to rank nothing.

    Raises:
        PipelineError: with the reasons, or if what is known of them cannot be read.
    """
    if not home.reference.exists():
        return
    verdict = results.of_references(home.reference).get("judges")
    if verdict and not verdict["ranks"]:
        raise PipelineError(
            f"{home.reference}: these FIDs rank nothing, so that no gate can stand on them: "
            f"{'; '.join(verdict['reasons'])}; other judges may (judge.kind in {paths.PARAMS}), "
            "or more images"
        )


def compare(
    base: Baseline, now: Mapping[str, Mapping[str, Any]], rules: Gate, expected: Sequence[str] = ()
) -> list[Check]:
    """A check for each metric of each model that either side has, in the order of names.

    A metric of the baseline that no rule covers fails: whoever drops a rule says so by accepting.

    Args:
        base: what is compared with.
        now: metrics by model.
        rules: which metrics, and by how much they may be worse.
        expected: models that must have metrics, whether or not the baseline knows them.

    Raises:
        PipelineError: if there is nothing to compare, or the figures were measured by other rules.
    """
    for model, found in now.items():
        if found.get("protocol") != base.protocol:
            raise PipelineError(
                f"{model}: protocol {found.get('protocol')}, but the baseline "
                f"({base.source}) has {base.protocol}: other data, judges, number of images or "
                "metrics, so nothing compares; `make baseline` makes a new one"
            )
    pairs = [
        (model, metric)
        for model in sorted({*base.models, *now})
        for metric in rules.metrics
        if metric in base.models.get(model, {}) or now.get(model, {}).get(metric) is not None
    ]
    compared = [(m, key) for m, key in pairs if key in base.models.get(m, {})]
    if not compared:
        raise PipelineError(f"{base.source}: no metric of it is one that gate.metrics names")
    spreads = {metric: common(base, metric, rules) for metric in rules.metrics}
    level = rules.false_alarms / len(compared)
    checks = [
        _check(model, metric, base, now, rules, spreads[metric], level) for model, metric in pairs
    ]
    checks += [
        Check(model, metric, "lower", entry.mean, None, None, MISSING, NO_RULE)
        for model, metrics in sorted(base.models.items())
        for metric, entry in metrics.items()
        if metric not in rules.metrics
    ]
    lost = [model for model in expected if model not in now and model not in base.models]
    return checks + [
        Check(model, "all", "lower", None, None, None, MISSING, "the model has no metrics")
        for model in lost
    ]


@dataclass(frozen=True)
class Spread:
    """Standard deviation of a metric from training to training.

    Attributes:
        sd: the largest that a model has, as a share of its mean where ``relative``; 0 if no model
            was trained twice.
        freedom: degrees of freedom of all models together.
        relative: whether it is such a share.
    """

    sd: float
    freedom: int
    relative: bool


def common(base: Baseline, metric: str, rules: Gate) -> Spread:
    """The spread of a metric over all models of a baseline that were trained several times."""
    relative = rules.metrics[metric].relative > 0
    largest, freedom = 0.0, 0
    for metrics in base.models.values():
        entry = metrics.get(metric)
        if entry is not None and entry.sd is not None and entry.n > 1:
            unit = max(abs(entry.mean), TINY) if relative else 1.0
            largest = max(largest, entry.sd / unit)
            freedom += entry.n - 1
    return Spread(largest, freedom, relative)


def by_chance(entry: Entry, spread: Spread, level: float) -> float:
    """By how much a new training may be worse than its baseline without anything having changed.

    Args:
        entry: the baseline.
        spread: of the metric over all models.
        level: probability of a false alarm of this check.
    """
    if spread.sd == 0:
        return 0.0
    reach = _quantile(level, spread.freedom) * spread.sd * math.sqrt(1 + 1 / entry.n)
    # What spreads in proportion to its size has a normal logarithm, and so a longer upper tail.
    return abs(entry.mean) * math.expm1(min(reach, FARTHEST)) if spread.relative else reach


@cache
def _quantile(level: float, freedom: int) -> float:
    """Student's t that is exceeded with the probability ``level``."""
    return -float(special.stdtrit(freedom, level))


def _check(
    model: str,
    metric: str,
    base: Baseline,
    now: Mapping[str, Mapping[str, Any]],
    rules: Gate,
    spread: Spread,
    level: float,
) -> Check:
    rule = rules.rule(model, metric)
    entry = base.models.get(model, {}).get(metric)
    value = now.get(model, {}).get(metric)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    mean = None if entry is None else entry.mean
    check = Check(model, metric, rule.better, mean, float(value) if number else None, None, OK)
    if not number:
        what = "the model has no metrics" if model not in now else f"{metric} is {value}"
        return replace(check, verdict=MISSING, reason=what)
    if entry is None:
        return replace(check, verdict=NEW, reason="the baseline has none; `gate --accept` adds it")
    chance = by_chance(entry, spread, level)
    allowed = max(rule.absolute, rule.relative * abs(entry.mean), chance)
    check = replace(check, allowed=allowed)
    if check.change < -allowed:
        return replace(check, verdict=BETTER, reason="clearly better; `gate --accept` keeps it so")
    if check.change <= allowed:
        return check
    if rule.level == "warn":
        return replace(check, verdict=WARNING, reason="its rule only warns")
    if chance > rules.noisy * abs(entry.mean):
        return replace(check, verdict=WARNING, reason="too noisy to gate, so it only warns")
    return replace(check, verdict=WORSE)


def smallest(base: Baseline, rules: Gate) -> list[Check]:
    """For each metric of a baseline, the smallest regression that is stopped (``allowed``).

    ``verdict`` is `WARNING` where it is not stopped, however large it is.
    """
    now = {
        model: {"protocol": base.protocol, **{key: entry.mean for key, entry in metrics.items()}}
        for model, metrics in base.models.items()
    }
    found = []
    for check in compare(base, now, rules):
        if check.reason == NO_RULE:
            continue
        far = math.copysign(10 * check.allowed + 1, 1 if check.better == "lower" else -1)
        worse = {**now[check.model], check.metric: check.now + far}
        again = compare(base, {**now, check.model: worse}, rules)
        one = next(c for c in again if (c.model, c.metric) == (check.model, check.metric))
        found.append(replace(check, verdict=one.verdict, reason=one.reason))
    return found


def false_alarm_rate(base: Baseline, rules: Gate, *, runs: int, seed: int = 0) -> float:
    """The share of simulated runs that fail although nothing has changed.

    In each, a baseline of as many trainings as ``base`` has, and a candidate, are drawn about its
    means with its standard deviations, those of relative spread on the logarithmic scale. All
    metrics vary independently, which raises more alarms than if they moved together.
    """
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(runs):
        drawn: dict[str, dict[str, Entry]] = {}
        now: dict[str, dict[str, Any]] = {}
        for model, metrics in base.models.items():
            drawn[model], now[model] = {}, {"protocol": base.protocol}
            for metric, entry in metrics.items():
                if metric not in rules.metrics:
                    continue
                *values, candidate = _draw(entry, rules.metrics[metric], rng)
                sd = float(np.std(values, ddof=1)) if entry.n > 1 else None
                drawn[model][metric] = Entry(float(np.mean(values)), sd, entry.n)
                now[model][metric] = float(candidate)
        checks = compare(replace(base, models=drawn), now, rules)
        alarms += any(check.failed for check in checks)
    return alarms / runs


def _draw(entry: Entry, rule: Rule, rng: np.random.Generator) -> np.ndarray:
    """As many values as a baseline has, and one more."""
    normal = rng.standard_normal(entry.n + 1)
    sd = entry.sd or 0.0
    if rule.relative > 0:
        return entry.mean * np.exp(sd / max(abs(entry.mean), TINY) * normal)
    return entry.mean + sd * normal


def chosen_baseline(base: str | None, home: paths.Results, dataset: str) -> Baseline:
    """The baseline of a data set to compare with.

    That of ``base`` (a revision of git) if one is named. This folder's own stands in for it where
    it accepts a change that ``base`` does not know of: whoever reviews the diff sees the reason.

    Raises:
        PipelineError: if there is none.
    """
    if base is None:
        return baseline.read(home.baseline)
    found = baseline.committed(home.baseline, base, dataset)
    if home.baseline.exists():
        own = baseline.read(home.baseline)
        news = own.accepted[len(found.accepted) :]
        if news and own.accepted[: len(found.accepted)] == found.accepted:
            return replace(own, source=f"{own.source}, which accepts: {'; '.join(news)}")
    return found


def accept(base: Baseline, checks: Sequence[Check], protocol: str, reason: str) -> Baseline:
    """``base`` with the present values of all that is not `OK`, and why.

    A value that was accepted is that of one training, whose spread is taken from the others.
    """
    models = {model: dict(metrics) for model, metrics in base.models.items()}
    for check in checks:
        if check.verdict == OK:
            continue
        if check.now is not None:
            models.setdefault(check.model, {})[check.metric] = Entry(check.now, None, 1)
        else:
            models[check.model].pop(check.metric)
    kept = {model: metrics for model, metrics in models.items() if metrics}
    return Baseline(protocol, kept, (*base.accepted, reason), base.source)
