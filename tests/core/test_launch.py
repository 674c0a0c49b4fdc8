import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.core import launch

ROOT = Path(__file__).parents[2]
RANK = """
import os, signal, sys, time
from pathlib import Path
rank = int(os.environ["RANK"])
from pipeline.core import launch, startup
launch.watch()
Path(sys.argv[1], str(rank)).write_text(str(os.getpid()))
def wait():
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(launch, "PATIENCE", 0.5)

    def call(code, size=2):
        return launch.run([sys.executable, "-c", RANK + code, str(tmp_path)], size, "train@vae")

    yield call
    assert not [pid for pid in pids(tmp_path) if psutil.pid_exists(pid)]


def pids(folder):
    return [int(each.read_text()) for each in folder.iterdir() if each.name.isdecimal()]


def test_each_rank_has_what_torchrun_would_give_it(run, tmp_path):
    keys = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    code = (
        f"Path(sys.argv[1], 'told' + str(rank)).write_text(' '.join(map(os.environ.get, {keys})))"
    )
    assert run(code, 3) == 0
    told = [(tmp_path / f"told{rank}").read_text() for rank in range(3)]
    assert told == ["0 0 3 3", "1 1 3 3", "2 2 3 3"]


def test_rank_0_alone_is_heard(run, capfd):
    assert run("print('out', rank); print('err', rank, file=sys.stderr)") == 0
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_all_with_one_line(killed, run, capfd):
    began = time.monotonic()
    assert run(f"os.kill(os.getpid(), 9) if rank == {killed} else wait()") == 1
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err == (
        f"error: train@vae: rank {killed} of 2 was killed by SIGKILL, which ended the others; run "
        "it again: what keeps checkpoints goes on from the last one\n"
    )


def test_a_rank_that_lost_the_killed_one_is_not_blamed(run, capfd):
    assert run(f"os.kill(os.getpid(), 9) if rank else sys.exit({launch.LOST})") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "rank 1 of 2 was killed by SIGKILL" in line


def test_a_mistake_that_all_find_is_told_once(run, capfd):
    assert run("print('error: a mistake', file=sys.stderr); sys.exit(1)") == 1
    assert capfd.readouterr().err == "error: a mistake\n"


def test_what_another_rank_alone_has_to_say_is_told(run, capfd):
    code = "print('warning: w\\nerror: no memory', file=sys.stderr); sys.exit(1)"
    assert run(f"\nif rank:\n    {code}\nwait()") == 1
    assert capfd.readouterr().err == "error: no memory\n"


def test_a_defect_keeps_its_traceback(run, capfd):
    assert run("1 / 0 if rank else wait()") == 1
    told = capfd.readouterr().err
    assert told.startswith("Traceback") and "ZeroDivisionError" in told


def test_a_rank_that_does_not_listen_is_killed(run, capfd):
    began = time.monotonic()
    assert (
        run("signal.signal(signal.SIGTERM, signal.SIG_IGN) if rank else sys.exit(3)\nwait()") == 3
    )
    assert time.monotonic() - began < 10


def test_stopping_ends_all_without_a_word(run, tmp_path, capfd):
    # What is started in the background of a shell may be told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop():
        while len(pids(tmp_path)) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run("\nwait()")
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert capfd.readouterr().err == ""


def test_ranks_end_when_the_process_that_started_them_is_killed(tmp_path):
    code = (
        "import sys; from pipeline.core import launch; "
        f"launch.run([sys.executable, '-c', {RANK + 'wait()'!r}, sys.argv[1]], 2, 'train@vae')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    while len(pids(tmp_path)) < 2:
        time.sleep(0.02)
    children = [psutil.Process(pid) for pid in pids(tmp_path)]
    parent.kill()
    parent.wait()
    _, left = psutil.wait_procs(children, timeout=10)
    assert not [each for each in left if each.status() != psutil.STATUS_ZOMBIE]
