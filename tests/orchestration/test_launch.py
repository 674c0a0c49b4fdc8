import pytest

from pipeline.core import files, params, paths
from pipeline.orchestration import launch

EVERY = {"vae": {"data": "processed"}, "cyclegan": {"data": "domains"}}
CHAIN = ["train@vae", "sample@vae", "evaluate@vae"]


def plan(stale, models=("vae", "cyclegan"), compare=True):
    return launch._plan(list(models), EVERY, stale, compare)


def test_nothing_stale_is_nothing_to_do():
    assert plan(set()) == {}


def test_what_nobody_can_tell_is_all_run():
    found = plan(None)
    assert list(found) == ["the-data", "the-judges", "vae", "cyclegan", "the-comparison"]
    assert found["the-data"] == ["download", "preprocess", "domains"]
    assert found["vae"] == CHAIN
    assert found["the-comparison"] == ["compare", "report", "track"]


def test_a_model_runs_from_its_first_stale_stage():
    assert plan({"sample@vae", "compare"})["vae"] == CHAIN[1:]
    assert "cyclegan" not in plan({"sample@vae"})


def test_new_judges_judge_all_again_and_train_nothing():
    found = plan({"judge"})
    assert found["vae"] == ["evaluate@vae"]
    assert "the-data" not in found


def test_new_data_trains_all_again():
    assert plan({"preprocess"})["vae"] == CHAIN


def test_domains_are_made_for_those_who_need_them():
    assert plan(None, models=["vae"])["the-data"] == ["download", "preprocess"]


def test_without_a_comparison_nothing_is_shown():
    assert "the-comparison" not in plan({"train@vae"}, compare=False)
    assert plan({"compare"}, compare=False) == {}


def test_no_model_can_be_called_as_other_chains_are(tmp_path):
    for name in (launch.DATA, launch.JUDGES, launch.COMPARISON):
        path = tmp_path / "params.yaml"
        path.write_text(f"models: {{{name}: {{}}}}")
        with pytest.raises(params.PipelineError, match="name"):
            params.model_blocks(params.read(path), path)


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A folder in which report and store are there, and stages are what they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    (tmp_path / "dvc.yaml").write_text("stages: {report: {deps: [a]}, track: {deps: [a]}}\n")
    (tmp_path / "params.yaml").write_text("models: {vae: {}}\n")
    (tmp_path / "a").write_text("a")
    paths.REPORT.mkdir(parents=True)
    (paths.REPORT / "index.html").write_text("page")
    paths.MLFLOW_DB.write_text("store")
    launch._remember_shown()
    return tmp_path


def test_what_was_shown_is_not_shown_again(shown):
    assert launch._shown() == launch._remembered() != {}


@pytest.mark.parametrize(
    "change",
    [
        lambda: paths.MLFLOW_DB.unlink(),
        lambda: paths.MLFLOW_DB.write_text("another store"),
        lambda: (paths.REPORT / "index.html").unlink(),
        lambda: (paths.REPORT / "index.html").write_text("another page"),
        lambda: paths.DVC_LOCK.write_text("stages: {a: {}}\n"),
        lambda: files.write_text(paths.WORK.parent / "a", "edited"),
        lambda: paths.SHOWN.unlink(),
        lambda: paths.SHOWN.write_text("{"),
    ],
)
def test_what_changed_or_is_gone_is_shown_again(shown, change):
    change()
    assert launch._shown() != launch._remembered()


def test_a_server_is_asked_each_time(shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert launch._shown() != launch._remembered()
