"""The committed figures that new ones are compared with: ``metrics/<title>/baseline.json``.

Of each model and metric it holds the mean and standard deviation over trainings that differ in
their seed alone, and how many these were. It is renewed by `make baseline`, which trains, or by
`gate --accept`, which takes over what is there now, for a reason that then stands in the diff.
"""

import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field

from pipeline.comparison import results
from pipeline.core import files, paths, records
from pipeline.core.errors import PipelineError

BEFORE = paths.METRICS
"""Where baseline and reference rows were while there was room for one data set."""
REMEDY = "restore it from git, or delete it and run `make baseline`"


@dataclass(frozen=True)
class Entry:
    """What trainings gave of one metric of one model.

    Attributes:
        mean: over the trainings.
        sd: standard deviation of one of them; None where there was one.
        n: how many there were.
    """

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Baseline:
    """What new metrics are compared with.

    Attributes:
        protocol: whose figures these are.
        models: entries by model and metric.
        accepted: one-line reasons for changes, in their order.
        source: where it was read, for people.
    """

    protocol: str
    models: Mapping[str, Mapping[str, Entry]]
    accepted: tuple[str, ...] = ()
    source: str = "this run"

    def write(self, path: Path) -> None:
        """Write the file, sorted, so that a change of one figure is one line of a diff."""
        models = {
            model: {metric: asdict(entry) for metric, entry in metrics.items()}
            for model, metrics in self.models.items()
        }
        files.write_json(
            path,
            {"accepted": list(self.accepted), "models": models, "protocol": self.protocol},
        )


class _Stored(records.Record):
    """An `Entry`, as it is written."""

    model_config = ConfigDict(extra="forbid")

    mean: Annotated[Any, AfterValidator(results.number)]
    sd: Annotated[Any, AfterValidator(lambda value: None if value is None else results.size(value))]
    n: int = Field(ge=1, le=1_000_000)


class _File(records.Record):
    """A `Baseline`, as it is written."""

    model_config = ConfigDict(extra="forbid")

    accepted: list[str]
    models: dict[str, dict[str, _Stored]]
    protocol: str


def parse(text: str, source: str) -> Baseline:
    """Read the JSON that `Baseline.write` wrote.

    Raises:
        PipelineError: one line for each mistake in it.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{source}: not valid JSON ({error}); {REMEDY}") from None
    return _baseline(records.parse(value, _File, Path(source), REMEDY), source)


def read(path: Path) -> Baseline:
    """The baseline in a file.

    Raises:
        PipelineError: if there is none, or one line for each mistake in it.
    """
    try:
        return _baseline(records.read(path, _File, REMEDY), str(path))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; `make baseline` writes it") from None


def committed(path: Path, revision: str, dataset: str) -> Baseline:
    """The baseline that was committed in a revision of git.

    A revision that has no such file may be from before each data set had a folder of its own
    (`BEFORE`): it has the one that is meant if its reference rows are of this ``dataset``.

    Raises:
        PipelineError: if there is none, or one line for each mistake in it.
    """
    if revision.startswith("-"):
        raise PipelineError(f"--base {revision}: no revision of git")
    try:
        return _committed(path, revision)
    except _Missing:
        with suppress(_Missing, ValueError):
            reference = json.loads(_git(BEFORE / "reference.json", revision))
            if isinstance(reference, dict) and reference.get("dataset") == dataset:
                return _committed(BEFORE / path.name, revision)
        raise


def _committed(path: Path, revision: str) -> Baseline:
    return parse(_git(path, revision), _of(path, revision))


def _baseline(found: _File, source: str) -> Baseline:
    models = {
        model: {metric: Entry(**entry.model_dump()) for metric, entry in metrics.items()}
        for model, metrics in found.models.items()
    }
    return Baseline(found.protocol, models, tuple(found.accepted), source)


class _Missing(PipelineError):
    """Git does not have it."""


def _of(path: Path, revision: str) -> str:
    short = revision[:12] if re.fullmatch("[0-9a-f]{40}", revision) else revision
    return f"{path} of {short}"


def _git(path: Path, revision: str) -> str:
    """The text of a file in a revision.

    Raises:
        PipelineError: if it cannot be had.
    """
    told = _of(path, revision)
    try:
        done = subprocess.run(
            ["git", "show", f"{revision}:./{path.as_posix()}"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise PipelineError(f"{told}: git is not installed") from None
    except OSError as error:
        raise PipelineError(f"{told}: git: {files.reason(error)}") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _Missing(f"{told}: git: {reason[0].removeprefix('fatal: ')}")
    return done.stdout


def summarised(runs: Sequence[Mapping[str, Mapping[str, Any]]], metrics: Sequence[str]) -> Baseline:
    """Means and standard deviations of ``metrics`` over runs of all models.

    Raises:
        PipelineError: if runs were judged by different rules, or a metric is not finite.
    """
    protocols = {found["protocol"] for run in runs for found in run.values()}
    if len(protocols) != 1:
        raise PipelineError(
            f"metrics of {len(protocols)} protocols do not make one baseline; run `make repro`"
        )
    models: dict[str, dict[str, Entry]] = {}
    for model in runs[0]:
        models[model] = {}
        for metric in metrics:
            values = [run[model].get(metric) for run in runs]
            if all(value is None for value in values):
                continue
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
                raise PipelineError(f"{model}: {metric} is not a finite number in every run")
            sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
            rounded = files.rounded({"mean": float(np.mean(values)), "sd": sd})
            models[model][metric] = Entry(rounded["mean"], rounded["sd"], len(values))
    return Baseline(protocols.pop(), models)
