import base64
import contextlib
import csv
import json
import math
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from pipeline import families
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import mirror
from pipeline.tracking import runs as tracking_runs
from pipeline.tracking import views as tracking_views

ROOT = Path(__file__).parents[2]
FAMILIES = {"dcgan": "gan", "ddpm": "ddpm", "vae": "vae"}
PICTURES = ("reconstructions", "samples")
METRICS = {
    "data_sha256": "d" * 64,
    "dataset": "mnist-5k",
    "fid": 12.5,
    "fid_features": "judge",
    "fid_max": 14.0,
    "fid_min": 11.0,
    "images_seen": 6400,
    "judge_recipe": "j" * 64,
    "metric_version": 1,
    "n_reference": 1000,
    "n_samples": 1000,
    "parameters": 12345,
    "protocol": "a1b2c3d4",
    "reconstruction_kind": None,
    "reconstruction_mse": None,
    "reconstruction_psnr": None,
    "reference_seed": 0,
    "reference_split": "test",
    "likelihood_bound": "elbo",
    "likelihood_kl_nats": 3.5,
    "nats_per_image": 700.0,
    "bits_per_dim": 1.25,
    "bits_per_dim_stderr": 0.01,
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


class Training(params.Section):
    images: int
    batch: int = 64
    learning_rate: float = 1e-3
    precision: str = "fp32"


class Project:
    """A small checkout in the current folder, as the stages before ``track`` leave it."""

    def __init__(self) -> None:
        self.models = list(FAMILIES)
        self.write_yaml()
        self.lock = {
            f"{stage}@{model}": {"cmd": f"python -m stages.{stage} {model}", "outs": [{"md5": "1"}]}
            for model in self.models
            for stage in ("train", "sample", "evaluate")
        }
        self.write_lock()
        for model in self.models:
            self.write_metrics(model)
            self.write_curve(model, [(10, 320, 1.5, 0.5), (20, 640, 1.25, 0.25)])
            paths.pictures_dir(model).mkdir(parents=True)
            for name in PICTURES:
                (paths.pictures_dir(model) / f"{name}.png").write_bytes(PNG)
            paths.model_dir(model).mkdir(parents=True)
            (paths.model_dir(model) / "weights.safetensors").write_bytes(model.encode())

    def write_yaml(self) -> None:
        blocks = {
            model: {"family": FAMILIES[model], "training": {"images": 6400, "batch": 32}}
            | {"data": "processed", "network": {"width": 8}, "sampling": {}, "scoring": {}}
            for model in self.models
        }
        # JSON is YAML, too.
        content = {"train": {"seed": 3, "budget": 1.0}, "models": blocks}
        paths.PARAMS.write_text(json.dumps(content))

    def write_lock(self) -> None:
        paths.DVC_LOCK.write_text(json.dumps({"schema": "2.0", "stages": self.lock}))

    def write_metrics(self, model: str, **changes: object) -> None:
        result = {**METRICS, "model": model, "family": FAMILIES[model], **changes}
        paths.model_metrics(model).parent.mkdir(parents=True, exist_ok=True)
        paths.model_metrics(model).write_text(json.dumps(result))

    def write_curve(self, model: str, rows: list[tuple]) -> None:
        paths.curve(model).parent.mkdir(parents=True, exist_ok=True)
        with paths.curve(model).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([("step", "images", "generator/loss", "critic/loss"), *rows])

    def write_timing(self, model: str) -> None:
        digest = files.sha256(paths.model_dir(model) / "weights.safetensors")
        points = [[10, 1_700_000_010.25], [20, 1_700_000_020.5]]
        timing = {"started": 1.7e9, "seconds": 21.5, "device": "cpu", "points": points}
        files.write_json(paths.timing("train", model, digest), timing)

    def retrain(self, model: str, version: str) -> None:
        self.lock[f"train@{model}"]["outs"] = [{"md5": version}]
        self.write_lock()

    def drop(self, model: str) -> None:
        self.models.remove(model)
        self.write_yaml()


def use_small_families(patch: pytest.MonkeyPatch) -> None:
    """Families that need no torch, and that nobody changes."""
    patch.setattr(families, "names", lambda: sorted(set(FAMILIES.values())))
    blocks = {"Network": None, "Training": Training, "Sampling": None, "Scoring": None}
    patch.setattr(families, "load", lambda _: SimpleNamespace(data="processed", **blocks))


def track() -> None:
    mirror.mirror(*mirror.read())


def track_in_a_process() -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_small_families(patch)
        track()


def child_environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=mirror.store_uri())


