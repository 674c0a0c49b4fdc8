import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked import all_runs, artifacts, client, current, runs_of, track
from tracked import fresh as fresh
from tracked import migrated as migrated
from tracked import project as project

from pipeline.core import paths
from pipeline.tracking import mirror, mlflow_store
from pipeline.tracking import runs as tracking_runs


def register(model):
    """A version whose source is a folder of the current run, as `registry` makes it."""
    (run,) = runs_of(model)
    client().log_text(run.info.run_id, "weights", "sampler/MLmodel")
    client().create_registered_model(model)
    source = f"{run.info.artifact_uri}/sampler"
    return client().create_model_version(model, source, run.info.run_id)


def snapshot(folder):
    """All files below a folder, with their times and contents."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def places():
    """All places that the store names."""
    with closing(sqlite3.connect(paths.MLFLOW_DB)) as database:
        return {
            value
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("model_versions", "source"),
                ("model_versions", "storage_location"),
            )
            for (value,) in database.execute(f"select {column} from {table}")
            if value
        }


def move(old, new):
    old.rename(new)


def copy(old, new):
    shutil.copytree(old, new)


@pytest.mark.parametrize("how", [move, copy])
def test_a_project_that_was_moved_or_copied_lives_in_its_new_place(
    project, monkeypatch, capsys, how
):
    track()
    version = register("vae")
    before = {run.info.run_id: artifacts(run.info.run_id) for run in all_runs()}
    old = Path.cwd()
    new = old.with_name("another place, 50%")
    how(old, new)
    kept = snapshot(old)
    monkeypatch.chdir(new)
    capsys.readouterr()

    track()
    assert capsys.readouterr().out.splitlines() == [
        f"mlflow.db: came from {old}; 2 experiments, 3 runs, 1 registered versions now have their "
        f"files in {new / 'mlartifacts'}",
        "dcgan: unchanged",
        "ddpm: unchanged",
        "vae: unchanged",
        "compare them: make ui",
    ]
    assert all(str(old) not in each and old.as_uri() not in each for each in places())
    assert {run.info.run_id: artifacts(run.info.run_id) for run in all_runs()} == before
    project.retrain("vae", "2")
    track()
    assert "came from" not in capsys.readouterr().out
    newest = next(run for run in runs_of("vae") if run.info.run_id not in before)
    assert (new / "mlartifacts" / newest.info.run_id / "artifacts" / "metrics").exists()
    assert artifacts(newest.info.run_id)
    source = MlflowClient(mlflow_store.uri()).get_model_version_download_uri("vae", version.version)
    assert source.startswith((new / "mlartifacts").as_uri())
    assert snapshot(old) == kept and old.exists() == (how is copy)


def test_runs_of_mlflows_own_experiment_move_too(project, monkeypatch):
    old, new = Path.cwd().with_name("old"), Path.cwd().with_name("new")
    Path.cwd().rename(old)  # MLflow itself would take the % of its name for a quoted letter
    monkeypatch.chdir(old)
    track()
    run = client().create_run("0")
    client().log_text(run.info.run_id, "mine", "mine.txt")
    old.rename(new)
    monkeypatch.chdir(new)
    track()
    assert artifacts(run.info.run_id) == ["mine.txt"]
    another = client().create_run("0")
    client().log_text(another.info.run_id, "more", "more.txt")
    assert list((new / "mlruns").rglob("more.txt")) and not old.exists()


def test_places_that_were_chosen_stay(project, monkeypatch, tmp_path):
    track()
    chosen = tmp_path / "chosen" / "mlartifacts"
    mine = client().create_experiment("mine", chosen.as_uri())
    old, new = Path.cwd(), Path.cwd().with_name("new")
    old.rename(new)
    monkeypatch.chdir(new)
    track()
    assert client().get_experiment(mine).artifact_location == chosen.as_uri()


def test_nothing_is_touched_where_nothing_moved(project, capsys):
    track()
    before = paths.MLFLOW_DB.read_bytes()
    assert mirror.tracked(mlflow_store.uri())
    assert paths.MLFLOW_DB.read_bytes() == before
    assert "came from" not in capsys.readouterr().out


def test_a_folder_reached_by_a_link_is_the_same_place(project, monkeypatch, capsys):
    track()
    before = places()
    old, new = Path.cwd(), Path.cwd().with_name("new")
    old.rename(new)
    old.symlink_to(new)
    monkeypatch.chdir(new)
    track()
    assert places() == before
    assert "came from" not in capsys.readouterr().out


def test_a_store_without_its_files_says_where_they_are(project, monkeypatch, capsys):
    track()
    old, new = Path.cwd(), Path.cwd().with_name("new")
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("mlartifacts"))
    kept = snapshot(old)
    monkeypatch.chdir(new)
    capsys.readouterr()
    track()
    said = capsys.readouterr().out.splitlines()[0]
    assert said.endswith(f"of 3 runs the files are not here: copy {old / 'mlartifacts'}, too")
    project.retrain("vae", "2")
    track()
    assert snapshot(old) == kept


def test_runs_that_a_folder_without_a_store_wrote_here_keep_their_files(
    project, monkeypatch, capsys
):
    """It was told of this store by MLFLOW_TRACKING_URI."""
    here = Path.cwd()
    there = here.with_name("there")
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_store.uri())
        patch.chdir(there)
        track()
        before = {run.info.run_id: artifacts(run.info.run_id) for run in all_runs()}
    kept = snapshot(there)
    track()
    assert {run.info.run_id: artifacts(run.info.run_id) for run in all_runs()} == before
    project.retrain("vae", "2")
    track()
    assert snapshot(there) == kept
    assert any(run.info.artifact_uri.startswith(here.as_uri() + "/") for run in runs_of("vae"))


def test_a_training_that_was_followed_in_the_old_place_is_closed(project, monkeypatch):
    track()
    home = runs_of("vae")[0].info.experiment_id
    tags = {"model": "vae", "live": "vae-1", "current": "live"}
    run = client().create_run(home, tags={**tags, "followed_from": tracking_runs.place()})
    old, new = Path.cwd(), Path.cwd().with_name("new")
    old.rename(new)
    monkeypatch.chdir(new)
    track()
    assert client().get_run(run.info.run_id).info.status == "KILLED"
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]
