import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from clone import Clone

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.orchestration import verify
from pipeline.orchestration.verify import Recorded

HOME = paths.Results("toy")

CURVE = [
    {"step": "10", "images": "160", "model/loss": "2.5", "model/kl": "0.1"},
    {"step": "20", "images": "320", "model/loss": "2.25", "model/kl": "0.2"},
]


def recorded(curve=CURVE, *, weights="w", curve_hash="c"):
    return Recorded({"data/processed": "d"}, weights, curve_hash, curve)


def edited(row, key, value):
    return [{**each, key: value} if place == row else each for place, each in enumerate(CURVE)]


def test_the_same_bits_are_no_difference():
    assert verify.differences("vae", HOME.curve("vae"), recorded(), recorded()) == []
    assert verify.differences("vae", HOME.curve("vae"), recorded(None), recorded()) == []


def test_where_curves_part_is_told_with_the_values_of_both():
    other = recorded(edited(1, "model/loss", "2.26"), weights="x", curve_hash="y")
    told = verify.differences("vae", HOME.curve("vae"), recorded(), other)
    assert told == [
        "data/models/vae is not what dvc.lock names",
        "metrics/toy/curves/vae.csv is not what dvc.lock names",
        "they part at step 20, after step 10: model/loss is 2.26 here and 2.25 as committed",
    ]


def test_where_the_curves_are_the_same_only_the_final_weights_differ():
    told = verify.differences("vae", HOME.curve("vae"), recorded(), recorded(weights="x"))
    assert told[0] == "data/models/vae is not what dvc.lock names"
    assert told[1].endswith(
        "only the final weights differ, after the last step that was logged, 20"
    )
    assert len(told) == 2


def test_a_curve_that_was_edited_is_told_apart_from_a_training_that_differs():
    told = verify.differences(
        "vae", HOME.curve("vae"), recorded(edited(0, "model/kl", "0.3")), recorded()
    )
    assert "it was edited" in told[0]
    assert told[1] == (
        "they part at step 10, after the beginning: model/kl is 0.1 here and 0.3 as committed"
    )


def test_a_lock_of_another_training_than_the_curve_is_told():
    told = verify.differences(
        "vae", HOME.curve("vae"), recorded(), recorded(weights="x", curve_hash="y")
    )
    assert told[-1] == (
        "but the file metrics/toy/curves/vae.csv is: dvc.lock is of another training than it"
    )


def test_without_a_curve_nobody_can_say_where():
    told = verify.differences("vae", HOME.curve("vae"), recorded(None), recorded(weights="x"))
    assert told[-1].startswith("there is no file metrics/toy/curves/vae.csv")