def all_runs(view: int = ViewType.ACTIVE_ONLY) -> list:
    ids = [each.experiment_id for each in client().search_experiments()]
    return list(client().search_runs(ids, run_view_type=view, max_results=1000))


def runs_of(model: str) -> list:
    return [run for run in all_runs() if run.data.tags["model"] == model]


def current() -> dict[str, str]:
    """Lock hash of the current run of each model; fails if there are two."""
    found = [run for run in all_runs() if run.data.tags["current"] == "true"]
    hashes = {run.data.tags["model"]: run.data.tags["lock_hash"] for run in found}
    assert len(hashes) == len(found)
    return hashes


def store() -> tuple[str, dict[str, int]]:
    """All that the store holds: each row of each table, and each file with its time."""
    with sqlite3.connect(paths.MLFLOW_DB) as database:
        rows = "\n".join(database.iterdump())
    root = paths.MLFLOW_ARTIFACTS
    return rows, {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


def artifacts(run_id: str, folder: str | None = None) -> list[str]:
    """Names of the files of a run; of images what comes before their times and random numbers."""
    found = []
    for each in client().list_artifacts(run_id, folder):
        found += artifacts(run_id, each.path) if each.is_dir else [each.path.partition("+")[0]]
    return sorted(found)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; making one takes seconds."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without a store, in a folder whose name needs quoting."""
    folder = tmp_path / "my checkout, 100%25"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    use_small_families(monkeypatch)
    return Project()


@pytest.fixture
def project(fresh: Project, migrated: Path) -> Project:
    """A project with an empty store."""
    shutil.copy(migrated, paths.MLFLOW_DB)
    return fresh


def test_first_time_mirrors_every_model(project, capsys):
    track()
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "dcgan: new",
        "ddpm: new",
        "vae: new",
        "compare them: make ui",
    ]
    assert printed.err == ""


def test_run_holds_what_the_files_say(project):
    track()
    (run,) = runs_of("vae")
    assert run.info.run_name == "vae"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "family": "vae",
        "dataset": "mnist-5k",
        "split": "test",
        "images": "6400",
        "batch": "32",
        "learning_rate": "0.001",
        "precision": "fp32",
        "parameters": "12345",
        "train.seed": "3",
        "train.budget": "1.0",
    }
    assert run.data.metrics == {
        "eval/fid": 12.5,
        "eval/fid_min": 11,
        "eval/fid_max": 14,
        "eval/bits_per_dim": 1.25,
        "eval/bits_per_dim_stderr": 0.01,
        "eval/nats_per_image": 700,
        "eval/likelihood_kl_nats": 3.5,
        "cost/parameters": 12345,
        "cost/images_seen": 6400,
        "train/generator/loss": 1.25,
        "train/critic/loss": 0.25,
    }
    tags = run.data.tags
    assert tags["complete"] == tags["current"] == "true"
    assert tags["model"] == tags["family"] == "vae"
    assert tags["protocol"] == "a1b2c3d4"
    assert tags["likelihood_bound"] == "elbo"
    assert tags["n_samples"] == "1000"
    assert tags["reference_seed"] == "0"
    assert tags["mlflow.runColor"] == tracking_views.colour("vae")
    assert tags["mlflow.loggedImages"] == "True"
    assert "reconstruction_kind" not in tags
    assert "mlflow.source.git.commit" not in tags
    assert artifacts(run.info.run_id) == [
        "curves/vae.csv",
        # In full and as a thumbnail.
        "images/pictures~reconstructions",
        "images/pictures~reconstructions",
        "images/pictures~samples",
        "images/pictures~samples",
        "metrics/vae.json",
        "params.json",
        "pictures/reconstructions.png",
        "pictures/samples.png",
    ]
    block = json.loads(
        Path(client().download_artifacts(run.info.run_id, "params.json")).read_text()
    )
    assert block["network"] == {"width": 8}
    curve = client().get_metric_history(run.info.run_id, "train/generator/loss")
    assert [(point.step, point.value) for point in curve] == [(10, 1.5), (20, 1.25)]


def test_artifacts_are_beside_the_store(project):
    track()
    assert list(paths.MLFLOW_ARTIFACTS.rglob("pictures/samples.png"))
    assert sorted(path.name for path in Path().iterdir() if path.name.startswith("ml")) == [
        "mlartifacts",
        "mlflow.db",
    ]


