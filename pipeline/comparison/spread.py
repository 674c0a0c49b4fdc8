"""How much a model's metrics move from training to training and from sample set to sample set."""

from pathlib import Path
from typing import Any

from pipeline.comparison import ties
from pipeline.core import files
from pipeline.core.errors import PipelineError

DISTANCES = ("fid", "class_fid", "translation_fid_ab", "translation_fid_ba")
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
COLUMNS = (
    STALE,
    *COUNTS,
    *(f"{key}_{value}" for key in SPREAD for value in VALUES),
    *(f"inversion_{each}" for each in INVERSION),
)
"""What `read` may give."""


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
    """16 hex digits that name all parameters which move a model's metrics, but for the seeds."""
    shared: dict[str, Any] = {key: dict(raw[key]) for key in ("train", "sample", "evaluate")}
    for key in ("train", "sample"):
        del shared[key]["seed"]
    shared["evaluate"].pop("inception", None)  # it has keys of its own
    return files.sha256_of({**shared, "model": raw["models"][model]})[:16]


def read(path: Path, metrics: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """What the comparison shows of ``metrics/thorough``: some of `COLUMNS`, or why none of them.

    Args:
        path: the file of a model; without it, the answer is empty.
        metrics: of its default run, which must be judged by the same rules and agree with the
            first run in the file.
        raw: params.yaml, which must be the same in what moves metrics.

    Raises:
        PipelineError: if the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        found = files.read_json(path)
        return _read(found, metrics, raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{path}: not what `make thorough` writes ({type(error).__name__}: {error}); "
            "restore it from git, or delete it"
        ) from None


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