@pytest.mark.parametrize(
    ("committed", "again", "told"),
    [
        (CURVE, CURVE, None),
        (CURVE, CURVE[:1], "the same up to step 10, but the committed one goes on to step 20"),
        (CURVE[:1], CURVE, "the same up to step 10, but the one from here goes on to step 20"),
        ([], CURVE, "the same up to the beginning, but the one from here goes on to step 10"),
        (CURVE, edited(0, "step", "5"), "they part at step 10, after the beginning: step is 5"),
        (
            CURVE,
            [{**row, "model/more": "1"} for row in CURVE],
            "model/more is 1 here and not there as committed",
        ),
    ],
)
def test_the_first_row_that_differs_is_told(committed, again, told):
    found = verify.part(committed, again)
    assert found is None if told is None else told in found


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with two models, of which one was trained, in which nothing is trained."""
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text(
        "data: {folder: '', title: toy}\nruntime: {device: cpu}\nevaluate: {}\n"
        "models: {vae: {data: processed}, gan: {data: processed}}\n"
    )
    paths.DVC_YAML.write_text("stages: {}\n")
    for name in ("pipeline", "stages"):
        (tmp_path / name).mkdir()
    write_lock({"train@vae": entry("vae")})
    files.write_text(HOME.curve("vae"), "step,images,model/loss\n10,160,2.5\n")
    monkeypatch.setattr(verify.replicas.dvc_workers, "cache", lambda: tmp_path / "cache")
    return tmp_path


def entry(model, weights="a"):
    outs = [(f"data/models/{model}", weights), (f"metrics/toy/curves/{model}.csv", "c")]
    return {
        "cmd": "python",
        "deps": [{"path": "data/processed", "hash": "md5", "md5": 32 * "d"}],
        "outs": [{"path": path, "hash": "md5", "md5": 32 * md5} for path, md5 in outs],
    }


def write_lock(stages, path=paths.DVC_LOCK):
    files.write_json(path, {"schema": "2.0", "stages": stages})  # which is YAML, too


def trained(monkeypatch, weights):
    """Trainings in the copy give these weights."""

    def retrain(folder, data, before, jobs, home):
        write_lock({f"train@{name}": entry(name, weights) for name in data}, folder / "dvc.lock")
        files.write_text(folder / HOME.curve("vae"), "step,images,model/loss\n10,160,2.5\n")

    monkeypatch.setattr(verify, "_retrain", retrain)


@pytest.mark.parametrize(("weights", "same"), [("a", True), ("b", False)])
def test_weights_decide_and_the_copy_is_gone(project, monkeypatch, capsys, weights, same):
    trained(monkeypatch, weights)
    assert verify.run(["vae"], 1) is same
    told = capsys.readouterr().out
    assert ("vae: verified" in told) is same and ("vae: OTHER BITS" in told) is not same
    assert "\nthis machine: " in told and ("bits are promised for" in told) is not same
    assert not verify.FOLDER.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PipelineError("training diverged")])
def test_the_copy_is_gone_whatever_happens(project, monkeypatch, error):
    verify.FOLDER.mkdir(parents=True)
    (verify.FOLDER / "left").write_text("by one that was killed")

    def retrain(folder, *_):
        assert folder.is_dir() and not (folder / "left").exists()
        raise error

    monkeypatch.setattr(verify, "_retrain", retrain)
    with pytest.raises(type(error)):
        verify.run(["vae"], 1)
    assert not verify.FOLDER.exists()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["vea"], "MODEL: unknown model 'vea'; did you mean 'vae'?"),
        ([], "MODEL: name at least one: vae, gan; or all"),
        (
            ["gan"],
            "dvc.lock: train@gan: there is no entry to compare with; `make repro",
        ),
        (["all"], "dvc.lock: train@gan: there is no entry"),
    ],
)
def test_what_cannot_be_compared_is_one_line(project, names, told):
    with pytest.raises(PipelineError) as caught:
        verify.run(names, 1)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)
    assert not verify.FOLDER.exists()


@pytest.mark.parametrize("text", [None, "<<<<<<< HEAD\n", "schema: '2.0'\nstages: {a: {cmd: "])
def test_a_lock_that_is_not_there_or_damaged_is_one_line(project, text):
    paths.DVC_LOCK.unlink()
    if text is not None:
        paths.DVC_LOCK.write_text(text)
    with pytest.raises(PipelineError, match=r"^dvc\.lock") as caught:
        verify.run(["vae"], 1)
    assert "\n" not in str(caught.value)


class Dvc:
    def __init__(self, code, *said):
        self.code, self.said = code, said

    def run(self, arguments, line):
        for text in self.said:
            line(text)
        return self.code


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ([{"changed deps": {"data/processed": "deleted"}}, {"changed outs": {"a": "x"}}], None),
        ([{"changed deps": {"pipeline/core": "modified"}}], "pipeline/core changed"),
        ([{"changed deps": {"stages/new.py": "new"}}], "stages/new.py changed"),
        (
            [{"changed deps": {"params.yaml": {"train": "modified", "models.vae.network": "x"}}}],
            "train, models.vae.network changed",
        ),
        (["changed checksum"], "its command changed"),
    ],
)
def test_what_was_trained_by_other_code_or_parameters_is_refused(states, told):
    slots = Dvc(0, "a warning", json.dumps({"train@vae": states}))
    if told is None:
        verify._refuse_stale(slots, ["train@vae"])
    else:
        with pytest.raises(PipelineError, match="`make repro` first") as caught:
            verify._refuse_stale(slots, ["train@vae"])
        assert f"train@vae: {told}" in str(caught.value)


def test_why_dvc_cannot_tell_is_told():
    with pytest.raises(PipelineError, match="No space left"):
        verify._refuse_stale(Dvc(255, "ERROR: a - [Errno 28] No space left on device"), ["a"])


def test_other_images_are_refused_before_anything_is_trained(project):
    made = {"cmd": "a", "outs": [{"path": "data/processed", "hash": "md5", "md5": 32 * "e"}]}
    write_lock({"preprocess": made}, project / "copy.lock")
    (project / "copy").mkdir()
    (project / "copy.lock").rename(project / "copy/dvc.lock")
    with pytest.raises(PipelineError, match="train@vae: data/processed is no longer"):
        verify._refuse_other_data(project / "copy", {"vae": recorded()})


def test_packages_that_are_not_those_of_the_constraints_are_told(project):
    raw = {"runtime": {"device": "cpu"}}
    Path("constraints.txt").write_text("numpy==1.2.3\ntorch==0.1 # comment\n")
    machine, packages = verify.here(raw)
    assert "torch 2." in machine and "(1.2.3)" in packages and "instead of" in packages
    Path("constraints.txt").unlink()
    assert verify.here(raw)[1] == "packages that compute: all as constraints.txt says"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A committed project in which two models were trained."""
    clone = Clone(tmp_path_factory.mktemp("verified"), ("pixelcnn", "vae"))
    clone.run("pipeline", "repro", "--no-compare")
    clone.commit()
    return clone