def test_families_have_their_own_colours(project):
    track()
    colours = {run.data.tags["mlflow.runColor"] for run in all_runs()}
    assert len(colours) == 3
    assert len(set(tracking_views.PALETTE)) == len(tracking_views.PALETTE)


def test_models_of_a_family_have_shades_of_its_colour(project):
    project.models = ["beta_vae", "vae", "cvae"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "beta_vae", "vae")
        patch.setitem(FAMILIES, "cvae", "vae")
        project.write_yaml()
        for model in project.models:
            project.write_metrics(model)
            for stage in ("train", "sample", "evaluate"):
                project.lock[f"{stage}@{model}"] = {"cmd": model}
        project.write_lock()
        track()
    found = {run.data.tags["model"]: run.data.tags["mlflow.runColor"] for run in all_runs()}
    assert found["beta_vae"] == tracking_views.colour("vae")
    assert len(set(found.values())) == 3


def test_shades_are_colours_and_all_differ():
    found = [tracking_views.colour(family, n) for family in ("gan", "vae") for n in range(5)]
    assert len(set(found)) == 10
    assert all(re.fullmatch("#[0-9a-f]{6}", each) for each in found)
    assert tracking_views.colour("gan") in tracking_views.PALETTE


def test_experiment_explains_the_metrics_and_shows_them(project):
    track()
    (experiment,) = [each for each in client().search_experiments() if each.name != "Default"]
    assert experiment.name == "mnist-5k · a1b2c3d4"
    note = experiment.tags["mlflow.note.content"]
    assert all(f"`{key}`" in note for key in tracking_views.COLUMNS)
    start = "http://x/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey="
    assert mirror.view_urls("http://me:secret@x/", "7") == {
        "Leaderboard": f"{start}leaderboard".replace("//x", "//***@x"),
        "Families": f"{start}families&compareRunsMode=CHART".replace("//x", "//***@x"),
    }
    states = {}
    for name in ("leaderboard", "families"):
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{name}"])
        kind, _, packed = view["state"].partition(";")
        assert kind == "deflate"
        states[name] = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert states["leaderboard"]["runsHiddenMode"] == "SHOW_ALL"
    charts = states["families"]["compareRunCharts"]
    sections = {each["uuid"] for each in states["families"]["compareRunSections"]}
    assert {each["metricSectionId"] for each in charts} < sections
    assert len({each["uuid"] for each in charts}) == len(charts)
    assert {each["type"] for each in charts} == {"BAR", "SCATTER", "IMAGE", "LINE"}


def test_a_run_names_its_data_and_what_trained_it(project):
    project.write_timing("vae")
    track()
    (run,) = runs_of("vae")
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("mnist-5k", "d" * 16)
    assert run.data.tags["version.torch"].startswith("2.")
    assert run.data.tags["device"]
    (pulled,) = runs_of("ddpm")
    assert "version.torch" not in pulled.data.tags


def test_a_run_of_an_older_format_is_mirrored_once_more(project):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking_runs, "FORMAT", "1")
        track()
    for _ in range(2):
        track()
        assert sorted(run.data.tags["format"] for run in runs_of("vae")) == ["1", "2"]
        assert sorted(current()) == ["dcgan", "ddpm", "vae"]


def test_protocols_have_their_own_experiments(project):
    project.write_metrics("vae", protocol="other")
    track()
    names = {each.name for each in client().search_experiments()}
    assert names == {"Default", "mnist-5k · a1b2c3d4", "mnist-5k · other"}
    assert len({run.info.experiment_id for run in all_runs()}) == 2


def test_repeating_changes_nothing(project, capsys):
    project.write_timing("vae")
    track()
    before = store()
    capsys.readouterr()
    time.sleep(0.01)
    track()
    assert store() == before
    assert capsys.readouterr().out.splitlines()[:3] == [
        "dcgan: unchanged",
        "ddpm: unchanged",
        "vae: unchanged",
    ]


def test_changed_model_gets_a_new_run(project, capsys):
    track()
    before = current()
    capsys.readouterr()
    project.retrain("vae", "2")
    track()
    after = current()
    assert len(all_runs()) == 4
    assert after["vae"] != before["vae"]
    assert {**after, "vae": None} == {**before, "vae": None}
    assert "vae: new" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("stage", ["train", "sample", "evaluate"])
def test_each_stage_of_a_model_counts(project, stage):
    track()
    project.lock[f"{stage}@vae"]["params"] = {"params.yaml": {"models.vae.scoring": {"x": 1}}}
    project.write_lock()
    track()
    assert len(runs_of("vae")) == 2


