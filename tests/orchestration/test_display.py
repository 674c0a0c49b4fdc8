import threading
from types import SimpleNamespace

import pytest

from pipeline.core import paths
from pipeline.orchestration.display import Display, forget_logs

CHAINS = {"vae": ["train@vae", "sample@vae"], "gan": ["train@gan"]}


@pytest.fixture
def display(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Display(CHAINS, 2, paths.Results("toy")) as found:
        yield found


def test_stages_end_when_the_next_begins_or_the_call_ends(display, capsys):
    display.line("vae", "Running stage 'train@vae':")
    assert (set(display.running), display.done) == ({"train@vae"}, {})
    display.line("vae", "Running stage 'sample@vae':")
    assert set(display.done) == {"train@vae"}
    display.finished("vae", 0)
    assert set(display.done) == {"train@vae", "sample@vae"}
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("training vae: done in 0:00   [1 of 3 stages, 0:00 gone, about ")
    assert len(told) == 2


def test_what_did_not_run_is_no_measurement(display):
    display.line("vae", "Stage 'train@vae' didn't change, skipping")
    display.line("vae", "Stage 'sample@vae' is cached - skipping run, checking out outputs")
    assert display.done == {"train@vae": "unchanged", "sample@vae": "restored"}
    assert display.durations.known == {}


def test_progress_shortens_what_is_left(display):
    display.durations.known = {"train@vae": 100.0, "sample@vae": 10.0, "train@gan": 30.0}
    assert display.remaining() == 110.0
    display.line("vae", "Running stage 'train@vae':")
    since, *_ = display.running["train@vae"]
    display.running["train@vae"] = (since - 20.0, 0.5, "")
    assert display.remaining() == pytest.approx(30.0, abs=1.0)


def test_dvcs_advice_and_progress_are_not_shown(display, capsys):
    for text in (
        "Running stage 'train@vae':",
        "\tgit add dvc.lock",
        "train vae: 5% 1 of 20",
    ):
        display.line("vae", text)
    assert capsys.readouterr().out == ""
    assert "git add" in (paths.LOGS / "vae.log").read_text()


def test_warnings_are_shown_with_their_model(display, capsys):
    display.line("vae", "warning: params.yaml: bf16 is emulated")
    assert capsys.readouterr().out == "vae: warning: params.yaml: bf16 is emulated\n"


def test_a_failure_keeps_its_one_line_and_not_the_rest(display, capsys):
    display.line("vae", "Running stage 'train@vae':")
    display.line("vae", "warning: slow")
    display.line("vae", "error: training diverged")
    display.line("vae", "ERROR: failed to reproduce 'train@vae'")
    display.finished("vae", 255)
    assert display.errors == {"vae": ["error: training diverged"]}
    assert not display.unfinished
    assert "train@vae: FAILED" in capsys.readouterr().out


def test_what_was_stopped_has_not_failed(display, capsys):
    display.line("vae", "Running stage 'train@vae':")
    display.line("vae", "stopped")
    display.line("vae", "ERROR: failed to reproduce 'train@vae': failed to run: x, exited with 130")
    display.finished("vae", 255)
    assert display.unfinished == {"vae"}
    assert "train@vae: STOPPED" in capsys.readouterr().out


def test_logs_that_cannot_be_written_are_one_line_and_no_error(display, capsys):
    paths.WORK.mkdir(exist_ok=True)
    paths.LOGS.write_text("no folder")
    display.line("vae", "Running stage 'train@vae':")
    display.line("gan", "Running stage 'train@gan':")
    display.finished("vae", 0)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("warning: work/logs/vae.log: cannot be written: ")
    assert [line for line in told if "cannot" in line] == told[:1]
    assert set(display.done) == {"train@vae"}
    forget_logs(["vae"])


def test_a_defect_keeps_its_traceback(display):
    display.line("vae", "Running stage 'train@vae':")
    display.line("vae", "Traceback (most recent call last):")
    display.line("vae", "ZeroDivisionError: division by zero")
    display.finished("vae", 1)
    assert display.errors["vae"][-1] == "ZeroDivisionError: division by zero"


def test_the_panel_shows_what_runs_and_what_waits(display):
    from rich.console import Console

    display.line("vae", "Running stage 'train@vae':")
    display.line("vae", "train vae: 45% 9,000 of 20,000 images, 700/s")
    console = Console(width=100, file=None, record=True)
    with console.capture() as shown:
        console.print(display._panel())
    text = shown.get()
    assert "training vae" in text and "9,000 of 20,000" in text and "waiting: gan" in text


def test_lines_are_printed_without_the_lock_that_the_panel_takes(tmp_path, monkeypatch):
    """rich holds a lock of its own while it draws, and while it prints."""
    monkeypatch.chdir(tmp_path)
    display = Display(CHAINS, 2, paths.Results("toy"))
    display.terminal = True
    free = []

    class Console:
        def print(self, text, **_):
            def take():
                taken = display._lock.acquire(timeout=1)
                free.append(taken)
                if taken:
                    display._lock.release()

            other = threading.Thread(target=take)
            other.start()
            other.join()

    display._live = SimpleNamespace(console=Console())
    display.line("vae", "warning: something")
    display.finished("vae", 1)
    assert free == [True, True]