def told(clone, *names, check=True):
    return clone.run("pipeline", "verify", *names, check=check)


def state(clone):
    """What git and DVC keep of a project."""
    kept = [*clone.folder.rglob(".dvc/cache/**/*"), clone.folder / "dvc.lock"]
    return {str(path): path.stat().st_mtime_ns for path in kept if path.is_file()}


@pytest.mark.slow
@pytest.mark.xdist_group("verify")
def test_trainings_of_a_project_give_its_bits_again(finished):
    before = state(finished)
    done = told(finished, "pixelcnn,vae")
    assert "training vae: done" in done.stdout and "training pixelcnn: done" in done.stdout
    assert done.stdout.count(verify.VERIFIED) == 2
    assert state(finished) == before
    assert not (finished.folder / verify.FOLDER).exists()


@pytest.mark.slow
@pytest.mark.xdist_group("verify")
def test_other_bits_are_found_and_do_not_become_the_projects_own(finished):
    before = state(finished)
    kept = finished.text("dvc.lock")
    curve = finished.text("metrics/mnist-5k/curves/vae.csv")
    weights = finished.lock()["train@vae"]["outs"][0]["md5"]
    try:
        before_it, name, rest = kept.partition("\n  train@vae:")
        rest = rest.replace(weights, "0" * 32 + ".dir", 1)
        (finished.folder / "dvc.lock").write_text(before_it + name + rest)
        done = told(finished, "vae", check=False)
        assert done.returncode == 1
        assert "vae: OTHER BITS" in done.stdout and "only the final weights differ" in done.stdout
        (finished.folder / "dvc.lock").write_text(kept)
        last = curve.splitlines()[-1]
        step, images, *terms = last.split(",")
        finished.replace(
            "metrics/mnist-5k/curves/vae.csv", last, ",".join([step, images, *terms[:-1], "1"])
        )
        done = told(finished, "vae", check=False)
        assert done.returncode == 1
        assert f"they part at step {step}, after step " in done.stdout
        assert f"is {terms[-1]} here and 1 as committed" in done.stdout
    finally:
        (finished.folder / "dvc.lock").write_text(kept)
        (finished.folder / "metrics/mnist-5k/curves/vae.csv").write_text(curve)
    after = state(finished)
    assert {name for name, when in before.items() if after[name] != when} <= {
        str(finished.folder / "dvc.lock")
    }
    assert after.keys() == before.keys()


@pytest.mark.slow
@pytest.mark.xdist_group("verify")
def test_another_instruction_set_is_found(finished, monkeypatch):
    import torch

    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has but one")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    before = state(finished)
    done = told(finished, "vae", check=False)
    assert done.returncode == 1, done.stdout
    assert "vae: OTHER BITS" in done.stdout and "ONEDNN_MAX_CPU_ISA=SSE41" in done.stdout
    assert state(finished) == before


@pytest.mark.slow
@pytest.mark.xdist_group("verify")
def test_what_is_older_than_the_code_is_refused(finished):
    finished.replace("params.yaml", "latent: 3", "latent: 4")
    try:
        done = told(finished, "vae", check=False)
    finally:
        finished.replace("params.yaml", "latent: 4", "latent: 3")
    assert done.returncode == 1
    assert done.stderr.startswith("error: train@vae: models.vae.network changed since it was")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.xdist_group("verify")
def test_ctrl_c_is_one_line_and_leaves_the_project_as_it_was(finished):
    before = state(finished)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "verify", "vae,pixelcnn"],
        cwd=finished.folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (finished.folder / verify.FOLDER / "data/raw").exists():
        assert process.poll() is None
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) in [(130, "stopped\n"), (-signal.SIGINT, "stopped\n")]
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert not (finished.folder / verify.FOLDER).exists()
    assert state(finished) == before