def test_order_of_the_lock_does_not_count(project):
    track()
    project.lock = dict(reversed(project.lock.items()))
    project.write_lock()
    before = store()
    track()
    assert store() == before


def test_model_that_moves_to_another_protocol_is_current_there_only(project):
    track()
    project.retrain("vae", "2")
    project.write_metrics("vae", protocol="other")
    track()
    assert len(runs_of("vae")) == 2
    assert len(current()) == 3


def test_reverted_change_makes_the_old_run_current_again(project, capsys):
    track()
    before = current()
    project.retrain("vae", "2")
    track()
    project.retrain("vae", "1")
    capsys.readouterr()
    track()
    assert current() == before
    assert len(all_runs()) == 4
    assert "vae: current again" in capsys.readouterr().out.splitlines()


def test_removed_model_keeps_its_run_but_is_not_current(project, capsys):
    track()
    project.drop("ddpm")
    capsys.readouterr()
    track()
    assert sorted(current()) == ["dcgan", "vae"]
    assert len(runs_of("ddpm")) == 1
    assert "ddpm: no longer in params.yaml; its runs are kept" in capsys.readouterr().out


def test_failed_model_is_skipped_and_not_current(project, capsys):
    track()
    paths.model_metrics("ddpm").unlink()
    capsys.readouterr()
    track()
    printed = capsys.readouterr()
    assert sorted(current()) == ["dcgan", "vae"]
    assert printed.err == (
        "ddpm: skipped, no metrics/models/ddpm.json: it failed, or was not run\n"
    )
    assert "ddpm" not in printed.out


def test_model_that_dvc_has_not_recorded_is_skipped(project, capsys):
    del project.lock["evaluate@ddpm"]
    project.write_lock()
    track()
    assert sorted(current()) == ["dcgan", "vae"]
    assert "dvc.lock has no evaluate@ddpm" in capsys.readouterr().err


def test_without_any_result_nothing_is_current(project):
    track()
    for model in project.models:
        paths.model_metrics(model).unlink()
    track()
    assert current() == {}


def test_missing_lock_file_is_one_line(project):
    paths.DVC_LOCK.unlink()
    with pytest.raises(PipelineError, match=r"^dvc.lock: no such file; run `make repro` first$"):
        mirror.read()


def test_damaged_metrics_file_is_one_line(project):
    paths.model_metrics("vae").write_text("{")
    with pytest.raises(PipelineError, match=r"^metrics/models/vae.json: not valid JSON"):
        mirror.read()


def test_numbers_that_are_not_finite_are_refused(project, capsys):
    project.write_metrics("vae", fid=math.nan, fid_max=math.inf)
    project.write_curve("vae", [(10, 320, 1.5, math.nan), (20, 640, -math.inf, 0.25)])
    track()
    (run,) = runs_of("vae")
    assert not {"eval/fid", "eval/fid_max"} & set(run.data.metrics)
    with sqlite3.connect(paths.MLFLOW_DB) as database:
        rows = database.execute("select key, value, is_nan from metrics").fetchall()
    assert rows
    assert all(math.isfinite(value) and abs(value) < 1e300 and not nan for _, value, nan in rows)
    assert len(client().get_metric_history(run.info.run_id, "train/critic/loss")) == 1
    assert capsys.readouterr().err.splitlines() == [
        "vae: not finite, not logged: eval/fid, eval/fid_max",
        "vae: not finite, not logged: train/critic/loss, train/generator/loss",
    ]


def test_gaps_in_a_curve_are_left_out(project):
    project.write_curve("vae", [(10, 320, "", 0.5), (20, 640, 1.25, "")])
    track()
    (run,) = runs_of("vae")
    history = client().get_metric_history(run.info.run_id, "train/generator/loss")
    assert [(point.step, point.value) for point in history] == [(20, 1.25)]


