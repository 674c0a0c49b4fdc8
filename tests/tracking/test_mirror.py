import contextlib
import json
import math
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compared import reference, verdict
from mlflow import MlflowClient
from mlflow.entities import ViewType
from tracked import (
    FAMILIES,
    HOME,
    all_runs,
    artifacts,
    child_environment,
    client,
    current,
    runs_of,
    store,
    track,
)
from tracked import fresh as fresh
from tracked import migrated as migrated
from tracked import project as project

from pipeline.comparison import colours
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import mirror, mlflow_store
from pipeline.tracking import runs as tracking_runs

ROOT = Path(__file__).parents[2]


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


def test_artifacts_are_beside_the_store(project):
    track()
    assert list(paths.MLFLOW_ARTIFACTS.rglob("pictures/samples.png"))
    assert sorted(path.name for path in Path().iterdir() if path.name.startswith("ml")) == [
        "mlartifacts",
        "mlflow.db",
    ]


def test_families_have_their_own_colours(project):
    track()
    assert len({run.data.tags["mlflow.runColor"] for run in all_runs()}) == 3


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
    assert found["beta_vae"] == colours.colour("vae")
    assert len(set(found.values())) == 3
    assert found == colours.of_models((model, "vae") for model in project.models)


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


def test_another_data_set_has_experiments_and_current_runs_of_its_own(project):
    """And a store of before data sets had titles goes on with what it has."""
    track()
    (old,) = mirror.experiments(client())
    client().delete_experiment_tag(old.experiment_id, "title")
    before = current()
    project.write_yaml("mine")
    shutil.copytree(HOME.folder, paths.Results("mine").folder)
    for model in project.models:
        project.retrain(model, "of mine")
    track()
    names = {each.name for each in mirror.experiments(client())}
    assert names == {"mnist-5k · a1b2c3d4", "mine · a1b2c3d4"}
    assert [each.name for each in mirror.experiments(client(), "mnist-5k")] == [old.name]
    found = [run for run in all_runs() if run.data.tags["current"] == "true"]
    assert len(found) == 2 * len(before)
    project.write_yaml()
    project.drop("vae")
    track()
    kept = [run for run in all_runs() if run.data.tags["current"] == "true"]
    gone = {run.info.run_id for run in found} - {run.info.run_id for run in kept}
    assert {run.info.experiment_id for run in found if run.info.run_id in gone} == {
        old.experiment_id
    }


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
    HOME.model_metrics("ddpm").unlink()
    capsys.readouterr()
    track()
    printed = capsys.readouterr()
    assert sorted(current()) == ["dcgan", "vae"]
    assert printed.err == (
        "ddpm: skipped, no metrics/mnist-5k/models/ddpm.json: it failed, or was not run\n"
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
        HOME.model_metrics(model).unlink()
    track()
    assert current() == {}


def test_missing_lock_file_is_one_line(project):
    paths.DVC_LOCK.unlink()
    with pytest.raises(PipelineError, match=r"^dvc.lock: no such file; run `make repro` first$"):
        mirror.read()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"\0", b"<<<<<<< HEAD", b'{"fid": 1}', b'{"model": "vae"}',
     b'{"a": 1, "a": 2}', b"[" * 100_000, b"null"],
)  # fmt: skip
def test_a_damaged_metrics_file_is_refused_by_its_name(project, content):
    HOME.model_metrics("vae").write_bytes(content)
    refused_before_anything_is_written(r"^metrics/mnist-5k/models/vae.json: ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, [1], {"a": 1}])
@pytest.mark.parametrize("key", ["fid", "cost_of_ours"])
def test_numbers_that_are_none_are_refused(project, key, value):
    project.write_metrics("vae", **{key: value})
    refused_before_anything_is_written(r"^metrics/mnist-5k/models/vae.json: ")


def test_conflict_markers_in_the_lock_file_are_refused(project):
    paths.DVC_LOCK.write_text(f"<<<<<<< HEAD\n{paths.DVC_LOCK.read_text()}")
    refused_before_anything_is_written(r"^dvc.lock:1: conflict markers")


def refused_before_anything_is_written(said):
    before = store()
    with pytest.raises(PipelineError, match=said):
        track()
    assert store() == before


CALLS = (
    "create_experiment", "set_experiment_tag", "create_run", "log_batch", "log_dict",
    "log_artifact", "log_image", "set_terminated", "set_tag",
)  # fmt: skip


def summary(runs: list) -> list[tuple]:
    """What must not depend on crashes: all but ids, versions and times."""
    rows = []
    for run in runs:
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


@pytest.mark.slow
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
        runs = all_runs()
        assert len(runs) == number, f"after a crash at call {number}"
        # The current one and earlier ones, of which all are looked at in the end.
        seen = summary(runs if finished else runs[:2])
        assert len({repr(run) for run in seen}) == min(number, 2)
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
        mirror._finished_runs(client(), "http://server", HOME.title)
        state = client().get_run(half.info.run_id).info.lifecycle_stage
        assert (state == "active") == kept
        mirror._finished_runs(client(), mlflow_store.uri(), HOME.title)
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
            [sys.executable, "-c", "import tracked; tracked.track_in_a_process()"],
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


def test_deleted_store_is_filled_again(project, capsys):
    track()
    before = summary(all_runs())
    capsys.readouterr()
    paths.MLFLOW_DB.unlink()
    track()
    assert capsys.readouterr().out.count(": new") == 3
    assert paths.MLFLOW_DB.exists()
    assert summary(all_runs()) == before


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


def test_environment_names_the_store(project, monkeypatch, tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    before = paths.MLFLOW_DB.read_bytes()
    track()
    assert len(current()) == 3
    assert paths.MLFLOW_DB.read_bytes() == before


def test_stage_mirrors_the_models_of_the_real_params_file(project):
    shutil.copy(ROOT / "params.yaml", paths.PARAMS)
    paths.DVC_YAML.write_text(
        "stages:\n  track:\n    cmd: x\n    deps: [metrics/mnist-5k/models]\n"
    )
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
    code = "import sys; from pipeline.tracking import mirror, ui; sys.exit('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize(("reasons", "expected"), [(["they see no blur"], "False"), ([], "True")])
def test_a_tag_says_whether_fids_rank_anything(project, reasons, expected):
    HOME.reference.write_text(json.dumps(reference() | {"judges": verdict(*reasons)}))
    track()
    [run] = runs_of("vae")
    assert run.data.tags["fid_ranks"] == expected
    assert not [key for key in run.data.metrics if "fid_ranks" in key]
