import json
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ruamel.yaml import YAML

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.orchestration import dvc_workers, plan, replicas, repro, thorough

HOME = paths.Results("toy")

RAW = {
    "data": {"folder": "", "title": HOME.title},
    "train": {"seed": 5, "budget": 1.0},
    "sample": {"seed": 7, "n": 20},
    "evaluate": {"split": "test", "inception": {"weights": ""}},
    "thorough": {"trainings": 3, "sample_sets": 2, "inverted": 4},
    "models": {"vae": {"family": "vae"}, "gan": {"family": "gan"}},
}


def dump(raw):
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump(raw, stream)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in which the default run is done, and in which nothing heavy is done."""
    monkeypatch.chdir(tmp_path)
    dump(RAW)
    for name in ("pipeline", "stages"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text(name)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    HOME.models.mkdir(parents=True)
    for name in RAW["models"]:
        HOME.model_metrics(name).write_text(json.dumps(metrics(name, 5, 7)))
    monkeypatch.setattr(repro, "reproduce", lambda *_, **__: None)
    monkeypatch.setattr(thorough, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    monkeypatch.setattr(thorough, "invert", lambda name: {"inversion_mse": 1 / 3})
    return tmp_path


def metrics(name, train_seed, sample_seed):
    fid = float(train_seed + sample_seed / 10)
    return {
        **{"model": name, "family": name, "dataset": "d", "protocol": "p", "n_samples": 20},
        **{"fid": fid, "fid_min": fid, "fid_max": fid},
    }


def test_each_model_has_its_runs(project, monkeypatch):
    asked = []

    def measure(train_seed, sample_seed, jobs, before):
        asked.append((train_seed, sample_seed, jobs))
        return {name: metrics(name, train_seed, sample_seed) for name in RAW["models"]}

    monkeypatch.setattr(replicas, "measure", measure)
    thorough.run(2)
    assert asked == [(6, 8, 2), (7, 9, 2), (5, 8, 2)]
    for name in RAW["models"]:
        found = json.loads(HOME.thorough_metrics(name).read_text())
        assert (found["model"], found["trainings"], found["sample_sets"]) == (name, 3, 2)
        assert [run["fid"] for run in found["runs"]] == [5.7, 6.8, 7.9, 5.8]
        assert found["inversion_mse"] == 0.33333333


def test_by_default_as_many_at_a_time_as_there_are_cores(project, monkeypatch):
    asked = []
    monkeypatch.setattr(
        replicas,
        "measure",
        lambda t, s, jobs, before: {name: metrics(name, t, s) for name in RAW["models"]},
    )
    monkeypatch.setattr(plan, "default_jobs", lambda: asked.append(True) or (2, 0))
    thorough.run(None)
    assert asked and HOME.thorough_metrics("vae").exists()


def test_nothing_is_written_where_a_run_fails(project, monkeypatch):
    def measure(train_seed, sample_seed, jobs, before):
        raise PipelineError("failed")

    monkeypatch.setattr(replicas, "measure", measure)
    with pytest.raises(PipelineError):
        thorough.run(1)
    assert not HOME.thorough.exists()


def test_two_at_once_are_refused(project):
    with replicas.alone(), pytest.raises(PipelineError, match="already running"):
        thorough.run(1)


@pytest.mark.parametrize(
    "edit",
    [
        lambda: dump({**RAW, "sample": {"seed": 7, "n": 30}}),
        lambda: paths.CODE.joinpath("code.py").write_text("other"),
        lambda: paths.CODE.joinpath("more.py").write_text("new"),
        lambda: paths.DVC_YAML.write_text("stages: {other: {}}"),
    ],
)
def test_what_is_edited_meanwhile_is_not_mixed(project, monkeypatch, edit):
    def measure(train_seed, sample_seed, jobs, before):
        replicas.confirm(before)
        edit()
        return {name: metrics(name, train_seed, sample_seed) for name in RAW["models"]}

    monkeypatch.setattr(replicas, "measure", measure)
    with pytest.raises(PipelineError, match="changed since this began"):
        thorough.run(1)
    assert not HOME.thorough.exists()


def test_a_comment_is_no_other_state(project):
    before = replicas.state()
    paths.PARAMS.write_text("# a comment\n" + paths.PARAMS.read_text())
    replicas.confirm(before)


def test_a_replica_is_of_the_state_that_the_others_are_of(project, monkeypatch):
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    monkeypatch.setattr(dvc_workers, "to_its_end", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(PipelineError, match="changed since this began"):
        replicas.measure(6, 8, 1, "another state")


def test_what_is_named_from_this_folder_is_found_from_a_copy(project, monkeypatch):
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    (project / "given").mkdir()
    (project / "given/weights.pth").write_text("weights")
    outside = os.path.relpath(project.parent / "photos", project)
    raw = {
        **RAW,
        "data": {"folder": outside},
        "evaluate": {"inception": {"weights": "given/weights.pth"}},
    }
    for _ in range(2):
        replicas.copy(paths.replica(6, 8), raw)
    made = YAML(typ="safe").load((paths.replica(6, 8) / "params.yaml").read_text())
    assert os.path.samefile(made["evaluate"]["inception"]["weights"], "given/weights.pth")
    assert os.path.normpath(made["data"]["folder"]) == str(project.parent / "photos")
    assert raw["data"]["folder"] == outside
    # Nothing is made at or for these paths: neither here, nor in the copy, nor beside it.
    assert not (paths.replica(6, 8) / "given").exists()
    assert [each.name for each in paths.REPLICAS.iterdir()] == [paths.replica(6, 8).name]
    replicas.copy(paths.replica(7, 9), RAW)
    made = YAML(typ="safe").load((paths.replica(7, 9) / "params.yaml").read_text())
    assert made["data"]["folder"] == made["evaluate"]["inception"]["weights"] == ""


def test_what_removes_a_copy_follows_no_link(project, monkeypatch):
    """Such as one that an older version of this, or a cache that links, left there."""
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    (project / "photos").mkdir()
    (project / "photos/one.png").write_text("mine")
    folder = paths.replica(6, 8)
    folder.mkdir(parents=True)
    for name in ("photos", "stages", "data"):
        (folder / name).symlink_to(project / "photos")
    (folder / "stages").unlink()
    (folder / "stages").symlink_to(project / "photos")
    replicas.copy(folder, RAW)
    assert not (folder / "stages").is_symlink()

    def finished(command, line, cwd, env):
        for name in RAW["models"]:
            files.write_json(folder / HOME.model_metrics(name), metrics(name, 6, 8))
        return 0

    monkeypatch.setattr(dvc_workers, "to_its_end", finished)
    assert set(replicas.measure(6, 8, 1, replicas.state())) == set(RAW["models"])
    assert not folder.exists()
    assert (project / "photos/one.png").read_text() == "mine"


def test_why_a_copy_failed_is_told_with_its_folder(project, monkeypatch, capsys):
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    code = (
        "import sys; print('warning: slow', file=sys.stderr); "
        "print('error: vae: training diverged', file=sys.stderr); "
        "print('error: failed: vae', file=sys.stderr); sys.exit(1)"
    )
    monkeypatch.setattr(sys, "executable", make_script(project / "python", code))
    with pytest.raises(PipelineError) as caught:
        replicas.measure(6, 8, 1, replicas.state())
    folder = paths.replica(6, 8)
    assert str(caught.value).splitlines() == [
        f"{folder}: vae: training diverged",
        f"{folder}: failed: vae",
    ]
    assert capsys.readouterr().err == "warning: slow\n"
    assert folder.exists()


def test_a_copy_that_dies_without_a_word_is_told(project, monkeypatch):
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    monkeypatch.setattr(sys, "executable", make_script(project / "python", "exit(3)"))
    with pytest.raises(PipelineError, match=r"^work/replicas/.*: exit code 3, without a word$"):
        replicas.measure(6, 8, 1, replicas.state())


def make_script(path, code):
    """A program that runs ``code``, whatever its arguments are."""
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_copy_that_finds_no_room_is_one_line(project, monkeypatch):
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    (project / "stages/gone").symlink_to("nowhere")
    (project / "stages/gone_too").symlink_to("nowhere")
    with pytest.raises(PipelineError, match=r"^stages: cannot be copied to ") as caught:
        replicas.copy(paths.replica(6, 8), RAW)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 400


def test_a_copy_has_other_seeds_and_this_code_alone(project, monkeypatch):
    monkeypatch.setattr(replicas.dvc_workers, "cache", lambda: project / "cache")
    folder = paths.replica(6, 8)
    for _ in range(2):
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        (folder / "stages/old.py").write_text("of another version")
        replicas.copy(folder, {**RAW, "train": {**RAW["train"], "seed": 6}})
    assert YAML(typ="safe").load((folder / "params.yaml").read_text())["train"]["seed"] == 6
    assert YAML(typ="safe").load(paths.PARAMS.read_text()) == RAW
    assert [each.name for each in (folder / "stages").iterdir()] == ["code.py"]
    assert f"dir = {project / 'cache'}" in (folder / ".dvc/config").read_text()


def test_trainings_for_a_baseline_begin_with_the_default_run(project, monkeypatch):
    asked = []

    def measure(train_seed, sample_seed, jobs, before):
        asked.append((train_seed, sample_seed, jobs))
        return {name: metrics(name, train_seed, sample_seed) for name in RAW["models"]}

    monkeypatch.setattr(replicas, "measure", measure)
    runs = replicas.trainings(3, 2)
    assert asked == [(6, 8, 2), (7, 9, 2)]
    assert [run["vae"]["fid"] for run in runs] == [5.7, 6.8, 7.9]


def test_a_process_that_is_killed_is_one_line(monkeypatch):
    monkeypatch.setattr(thorough, "invert", os._exit)
    with pytest.raises(PipelineError, match="JOBS=1"):
        thorough._inverted([9, 9], 1)


def test_processes_end_with_the_one_that_is_stopped(monkeypatch):
    monkeypatch.setattr(thorough, "invert", time.sleep)

    def stop(*_):
        raise KeyboardInterrupt

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 3.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            thorough._inverted([60, 60], 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 30
    assert not multiprocessing.active_children()
