import json
import os
import time

import pytest
import torch
from tracked import HOME, METRICS, client, current, runs_of, track
from tracked import fresh as fresh
from tracked import migrated as migrated
from tracked import project as project

from pipeline.core import files, paths, tensors
from pipeline.core.errors import PipelineError
from pipeline.tracking import live, mirror, mlflow_store
from pipeline.tracking import runs as tracking_runs

START = 1.7e9
POINTS = [(10, START + 10.25, 1.5), (20, START + 20.5, 1.25)]


@pytest.fixture
def follower(project, monkeypatch):
    """Follows trainings whose data and judges are ready."""
    monkeypatch.setattr(
        live.Follower,
        "_experiment",
        lambda self, client: mirror.experiment(client, self.uri, HOME.title, METRICS),
    )
    return live.Follower(mlflow_store.uri())


def checkpoint(model, points):
    """What a training leaves below work/ after these points."""
    paths.WORK.mkdir(exist_ok=True)
    scalars = {
        "step": points[-1][0] if points else 3,
        "times": [(step, at) for step, at, _ in points],
        "rows": [
            {"step": step, "images": 32 * step, "generator/loss": value + 1e-9}
            for step, _, value in points
        ],
    }
    encoded = torch.tensor(list(json.dumps(scalars).encode()), dtype=torch.uint8)
    path = paths.checkpoint(model, "0" * 64)
    with files.replacing(path) as temporary:
        tensors.save(temporary, {"scalars": encoded}, name=path.name)
    return path


def finish(project, model):
    """The training of ``model`` ends as `checkpoint` had it, and is judged."""
    for path in paths.WORK.glob("*.ckpt"):
        path.unlink()
    project.write_curve(model, [(step, 32 * step, value, "") for step, _, value in POINTS])
    project.write_timing(model)
    timing = next(paths.TIMINGS.glob(f"train-{model}-*.json"))
    found = json.loads(timing.read_text())
    found["points"] = [[step, at] for step, at, _ in POINTS]
    timing.write_text(json.dumps(found))


def curve(run):
    found = client().get_metric_history(run.info.run_id, "train/generator/loss")
    return [(point.step, point.value, point.timestamp) for point in found]


def test_points_appear_while_the_training_runs(follower):
    assert follower.look() == []
    checkpoint("vae", [])
    assert follower.look() == [], "no point yet"
    checkpoint("vae", POINTS[:1])
    assert follower.look() == ["vae: step 10"]
    assert follower.look() == [], "nothing new"
    checkpoint("vae", POINTS)
    assert follower.look() == ["vae: step 20"]
    (run,) = runs_of("vae")
    assert curve(run) == [(10, 1.5, 1_700_000_010_250), (20, 1.25, 1_700_000_020_500)]
    assert run.info.status == "RUNNING" and run.data.tags["current"] == "live"


def test_the_run_begins_when_the_training_did(follower):
    checkpoint("vae", POINTS[:1])
    lock = paths.LOCKS / "train@vae.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (START + 2, START + 2))
    follower.look()
    assert runs_of("vae")[0].info.start_time == 1_700_000_002_000


def test_another_follower_goes_on_with_the_same_run(follower):
    checkpoint("vae", POINTS[:1])
    follower.look()
    checkpoint("vae", POINTS)
    live.Follower(follower.uri).look()
    (run,) = runs_of("vae")
    assert len(curve(run)) == 2


def test_track_takes_the_run_over(project, follower, capsys):
    checkpoint("vae", POINTS)
    follower.look()
    (before,) = runs_of("vae")
    finish(project, "vae")
    track()
    (run,) = runs_of("vae")
    assert run.info.run_id == before.info.run_id
    assert run.info.status == "FINISHED" and run.info.end_time == 1_700_000_021_500
    assert run.data.metrics["eval/fid"] == METRICS["fid"]
    assert curve(run) == [(10, 1.5, 1_700_000_010_250), (20, 1.25, 1_700_000_020_500)]
    assert current()["vae"] == run.data.tags["lock_hash"]
    track()
    assert len(runs_of("vae")) == 1


def test_another_training_of_the_model_is_another_run(project, follower):
    checkpoint("vae", [(10, START + 500.0, 3.0)])
    follower.look()
    finish(project, "vae")
    track()
    assert sorted(run.info.status for run in runs_of("vae")) == ["FINISHED", "KILLED"]
    assert "vae" in current()