def test_long_curves_are_logged_in_full_and_in_batches(project, monkeypatch):
    sizes = []
    log_batch = MlflowClient.log_batch

    def counted(self, run_id, metrics=(), **rest):
        sizes.append(len(metrics))
        return log_batch(self, run_id, metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    project.write_curve("vae", [(step, step, step / 10, 1.0) for step in range(1, 1202)])
    track()
    assert max(sizes) == 1000
    (run,) = runs_of("vae")
    assert len(client().get_metric_history(run.info.run_id, "train/generator/loss")) == 1201


def test_times_are_those_of_the_training_where_they_are_known(project):
    project.write_timing("vae")
    track()
    (timed,) = runs_of("vae")
    assert timed.info.start_time == 1_700_000_000_000
    assert timed.info.end_time == 1_700_000_021_500
    assert timed.data.metrics["cost/train_seconds"] == 21.5
    assert timed.data.tags["device"] == "cpu"
    assert "train_seconds" not in timed.data.tags
    history = client().get_metric_history(timed.info.run_id, "train/generator/loss")
    assert [point.timestamp for point in history] == [1_700_000_010_250, 1_700_000_020_500]


def test_times_are_not_made_up_for_pulled_results(project):
    started = time.time() * 1000
    track()
    (pulled,) = runs_of("vae")
    assert started - 1 <= pulled.info.start_time <= pulled.info.end_time <= time.time() * 1000 + 1
    assert "cost/train_seconds" not in pulled.data.metrics
    assert pulled.data.tags["train_seconds"] == "n/a"


def test_times_of_other_weights_are_not_used(project):
    project.write_timing("vae")
    (paths.model_dir("vae") / "weights.safetensors").write_bytes(b"others")
    track()
    assert runs_of("vae")[0].data.tags["train_seconds"] == "n/a"


def test_results_without_their_data_are_mirrored(project):
    shutil.rmtree("data")
    shutil.rmtree(paths.PICTURES)
    track()
    (run,) = runs_of("vae")
    assert artifacts(run.info.run_id) == ["curves/vae.csv", "metrics/vae.json", "params.json"]
    assert "mlflow.loggedImages" not in run.data.tags


def test_what_only_some_models_have_is_logged_where_it_is(project):
    project.write_metrics(
        "vae",
        iwae_bits_per_dim=1.2,
        iwae_samples=64,
        translation_n=500,
        label_accuracy=0.95,
        discriminator_error=0.25,
        latent_density="one Gaussian",
        cycle_mse=None,
    )
    track()
    (vae,), (ddpm,) = runs_of("vae"), runs_of("ddpm")
    expected = {"iwae_bits_per_dim": 1.2, "label_accuracy": 0.95, "discriminator_error": 0.25}
    for key, value in expected.items():
        assert vae.data.metrics[f"eval/{key}"] == value
        assert f"eval/{key}" not in ddpm.data.metrics
    assert "eval/cycle_mse" not in vae.data.metrics
    assert vae.data.tags["latent_density"] == "one Gaussian"
    # How it was measured is no judgement.
    conditions = {"iwae_samples": "64", "translation_n": "500", "reference_seed": "0"}
    for key, value in conditions.items():
        assert vae.data.tags[key] == value
        assert f"eval/{key}" not in vae.data.metrics


def test_commit_is_recorded_in_a_git_checkout(project):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True, timeout=30)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True, timeout=30)
    track()
    assert len(runs_of("vae")[0].data.tags["mlflow.source.git.commit"]) == 40


CALLS = (
    "create_experiment", "set_experiment_tag", "create_run", "log_batch", "log_dict",
    "log_artifact", "log_image", "set_terminated", "set_tag",
)  # fmt: skip


