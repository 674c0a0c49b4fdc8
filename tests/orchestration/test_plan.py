import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.datasets import inputs
from pipeline.orchestration import plan

ROOT = Path(__file__).parents[2]
EVERY = {"vae": {"data": "processed"}, "cyclegan": {"data": "domains"}}
CHAIN = ["train@vae", "sample@vae", "evaluate@vae"]


def planned(stale, models=("vae", "cyclegan"), compare=True):
    return plan.chains(list(models), EVERY, stale, compare)


def test_nothing_stale_is_nothing_to_do():
    assert planned(set()) == {}


def test_what_nobody_can_tell_is_all_run():
    found = planned(None)
    assert list(found) == ["the-data", "the-judges", "vae", "cyclegan", "the-comparison"]
    assert found["the-data"] == ["inputs", "download", "preprocess", "domains"]
    assert found["vae"] == CHAIN
    assert found["the-comparison"] == ["compare", "report", "track"]


def test_a_model_runs_from_its_first_stale_stage():
    assert planned({"sample@vae", "compare"})["vae"] == CHAIN[1:]
    assert "cyclegan" not in planned({"sample@vae"})


def test_new_judges_judge_all_again_and_train_nothing():
    found = planned({"judge"})
    assert found["vae"] == ["evaluate@vae"]
    assert "the-data" not in found


def test_new_data_trains_all_again():
    assert planned({"preprocess"})["vae"] == CHAIN


def test_domains_are_made_for_those_who_need_them():
    assert planned(None, models=["vae"])["the-data"] == ["inputs", "download", "preprocess"]


def test_without_a_comparison_nothing_is_shown():
    assert "the-comparison" not in planned({"train@vae"}, compare=False)
    assert planned({"compare"}, compare=False) == {}


def test_no_model_can_be_called_as_other_chains_are(tmp_path):
    for name in (plan.DATA, plan.JUDGES, plan.COMPARISON):
        path = tmp_path / "params.yaml"
        path.write_text(f"models: {{{name}: {{}}}}")
        with pytest.raises(params.PipelineError, match="name"):
            params.model_blocks(params.read(path), path)


def test_domains_that_no_model_needs_are_no_reason_to_run():
    assert planned({"domains"}, models=["vae"]) == {}
    assert planned({"domains"})["the-data"] == ["inputs", "download", "preprocess", "domains"]


def test_other_images_of_the_users_own_make_the_data_again():
    found = planned({"inputs"})
    assert found["the-data"] == ["inputs", "download", "preprocess", "domains"]
    assert found["vae"] == CHAIN and found["the-comparison"]


class Dvc:
    """Slots in which DVC says what a test wants; ``asked`` is what it was asked."""

    def __init__(self, *looks, status="always changed"):
        self.looks, self.status, self.asked = list(looks), status, []

    def run(self, arguments, line):
        self.asked.append(arguments)
        if arguments[0] == "status":
            line(json.dumps({"inputs": [self.status]}))
            return 0
        code, said = self.looks.pop(0)
        for text in said:
            line(text)
        return code


INPUTS = "Running stage 'inputs':"
LOOK = (0, [INPUTS, "Stage 'download' didn't change, skipping", "Running stage 'track':"])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder in which the user's own images are what data/inputs.json says."""
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text("data: {name: unpaired-folder, folder: photos}")
    files.write_json(paths.INPUTS, {"files": 2})
    found = {"files": 2}
    monkeypatch.setattr(inputs, "current", lambda data: found)
    return found


def test_images_that_are_what_they_were_are_no_reason_to_run(own):
    assert plan.stale_stages(Dvc(LOOK)) == set()


def test_images_that_changed_are_one(own):
    own["files"] = 3
    assert plan.stale_stages(Dvc(LOOK)) == {"inputs"}


@pytest.mark.parametrize("text", ["{", "null", "[1]", '{"files": 1}'])
def test_what_was_known_of_them_may_be_lost(own, text):
    paths.INPUTS.write_text(text)
    assert plan.stale_stages(Dvc(LOOK)) == {"inputs"}
    paths.INPUTS.unlink()
    assert plan.stale_stages(Dvc(LOOK)) == {"inputs"}


