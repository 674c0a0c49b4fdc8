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

WORK = Path("work")
CHECKPOINT = ".ckpt"
LOCKS = WORK / "locks"
TIMINGS = WORK / "timings"
REPLICAS = WORK / "replicas"
FEATURES = WORK / "features"
LOGS = WORK / "logs"
CLUSTER = WORK / "cluster"
DURATIONS = WORK / "durations"
PACES = WORK / "paces.json"
SHOWN = WORK / "shown.json"
INPUTS_SEEN = WORK / "inputs.json"
FOLDERS = WORK / "folders"
SKIPPED = WORK / "skipped.csv"


class Results:
    """Where the results of one data set are, below ``metrics/``.

    Attributes:
        title: what the data set is called, ``data.title`` of params.yaml.
        folder: holds all that follows.
        models: the metrics of each model.
        external: the metrics of images that other generators made.
        thorough: what several trainings and sample sets of each model gave.
        curves: the training curve of each model.
        reference: the rows that need no training.
        comparison_csv: all of them side by side, for programs.
        comparison_md: the same for people.
        all_curves: the training curves of all models, for `dvc plots`.
        samples_picture: samples of all models.
        report: the folder of the page.
        baseline: what the gate compares with.
        params: params.yaml as it was when they were made.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.folder = METRICS / title
        self.models = self.folder / "models"
        self.external = self.folder / "external"
        self.thorough = self.folder / "thorough"
        self.curves = self.folder / "curves"
        self.reference = self.folder / "reference.json"
        self.comparison_csv = self.folder / "comparison.csv"
        self.comparison_md = self.folder / "comparison.md"
        self.all_curves = self.folder / "curves.csv"
        self.samples_picture = self.folder / "samples.png"
        self.report = self.folder / "report"
        self.baseline = self.folder / "baseline.json"
        self.params = self.folder / "params.yaml"

    @property
    def page(self) -> Path:
        """The report."""
        return self.report / "index.html"

    def model_metrics(self, model: str) -> Path:
        """The metrics of one model."""
        return self.models / f"{model}.json"

    def external_metrics(self, name: str) -> Path:
        """The metrics of images that another generator made."""
        return self.external / f"{name}.json"

    def thorough_metrics(self, model: str) -> Path:
        """What several trainings and sample sets of one model gave."""
        return self.thorough / f"{model}.json"

    def curve(self, model: str) -> Path:
        """The training curve of one model."""
        return self.curves / f"{model}.csv"

    def pictures_dir(self, model: str) -> Path:
        """Pictures of what a model makes, each ``<name>.png``."""
        return self.folder / "pictures" / model

    def pictures(self, model: str) -> dict[str, Path]:
        """All pictures of a model that there are, by name."""
        folders = (self.pictures_dir(model), scores_dir(model))
        return {path.stem: path for folder in folders for path in sorted(folder.glob("*.png"))}


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


def replica(train_seed: int, sample_seed: int) -> Path:
    """A copy of the project with other seeds."""
    return REPLICAS / f"train-{train_seed}-sample-{sample_seed}"


def checkpoint(model: str, fingerprint: str) -> Path:
    """Where a training that was interrupted goes on, keyed by all that it depends on."""
    return WORK / f"{model}-{fingerprint[:16]}{CHECKPOINT}"


def timing(stage: str, model: str, weights_sha256: str) -> Path:
    """Wall-clock facts of one stage, keyed by the weights that it made or used."""
    return TIMINGS / f"{stage}-{model}-{weights_sha256[:16]}.json"
