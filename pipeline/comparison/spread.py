"""How much a model's metrics move from training to training and from sample set to sample set."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.comparison import results, ties
from pipeline.core import files, params, paths, records
from pipeline.core.errors import PipelineError

DISTANCES = ("fid", "second_fid", "class_fid", "translation_fid_ab", "translation_fid_ba")
"""What spreads in proportion to its size."""
SPREAD = (
    *DISTANCES,
    "kid",
    "coverage",
    "density",
    "precision",
    "recall",
    "authenticity",
    "label_accuracy",
    "bits_per_dim",
    "iwae_bits_per_dim",
    "reconstruction_mse",
    "translation_label_accuracy",
    "translation_mse",
    "cycle_mse",
)
"""The metrics of which intervals are reported, where a model has them."""
VALUES = ("trained_mean", "trained_low", "trained_high", "trained_sd", "sample_sets_sd")
"""Mean over trainings, its interval (`ties.of_mean`), and standard deviations over
trainings, each with samples of its own, and over sample sets of one training; relative ones of
`DISTANCES`."""
COUNTS = ("trainings", "sample_sets")
INVERSION = ("mse", "psnr", "ssim", "kind", "n")
STALE = "thorough_is_of"
"""The key that says of what else the file is."""
AGREEMENT = 0.01
"""Other processors move distances by less than this, as a share."""
ADDED = {
    "flips": False,
    "augment": "none",
    "augment_p": 1.0,
    "augment_target": 0.0,
    "augment_images": 20_000,
    "optimiser": "adam",
}
"""Keys of trainings that came when there were results already, and what they were before that."""
COLUMNS = (
    STALE,
    *COUNTS,
    *(f"{key}_{value}" for key in SPREAD for value in VALUES),
    *(f"inversion_{each}" for each in INVERSION),
)
"""What `read` may give."""

Number = Annotated[Any, AfterValidator(results.number)]
Scalar = Annotated[Any, AfterValidator(results.scalar)]


class Spread(records.Record):
    """The `VALUES` of one metric."""

    __pydantic_extra__: dict[str, Number]

    trained_mean: Number
    trained_low: Number
    trained_high: Number
    trained_sd: Number
    sample_sets_sd: Number

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        slack = 1e-6 * abs(self.trained_mean) + 1e-9
        low, high = self.trained_low - slack, self.trained_high + slack
        if not low <= self.trained_mean <= high:
            raise ValueError("trained_mean should be between trained_low and trained_high")
        if min(self.trained_sd, self.sample_sets_sd) < 0:
            raise ValueError("trained_sd and sample_sets_sd should be 0 or more")
        return self


class Thorough(records.Record):
    """``thorough/<model>.json`` of a data set: `summary`, of what it is, and an inversion."""

    __pydantic_extra__: dict[str, Scalar]

    protocol: str
    configuration: str
    trainings: int = Field(ge=2)
    sample_sets: int = Field(ge=2)
    runs: list[dict[str, Scalar]] = Field(min_length=1)
    spread: dict[str, Spread]
    inversion_mse: Number = None
    inversion_psnr: Number = None
    inversion_ssim: Scalar = None
    inversion_n: Number = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        for key in self.spread:
            if key not in SPREAD:
                raise ValueError(f"spread: {params.one_of('metric', key, SPREAD)}")
        for key in DISTANCES:
            for run in self.runs[:1]:
                if key in run:
                    results.number(run[key])
        return self


def summary(runs: dict[tuple[int, int], dict[str, Any]], start: tuple[int, int]) -> dict[str, Any]:
    """The runs of one model, and the interval of each metric over its trainings.

    Args:
        runs: its metrics by (train.seed, sample.seed).
        start: the seeds of the default run. Runs of its training are its sample sets; the runs of
            other trainings have samples of their own, so that intervals over trainings hold what
            moves by either.

    Returns:
        ``trainings`` and ``sample_sets``, how many; ``runs``, a list of seeds and metrics;
        ``spread``, for each of `SPREAD` that it has, its `VALUES`.

    Raises:
        PipelineError: if runs were judged by different protocols.
    """
    if len({metrics["protocol"] for metrics in runs.values()}) > 1:
        raise PipelineError(f"{runs[start]['model']}: its runs were judged by other rules")
    trainings = [start, *(seeds for seeds in runs if seeds[0] != start[0])]
    sample_sets = [seeds for seeds in runs if seeds[0] == start[0]]
    keys = [key for key in SPREAD if runs[start].get(key) is not None]
    found = {}
    for key in keys:
        over = ties.of_mean([runs[s][key] for s in trainings], relative=key in DISTANCES)
        drawn = ties.of_mean([runs[s][key] for s in sample_sets], relative=key in DISTANCES)
        values = (over.mean, over.low, over.high, over.deviation, drawn.deviation)
        found[key] = files.rounded(dict(zip(VALUES, values, strict=True)))
    return {
        "trainings": len(trainings),
        "sample_sets": len(sample_sets),
        "runs": [
            {"train_seed": t, "sample_seed": s, **{key: runs[t, s][key] for key in keys}}
            for t, s in runs
        ],
        "spread": found,
    }


def configuration(raw: dict[str, Any], model: str) -> str:
    """16 hex digits that name all parameters which move a model's metrics, but for the seeds.

    Keys of `ADDED` do not count where they change nothing: results of before are of the same.
    """
    for key in ("train", "sample", "evaluate"):
        if not isinstance(raw.get(key), dict):
            raise PipelineError(
                f"{paths.PARAMS}: {key}: missing section; see the commented original"
            )
    shared: dict[str, Any] = {key: dict(raw[key]) for key in ("train", "sample", "evaluate")}
    for key in ("train", "sample"):
        shared[key].pop("seed", None)
    for key in ("inception", "imagenet"):  # they have columns of their own
        shared["evaluate"].pop(key, None)
    shared["train"] = _without_added(shared["train"])
    chosen = dict(raw["models"][model])
    if isinstance(chosen.get("training"), dict):
        chosen["training"] = _without_added(chosen["training"])
    return files.sha256_of({**shared, "model": chosen})[:16]


def _without_added(section: dict[str, Any]) -> dict[str, Any]:
    absent = object()
    return {key: value for key, value in section.items() if ADDED.get(key, absent) != value}


def read(path: Path, metrics: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """What the comparison shows of ``thorough/``: some of `COLUMNS`, or why none of them.

    Args:
        path: the file of a model; without it, the answer is empty.
        metrics: of its default run, which must be judged by the same rules and agree with the
            first run in the file.
        raw: params.yaml, which must be the same in what moves metrics.

    Raises:
        PipelineError: one line for each mistake in the file.
    """
    try:
        found = records.read(path, Thorough, "restore it from git, or delete it")
    except FileNotFoundError:
        return {}
    return _read(found.model_dump(exclude_unset=True), metrics, raw)


def _read(found: dict[str, Any], metrics: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    if found["protocol"] != metrics.get("protocol"):
        return {STALE: "other rules"}
    if found["configuration"] != configuration(raw, metrics["model"]):
        return {STALE: "other parameters"}
    for key in found["runs"][0].keys() & set(DISTANCES):
        then, now = found["runs"][0][key], metrics.get(key)
        if now is None or abs(now - then) > AGREEMENT * abs(then):
            return {STALE: "other code"}
    flat: dict[str, Any] = {key: found[key] for key in COUNTS}
    for key, values in found["spread"].items():
        flat |= {f"{key}_{name}": value for name, value in values.items()}
    return flat | {key: value for key, value in found.items() if key.startswith("inversion_")}