def summary() -> list[tuple]:
    """What must not depend on crashes: all but ids, versions and times."""
    rows = []
    for run in all_runs():
        tags = {k: v for k, v in run.data.tags.items() if k not in ("lock_hash", "mirrored")}
        rows.append((sorted(tags.items()), run.info.status, sorted(run.data.metrics.items())))
        rows[-1] += (sorted(run.data.params.items()), artifacts(run.info.run_id))
    return sorted(rows)


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Make the ``number``-th writing call to MLflow end as if the process had been killed."""
    calls = 0

    def crashing(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(MlflowClient, name, crashing(getattr(MlflowClient, name)))


def test_crash_anywhere_is_mended_the_next_time(project):
    project.drop("ddpm")
    project.drop("dcgan")
    for number in range(1, 100):
        # Each time another version of the model takes the place of the one before.
        project.retrain("vae", str(number))
        finished = False
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            with contextlib.suppress(KeyboardInterrupt):
                track()
                finished = True
        track()
        runs = summary()
        assert len(runs) == number, f"after a crash at call {number}"
        assert len({repr(run) for run in runs}) == min(number, 2)  # the current and earlier ones
        assert list(current()) == ["vae"]
        if finished:
            break
    assert number > 10


def test_run_that_a_crash_left_is_deleted(project, monkeypatch):
    def fail(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking_runs, "_log_pictures", fail)
        track()
    assert [run.info.status for run in all_runs()] == ["RUNNING"]
    track()
    assert [run.info.status for run in all_runs()] == ["FINISHED"] * 3
    assert len(all_runs(ViewType.DELETED_ONLY)) == 1


def test_runs_that_others_write_to_a_server_just_now_are_left_alone(project):
    track()
    run = all_runs()[0]
    experiments = mirror.experiments(client())
    for ago, kept in ((10, True), (mirror.CRASHED_SECONDS + 10, False)):
        half = client().create_run(
            run.info.experiment_id,
            tags={"lock_hash": "of others", "mirrored": str(time.time() - ago)},
        )
        mirror._finished_runs(client(), "http://server")
        state = client().get_run(half.info.run_id).info.lifecycle_stage
        assert (state == "active") == kept
        mirror._finished_runs(client(), mirror.store_uri())
        assert client().get_run(half.info.run_id).info.lifecycle_stage == "deleted"
    assert len(experiments) == 1


def test_runs_of_others_are_left_alone(project):
    mine = client().create_experiment("mine", tags={"protocol": "my own"})
    run = client().create_run(mine, tags={"current": "true"})
    track()
    assert client().get_run(run.info.run_id).data.tags["current"] == "true"
    assert client().get_run(run.info.run_id).info.lifecycle_stage == "active"


def test_experiment_in_the_trash_is_brought_back(project):
    track()
    home = runs_of("vae")[0].info.experiment_id
    client().delete_experiment(home)
    track()
    assert client().get_experiment(home).lifecycle_stage == "active"
    assert len(current()) == 3
    assert len(all_runs()) == 3


def test_deleted_run_is_created_again(project):
    track()
    client().delete_run(runs_of("vae")[0].info.run_id)
    track()
    assert len(runs_of("vae")) == 1
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]


def test_two_at_once_make_one_store(fresh):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", "import test_tracking; test_tracking.track_in_a_process()"],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    printed = [each.communicate(timeout=120) for each in both]
    assert [each.returncode for each in both] == [0, 0], printed
    assert sorted(out.count(b": new") for out, _ in printed) == [0, 3]
    # Neither MLflow's migrations nor anything else speaks up.
    assert [err for _, err in printed] == [b"", b""]
    assert len(all_runs()) == 3
    assert len(current()) == 3


def test_deleted_store_is_filled_again(project, monkeypatch, capsys):
    track()
    before = summary()
    capsys.readouterr()
    paths.MLFLOW_DB.unlink()
    # The same file by another name, since MLflow holds on to a store that it has opened.
    other_name = mirror.store_uri().replace("/mlflow.db", "/./mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other_name)
    track()
    assert capsys.readouterr().out.count(": new") == 3
    assert paths.MLFLOW_DB.exists()
    assert summary() == before


def test_server_that_is_down_is_one_line(project, monkeypatch, caplog):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    started = time.monotonic()
    with pytest.raises(PipelineError) as raised:
        track()
    assert time.monotonic() - started < 30
    message = str(raised.value)
    assert message.startswith(f"MLflow at http://***@127.0.0.1:{port}: ")
    assert message.endswith("is the server that MLFLOW_TRACKING_URI names up?")
    assert "\n" not in message
    assert "secret" not in message
    assert caplog.text == ""
    paths.LOCKS.joinpath("mlflow.lock").unlink(missing_ok=True)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_damaged_store_is_one_line(project):
    paths.MLFLOW_DB.write_text("not a database " * 100)
    with pytest.raises(PipelineError, match=r"file is not a database.*delete it") as raised:
        track()
    assert "\n" not in str(raised.value)


def test_environment_names_the_store(project, monkeypatch, tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    before = paths.MLFLOW_DB.read_bytes()
    track()
    assert len(current()) == 3
    assert paths.MLFLOW_DB.read_bytes() == before


def test_stage_mirrors_the_models_of_the_real_params_file(project):
    shutil.copy(ROOT / "params.yaml", paths.PARAMS)
    paths.DVC_YAML.write_text("stages:\n  track:\n    cmd: x\n    deps: [metrics/models]\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.track"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "vae: new" in done.stdout.splitlines()
    assert set(current()) <= set(project.models)
    assert "vae" in current()


def test_help_does_not_wait_for_mlflow():
    code = "import sys; from pipeline import tracking, ui; sys.exit('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0