def test_track_leaves_trainings_that_still_run(project, follower):
    track()
    checkpoint("vae", POINTS)
    follower.look()
    track()
    statuses = {run.data.tags["current"]: run.info.status for run in runs_of("vae")}
    assert statuses == {"true": "FINISHED", "live": "RUNNING"}


def test_a_training_that_was_stopped_is_no_longer_live(project, follower):
    path = checkpoint("vae", POINTS)
    follower.look()
    long_ago = time.time() - tracking_runs.ALIVE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    track()
    statuses = {run.data.tags["current"]: run.info.status for run in runs_of("vae")}
    assert statuses == {"true": "FINISHED", "false": "KILLED"}


def test_what_others_follow_stays_live(project, follower, monkeypatch):
    path = checkpoint("vae", POINTS)
    with monkeypatch.context() as patch:
        patch.setattr(tracking_runs, "place", lambda: "another machine")
        follower.look()
    path.unlink()
    track()
    assert {run.data.tags["current"] for run in runs_of("vae")} == {"true", "live"}


def test_a_hiccup_is_told_once_and_survived(project, monkeypatch, capsys):
    answers = iter([["vae: step 1"], "down", "down", ["vae: step 2"]])

    def look(self):
        answer = next(answers, None)
        if answer is None:
            raise KeyboardInterrupt
        if isinstance(answer, str):
            raise PipelineError(answer)
        return answer

    monkeypatch.setattr(live.Follower, "look", look)
    live.follow(seconds=0)
    shown = capsys.readouterr()
    assert "vae: step 2" in shown.out and "stopping" in shown.out
    assert shown.err == "error: down; still trying\n"


def test_a_store_that_is_down_at_the_start_ends_it(project, monkeypatch):
    def look(self):
        raise PipelineError("down")

    monkeypatch.setattr(live.Follower, "look", look)
    with pytest.raises(PipelineError, match="down"):
        live.follow(seconds=0)


def write_scalars(path, scalars):
    """A whole checkpoint that says this."""
    encoded = torch.tensor(list(json.dumps(scalars).encode()), dtype=torch.uint8)
    tensors.save(path, {"scalars": encoded}, name=path.name)


WHOLE = {"step": 10, "times": [[10, START]], "rows": [{"step": 10, "images": 5, "a/loss": 1.0}]}


@pytest.mark.parametrize(
    "change",
    [
        {"step": "ten"},
        {"step": -1},
        {"step": None},
        {"times": [[10]]},
        {"times": [[11, START]]},
        {"times": {"10": START}},
        {"times": [[10, 1e300]]},
        {"rows": [{"images": 5, "a/loss": 1.0}]},
        {"rows": [{"step": 10, "a/loss": "low"}]},
        {"rows": 3},
    ],
)
def test_a_checkpoint_that_says_nonsense_is_passed_over(follower, change):
    paths.WORK.mkdir(exist_ok=True)
    path = paths.checkpoint("vae", "0" * 64)
    write_scalars(path, {**WHOLE, **change})
    assert follower.look() == []
    write_scalars(path, WHOLE)
    assert follower.look() == ["vae: step 10"]


@pytest.mark.parametrize("scalars", [[], None, 3, "text", {}])
def test_scalars_of_another_kind_are_passed_over(follower, scalars):
    paths.WORK.mkdir(exist_ok=True)
    write_scalars(paths.checkpoint("vae", "0" * 64), scalars)
    assert follower.look() == []


def test_a_checkpoint_that_is_damaged_or_gone_is_passed_over(follower):
    path = checkpoint("vae", POINTS)
    whole = path.read_bytes()
    for content in (b"", b"half", whole[:-3], whole[:50], b"\xff" * 8 + whole[8:], whole + b"x"):
        path.write_bytes(content)
        assert follower.look() == []
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert live.read(path) is None, place
    for tensor in (torch.zeros(3), torch.zeros(0, dtype=torch.uint8), torch.ones(2, 2).bool()):
        tensors.save(path, {"scalars": tensor})
        assert follower.look() == []
    tensors.save(path, {"others": torch.zeros(3)})
    assert follower.look() == []
    path.unlink()
    for make in (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path.name)):
        make()
        assert follower.look() == []
        path.rmdir() if path.is_dir() else path.unlink()
    assert live.read(paths.WORK / "nowhere.ckpt") is None


def test_checkpoints_that_were_left_behind_are_passed_over(follower):
    checkpoint("removed_model", POINTS)
    path = checkpoint("vae", POINTS)
    long_ago = time.time() - tracking_runs.ALIVE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    assert follower.look() == []
    assert runs_of("vae") == []