def test_other_code_that_looks_at_them_is_recorded(own):
    changed = {"changed deps": {"stages/inputs.py": "modified"}}
    assert plan.stale_stages(Dvc(LOOK, status=changed)) == {"inputs"}


def test_a_folder_that_is_gone_is_told(own, monkeypatch):
    def current(data):
        raise PipelineError(f"{data.folder}: no such folder")

    monkeypatch.setattr(inputs, "current", current)
    with pytest.raises(PipelineError, match="photos: no such folder"):
        plan.stale_stages(Dvc(LOOK))


def test_where_dvc_can_do_nothing_nothing_is_tried(own):
    with pytest.raises(PipelineError, match="no git repository"):
        plan.stale_stages(Dvc((255, ["ERROR: /here is not a git repository"])))
    assert plan.stale_stages(Dvc((255, ["ERROR: failed: missing data source: a"]))) is None


def test_a_list_of_locks_that_was_cut_is_begun_anew(own):
    broken = "ERROR: failed: Unable to read RWLock-file '.dvc/tmp/rwlock'. JSON is corrupted: x"
    plan.RWLOCK.parent.mkdir(parents=True)
    plan.RWLOCK.write_text('{"read": {"a')
    assert plan.stale_stages(Dvc((255, [broken]), LOOK)) == set()
    assert not plan.RWLOCK.exists()
    with pytest.raises(PipelineError, match="disk is full"):
        plan.stale_stages(Dvc((255, [broken]), (255, [broken])))


@pytest.mark.parametrize("name", ["inputs", "judge", "evaluate", "compare", "track"])
def test_a_graph_without_a_stage_is_refused(name, tmp_path, monkeypatch):
    """DVC would call it unknown, and each model would seem to have failed."""
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    for left in (graph, {"stages": {k: v for k, v in graph["stages"].items() if k != name}}):
        with (tmp_path / "dvc.yaml").open("w") as stream:
            YAML(typ="safe").dump(left, stream)
        if left is graph:
            plan.check_graph()
            continue
        with pytest.raises(PipelineError, match=rf"dvc\.yaml: stages\.{name}: missing"):
            plan.check_graph()


@pytest.mark.parametrize(
    ("gpus", "cores", "each", "jobs"),
    [(0, 6, 8, 6), (1, 16, 8, 8), (1, 4, 8, 4), (8, 4, 8, 8), (2, 64, 3, 6), (1, 16, 1, 1)],
)
def test_small_models_share_a_gpu(monkeypatch, gpus, cores, each, jobs):
    machine(monkeypatch, gpus, cores, models_per_gpu=each)
    assert plan.default_jobs() == (jobs, [str(number) for number in range(gpus)])


@pytest.mark.parametrize(
    ("gpus", "cores", "devices", "threads", "jobs", "groups"),
    [
        (0, 8, 2, 1, 4, []),
        (0, 8, 2, 2, 2, []),
        (0, 2, 3, 1, 1, []),
        (8, 4, 2, 1, 4, ["0,1", "2,3", "4,5", "6,7"]),
        (7, 64, 3, 1, 2, ["0,1,2", "3,4,5"]),
        (2, 64, 2, 1, 1, ["0,1"]),
    ],
)
def test_a_model_on_several_devices_has_them_to_itself(
    monkeypatch, gpus, cores, devices, threads, jobs, groups
):
    machine(monkeypatch, gpus, cores, devices=devices, threads=threads)
    assert plan.default_jobs() == (jobs, groups)


def test_gpus_that_somebody_chose_are_those_that_are_given(monkeypatch):
    machine(monkeypatch, 4, 8, devices=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-5e,3,1")
    assert plan.default_jobs() == (2, ["7,GPU-5e", "3,1"])


def machine(monkeypatch, gpus, cores, **runtime):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(plan.params, "read", lambda: {"runtime": runtime})
    monkeypatch.setattr(plan.stage, "count_gpus", lambda _: gpus)
    monkeypatch.setattr(plan.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
