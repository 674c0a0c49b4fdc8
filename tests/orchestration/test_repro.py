import pytest

from pipeline.core import files, paths
from pipeline.orchestration import repro


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
    repro._remember_shown()
    return tmp_path


def test_what_was_shown_is_not_shown_again(shown):
    assert repro._shown() == repro._remembered() != {}


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
    assert repro._shown() != repro._remembered()


def test_a_server_is_asked_each_time(shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert repro._shown() != repro._remembered()
