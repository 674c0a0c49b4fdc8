"""The committed figures that new ones are compared with: ``metrics/baseline.json``.

Of each model and metric it holds the mean and standard deviation over trainings that differ in
their seed alone, and how many these were. It is renewed by `make baseline`, which trains, or by
`gate --accept`, which takes over what is there now, for a reason that then stands in the diff.
"""

import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field

from pipeline.comparison import results
from pipeline.core import files, paths, records
from pipeline.core.errors import PipelineError

PATH = paths.METRICS / "baseline.json"


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
    source: str = str(PATH)

    def write(self) -> None:
        """Write the file, sorted, so that a change of one figure is one line of a diff."""
        models = {
            model: {metric: asdict(entry) for metric, entry in metrics.items()}
            for model, metrics in self.models.items()
        }
        files.write_json(
            PATH,
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


def read(revision: str | None = None) -> Baseline:
    """The baseline of this folder, or the one that was committed in a revision of git.

    Raises:
        PipelineError: if there is none, or one line for each mistake in it.
    """
    if revision is None:
        try:
            return _baseline(records.read(PATH, _File, REMEDY), str(PATH))
        except FileNotFoundError:
            raise PipelineError(f"{PATH}: no such file; `make baseline` writes it") from None
    if revision.startswith("-"):
        raise PipelineError(f"--base {revision}: no revision of git")
    short = revision[:12] if re.fullmatch("[0-9a-f]{40}", revision) else revision
    shown = _git("show", f"{revision}:./{PATH.as_posix()}", f"{PATH} of {short}")
    return parse(shown, f"{PATH} of {short}")


def _baseline(found: _File, source: str) -> Baseline:
    models = {
        model: {metric: Entry(**entry.model_dump()) for metric, entry in metrics.items()}
        for model, metrics in found.models.items()
    }
    return Baseline(found.protocol, models, tuple(found.accepted), source)


def _git(command: str, what: str, told: str) -> str:
    try:
        done = subprocess.run(
            ["git", command, what], capture_output=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError:
        raise PipelineError(f"{told}: git is not installed") from None
    except OSError as error:
        raise PipelineError(f"{told}: git: {files.reason(error)}") from None
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PipelineError(f"{told}: git: {reason[0].removeprefix('fatal: ')}")
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
