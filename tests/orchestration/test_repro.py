import pytest

from pipeline.core import files, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.orchestration import repro

HOME = paths.Results("toy")


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A folder in which report and store are there, and stages are what they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    (tmp_path / "dvc.yaml").write_text("stages: {report: {deps: [a]}, track: {deps: [a]}}\n")
    (tmp_path / "params.yaml").write_text("data: {title: toy}\nmodels: {vae: {}}\n")
    (tmp_path / "a").write_text("a")
    HOME.report.mkdir(parents=True)
    HOME.page.write_text("page")
    paths.MLFLOW_DB.write_text("store")
    repro._remember_shown()
    return tmp_path


def test_what_was_shown_is_not_shown_again(shown):
    assert repro._shown() == repro._remembered() != {}
    dvc = Dvc()
    repro._show(dvc)
    assert dvc.ran == []


@pytest.mark.parametrize(
    "change",
    [
        lambda: paths.MLFLOW_DB.unlink(),
        lambda: paths.MLFLOW_DB.write_text("another store"),
        lambda: HOME.page.unlink(),
        lambda: HOME.page.write_text("another page"),
        lambda: paths.DVC_LOCK.write_text("stages: {a: {}}\n"),
        lambda: files.write_text(paths.WORK.parent / "a", "edited"),
        lambda: paths.SHOWN.unlink(),
        lambda: paths.SHOWN.write_text("{"),
        lambda: paths.SHOWN.write_text("null"),
        lambda: paths.SHOWN.write_text('{"page": NaN}'),
    ],
)
def test_what_changed_or_is_gone_is_shown_again(shown, change):
    change()
    assert repro._shown() != repro._remembered()
    dvc = Dvc()
    repro._show(dvc)
    assert dvc.ran == ["report", "track"]


def test_a_server_is_asked_each_time(shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert repro._shown() != repro._remembered()


def test_what_cannot_be_remembered_is_no_error(shown, monkeypatch):
    paths.SHOWN.unlink()
    paths.WORK.rmdir()
    paths.WORK.write_text("a file")
    repro._remember_shown()
    assert repro._remembered() == {}


class Dvc:
    """Slots whose stages end as a test wants: what each of them prints, and 0 if that is nothing"""

    def __init__(self, **says):
        self.says, self.ran = says, []

    def run(self, arguments, line):
        for name in (each for each in arguments[1:] if not each.startswith("--")):
            self.ran.append(name)
            line(f"Running stage '{name}':")
            said = self.says.get(name.replace("@", "_"))
            if said:
                line(said)
                return 255
        return 0

    def stop(self):
        pass


CHAINS = {
    "vae": ["train@vae", "sample@vae", "evaluate@vae"],
    "gan": ["train@gan", "sample@gan", "evaluate@gan"],
    "the-comparison": ["compare", "report", "track"],
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two models with metrics, of which all stages are stale."""
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text("data: {title: toy}\nmodels: {vae: {}, gan: {}}")
    paths.DVC_LOCK.write_text("schema: '2.0'\nstages: {}\n")
    for name in ("vae", "gan"):
        files.write_json(HOME.model_metrics(name), {"fid": 1.0})
        files.write_text(HOME.curve(name), "step,images\n")
    monkeypatch.setattr(repro, "_remember_shown", lambda: None)
    monkeypatch.setattr(repro, "_conclude", lambda: None)
    return tmp_path


def test_what_failed_leaves_no_older_result_and_the_rest_is_compared(project):
    dvc = Dvc(train_gan="error: training diverged")
    with pytest.raises(PipelineError) as caught:
        repro._run(CHAINS, dvc, None, 2, force=False, compare=True, text="as it began")
    assert str(caught.value).splitlines() == [
        "gan: training diverged",
        "failed: gan; all that was printed: work/logs/gan.log",
    ]
    assert not HOME.model_metrics("gan").exists() and HOME.model_metrics("vae").exists()
    assert "track" in dvc.ran


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: failed to reproduce 'train@gan': failed to run: python, exited with 130",
        "ERROR: failed to reproduce 'train@gan': failed to run: python, exited with -15",
        "error: train@gan is already running (it holds work/locks/train@gan.lock); wait",
    ],
)
def test_what_was_stopped_or_runs_elsewhere_keeps_its_results_and_is_not_compared(project, said):
    dvc = Dvc(train_gan=said)
    with pytest.raises(PipelineError) as caught:
        repro._run(CHAINS, dvc, None, 2, force=False, compare=True, text="as it began")
    assert len(str(caught.value).splitlines()) == 2
    assert "not finished: gan; " in str(caught.value).splitlines()[-1]
    assert HOME.model_metrics("gan").exists() and HOME.curve("gan").exists()
    assert "evaluate@vae" in dvc.ran and "compare" not in dvc.ran


def test_without_logs_none_are_named(project):
    paths.WORK.mkdir()
    paths.LOGS.write_text("no folder")
    with pytest.raises(PipelineError) as caught:
        repro._run(
            CHAINS,
            Dvc(train_gan="error: training diverged"),
            None,
            2,
            force=False,
            compare=True,
            text="as it began",
        )
    assert str(caught.value).endswith("failed: gan")


def test_what_runs_by_itself_is_refused_before_anything_is_removed(project):
    with (
        stage.locked("sample@gan", "taken"),
        pytest.raises(PipelineError, match=r"^sample@gan is already running"),
    ):
        repro._refuse_running(CHAINS)
    repro._refuse_running(CHAINS)


def test_one_at_a_time(project):
    with repro.alone():
        for start in (lambda: repro.reproduce(1, None, force=False), repro.make_judges):
            with pytest.raises(PipelineError, match="make repro is already running"):
                start()


@pytest.mark.parametrize(
    "text", ["", "stages: {}\n", "schema: '2.0'\nstages: {a: {cmd: ", "<<<<<<< a\n"]
)
def test_a_damaged_lock_is_told_in_one_line(project, text):
    paths.DVC_LOCK.write_text(text)
    with pytest.raises(PipelineError, match=r"^dvc\.lock") as caught:
        repro._check_lock()
    assert len(str(caught.value).splitlines()) == 1
    paths.DVC_LOCK.unlink()
    repro._check_lock()


def test_an_order_that_cannot_be_written_is_a_warning(project, monkeypatch, capsys):
    entry = "{cmd: python}"
    paths.DVC_LOCK.write_text(f"schema: '2.0'\nstages: {{b: {entry}, a: {entry}}}\n")

    def replacing(path):
        raise PipelineError(f"{path}: cannot be written: No space left on device")

    with monkeypatch.context() as full:
        full.setattr(files, "replacing", replacing)
        repro.tidy_lock()
    assert capsys.readouterr().err == (
        "warning: dvc.lock: cannot be written: No space left on device\n"
    )
    repro.tidy_lock()
    assert paths.DVC_LOCK.read_text().index("a:") < paths.DVC_LOCK.read_text().index("b:")
    paths.DVC_LOCK.unlink()
    repro.tidy_lock()


def test_what_a_killed_dvc_left_beside_its_lock_is_swept_away(project):
    paths.DVC_LOCK.write_text("schema: '2.0'\nstages: {}\n")
    left = paths.DVC_LOCK.with_name(f".dvc.{2**22 + 1}.tmp.lock")  # of no process that runs
    left.write_text("half of i")
    repro.tidy_lock()
    assert not left.exists()
