import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.orchestration import dvc_workers

ROOT = Path(__file__).parents[2]
ECHO = """
import json, sys, time
for line in sys.stdin:
    _, *arguments = json.loads(line)
    if arguments[0] == "die":
        sys.exit(3)
    for each in arguments[1:]:
        print(each, flush=True)
    time.sleep(float(arguments[0]))
    print("\x027", flush=True)
"""


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    """Workers that print what they are given, after a while."""
    monkeypatch.setattr(dvc_workers, "WORKER", (sys.executable, "-u", "-c", ECHO))


def test_lines_are_handed_on_and_the_code_returned():
    found, said = dvc_workers.Slots(), []
    assert found.run(["0", "one", "two"], said.append) == 7
    assert found.run(["0", "three"], said.append) == 7
    assert said == ["one", "two", "three"]
    found.close()


def test_one_worker_serves_many_calls():
    found = dvc_workers.Slots()
    found.run(["0"], print)
    first = found._workers[0].pid
    found.run(["0"], print)
    assert found._workers[0].pid == first
    found.close()


def test_a_worker_that_dies_is_replaced():
    found = dvc_workers.Slots()
    assert found.run(["die"], print) == 3
    assert found.run(["0"], print) == 7
    found.close()


def test_as_many_run_at_once_as_there_are_slots():
    found = dvc_workers.Slots()
    found.grow(2)
    found.run(["0"], print)
    began = time.monotonic()
    threads = [threading.Thread(target=found.run, args=(["1"], print)) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert time.monotonic() - began < 1.9
    found.close()


def test_stopping_ends_what_runs_and_starts_nothing():
    found = dvc_workers.Slots()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(found.run(["60"], print)))
    thread.start()
    while not found._workers:
        time.sleep(0.05)
    worker = found._workers[0]
    found.stop()
    thread.join(10)
    assert not thread.is_alive() and worker.poll() is not None
    assert codes == [dvc_workers.STOPPED]
    assert found.run(["0"], print) == dvc_workers.STOPPED


def test_a_worker_whose_lines_nobody_takes_is_ended():
    """Else the next call would get the answer to this one."""
    found = dvc_workers.Slots()

    def full(text):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        found.run(["60", "a line"], full)
    said = []
    assert found.run(["0", "another"], said.append) == 7
    assert said == ["another"]
    found.close()


@pytest.mark.parametrize("gpus", [["0", "1"], ["0,1", "2,3"]])
def test_each_slot_sees_gpus_of_its_own(gpus, monkeypatch):
    show = "import os, sys; sys.stdin.readline(); print(os.environ.get('CUDA_VISIBLE_DEVICES')); "
    monkeypatch.setattr(dvc_workers, "WORKER", (sys.executable, "-c", show + "print('\x020')"))
    found, said = dvc_workers.Slots(), []
    found.grow(2, gpus)
    for _ in range(2):
        found.run(["0"], said.append)
    assert said == gpus
    found.close()


CHAIN = '''
import signal, sys
from pipeline.orchestration import dvc_workers
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as pipeline/__main__.py has it
code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(3), sys.exit()))
open(sys.argv[1], "w").close()
time.sleep(60)
"""
inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}, sys.argv[1]])"
dvc_workers.to_its_end([sys.executable, "-c", inner, sys.argv[1]], print)
'''


def test_what_is_written_to_stderr_is_handed_on_line_by_line():
    said = []
    code = "import sys; print('one', file=sys.stderr); print('two', file=sys.stderr); sys.exit(4)"
    assert dvc_workers.to_its_end([sys.executable, "-c", code], said.append) == 4
    assert said == ["one", "two"]


def test_slots_work_in_the_folder_that_they_are_given(tmp_path, monkeypatch):
    show = "import os, sys; sys.stdin.readline(); print(os.getcwd()); "
    show += "print(os.environ['PYTHONPATH']); print('\\x020')"
    monkeypatch.setattr(dvc_workers, "WORKER", (sys.executable, "-c", show))
    found, said = dvc_workers.Slots(tmp_path), []
    found.run(["0"], said.append)
    assert said == [str(tmp_path), str(tmp_path)]
    found.close()


def test_what_is_asked_to_end_takes_its_children_along(tmp_path):
    """Also those that outlive their parents for a while."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHAIN, str(tmp_path / "started")],
        cwd=ROOT,
        start_new_session=True,
    )
    while not (tmp_path / "started").exists():
        time.sleep(0.1)
    started = psutil.Process(child.pid).children(recursive=True)
    assert len(started) == 2
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) != 0
    _, alive = psutil.wait_procs(started, timeout=0.5)  # what has ended may not be reaped yet
    assert not alive
