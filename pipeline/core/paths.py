"""Every path of the project, relative to the repository's root.

Stages run with the root as their working directory (DVC sees to it), so a path here is
also the path that ``dvc.yaml`` declares.
"""

from pathlib import Path

CODE = Path("pipeline")
PARAMS = Path("params.yaml")
DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
MLFLOW_DB = Path("mlflow.db")
MLFLOW_ARTIFACTS = Path("mlartifacts")

DATA = Path("data")
INPUTS = DATA / "inputs.json"
RAW = DATA / "raw"
PROCESSED = DATA / "processed"
DOMAINS = DATA / "domains"
JUDGE = DATA / "judge"
MODELS = DATA / "models"
SAMPLES = DATA / "samples"
SCORES = DATA / "scores"

METRICS = Path("metrics")
MODEL_METRICS = METRICS / "models"
EXTERNAL = METRICS / "external"
THOROUGH = METRICS / "thorough"
CURVES = METRICS / "curves"
PICTURES = METRICS / "pictures"
REFERENCE = METRICS / "reference.json"
COMPARISON_CSV = METRICS / "comparison.csv"
COMPARISON_MD = METRICS / "comparison.md"
ALL_CURVES = METRICS / "curves.csv"
SAMPLES_PICTURE = METRICS / "samples.png"
REPORT = METRICS / "report"

WORK = Path("work")
LOCKS = WORK / "locks"
TIMINGS = WORK / "timings"
REPLICAS = WORK / "replicas"
INCEPTION = WORK / "inception"
LOGS = WORK / "logs"
DURATIONS = WORK / "durations.json"
SHOWN = WORK / "shown.json"
INPUTS_SEEN = WORK / "inputs.json"
FOLDERS = WORK / "folders"
SKIPPED = WORK / "skipped.csv"


def model_dir(model: str) -> Path:
    """Weights (``weights.safetensors``) and description (``model.json``) of a model."""
    return MODELS / model


def samples_dir(model: str) -> Path:
    """``samples.npy`` of a model, ``labels.npy`` if it is conditional, and ``cost.json``.

    Of one that translates between domains, ``a_to_b.npy`` and ``b_to_a.npy``.
    """
    return SAMPLES / model


def scores_dir(model: str) -> Path:
    """What the evaluation of a model leaves beside its metrics.

    ``nats.npy`` of a model with a likelihood: -log p of each image of the evaluated split; and of
    one that draws images ``nearest.png``, samples above the training images that they resemble.
    """
    return SCORES / model


def pictures_dir(model: str) -> Path:
    """Pictures of what a model makes, each ``<name>.png``."""
    return PICTURES / model


def pictures(model: str) -> dict[str, Path]:
    """All pictures of a model that there are, by name."""
    folders = (pictures_dir(model), scores_dir(model))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.png"))}


def model_metrics(model: str) -> Path:
    """The metrics of one model."""
    return MODEL_METRICS / f"{model}.json"


def external_metrics(name: str) -> Path:
    """The metrics of images that another generator made."""
    return EXTERNAL / f"{name}.json"


def thorough_metrics(model: str) -> Path:
    """What several trainings and sample sets of one model gave."""
    return THOROUGH / f"{model}.json"


def replica(train_seed: int, sample_seed: int) -> Path:
    """A copy of the project with other seeds."""
    return REPLICAS / f"train-{train_seed}-sample-{sample_seed}"


def curve(model: str) -> Path:
    """The training curve of one model."""
    return CURVES / f"{model}.csv"


def checkpoint(model: str, fingerprint: str) -> Path:
    """Where a training that was interrupted goes on, keyed by all that it depends on."""
    return WORK / f"{model}-{fingerprint[:16]}.ckpt"


def timing(stage: str, model: str, weights_sha256: str) -> Path:
    """Wall-clock facts of one stage, keyed by the weights that it made or used."""
    return TIMINGS / f"{stage}-{model}-{weights_sha256[:16]}.json"
