import json
import math
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked import HOME, PICTURES, PNG, artifacts, client, runs_of, track
from tracked import fresh as fresh
from tracked import migrated as migrated
from tracked import project as project

from pipeline.comparison.colours import colour
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import runs as tracking_runs


@pytest.fixture
def alone(project):
    """A project of one model, which is mirrored three times as fast."""
    for other in set(project.models) - {"vae"}:
        project.drop(other)
    return project


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
    assert tags["mlflow.runColor"] == colour("vae")
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


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"step,images,loss\n1,2\n",
        b"step,images,loss\n1,2,3,4\n",
        b"step,images,loss\n1.5,2,3\n",
        b"step,images,loss\n1,2,nan\n",
        b"step,images,loss\n1,2,1e999\n",
        b"step,images,loss\n99999999999999999999,2,3\n",
        b"step,images\n\0,1\n",
        b"<<<<<<< HEAD\nstep,images,loss\n1,2,3\n",
    ],
)
def test_a_damaged_curve_is_named_and_what_was_begun_is_cleared(alone, content):
    whole = HOME.curve("vae").read_bytes()
    HOME.curve("vae").write_bytes(content)
    with pytest.raises(PipelineError, match=r"^metrics/mnist-5k/curves/vae.csv: ") as raised:
        track()
    assert "\n" not in str(raised.value)
    HOME.curve("vae").write_bytes(whole)
    track()
    assert [run.info.status for run in runs_of("vae")] == ["FINISHED"]


@pytest.mark.parametrize("content", [b"", b"GIF", PNG[:40], b"\x89PNG\r\n\x1a\n" * 9])
def test_a_damaged_picture_is_named(alone, content):
    path = HOME.pictures_dir("vae") / "samples.png"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=rf"^{path}: not a readable picture") as raised:
        track()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"started": "then"}',
        b'{"started": 1e300, "seconds": 1, "device": "cpu", "points": []}',
        b'{"started": 1, "seconds": 1, "device": "cpu", "points": [[1]]}',
        b'{"started": 1, "seconds": NaN, "device": "cpu", "points": []}',
    ],
)
def test_damaged_timings_are_left_out(alone, capsys, content):
    alone.write_timing("vae")
    (path,) = paths.TIMINGS.glob("train-vae-*.json")
    path.write_bytes(content)
    track()
    (run,) = runs_of("vae")
    assert run.data.tags["train_seconds"] == "n/a"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"vae: {path}: ") and said.endswith("; its times are left out")


def test_numbers_that_mlflow_cannot_hold_are_left_out(capsys):
    kept = tracking_runs.finite("vae", [("a", 10**400, 1.0, 0), ("b", math.nan, 1.0, 0),
                                        ("c", 1.5, 1.0, 0)])  # fmt: skip
    assert [each.key for each in kept] == ["c"]
    assert capsys.readouterr().err == "vae: not finite, not logged: a, b\n"


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
    shutil.rmtree(HOME.folder / "pictures")
    track()
    (run,) = runs_of("vae")
    assert artifacts(run.info.run_id) == ["curves/vae.csv", "metrics/vae.json", "params.json"]
    assert "mlflow.loggedImages" not in run.data.tags


def test_pictures_of_samples_and_of_their_evaluation_are_logged(project):
    paths.scores_dir("vae").mkdir(parents=True)
    (paths.scores_dir("vae") / "nearest.png").write_bytes(PNG)
    track()
    (vae,), (ddpm,) = runs_of("vae"), runs_of("ddpm")
    logged = {each: artifacts(run.info.run_id) for each, run in (("vae", vae), ("ddpm", ddpm))}
    own = [f"pictures/{name}.png" for name in PICTURES]
    for each, more in (("vae", ["pictures/nearest.png"]), ("ddpm", [])):
        found = [name for name in logged[each] if name.startswith("pictures/")]
        assert found == sorted([*own, *more])
    assert logged["vae"].count("images/pictures~nearest") == 2, "in full and as a thumbnail"


def test_what_only_some_models_have_is_logged_where_it_is(project):
    project.write_metrics(
        "vae",
        iwae_bits_per_dim=1.2,
        iwae_nats_per_image=690.0,
        iwae_samples=64,
        translation_n=500,
        label_accuracy=0.95,
        label_accuracy_real=0.99,
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
