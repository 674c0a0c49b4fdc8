"""MLflow's pages over a small checkout, and the server that shows them, for tests."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue

import psutil
import pytest
from tracked import Project, child_environment, track, use_small_families

from pipeline.tracking import ui


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that was tracked; all tests here share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tracked"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        use_small_families(patch)
        made = Project()
        track()
        yield made


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """A running ``python -m pipeline ui`` and what it printed until it was ready."""
    server = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ui", *arguments],
        env={**child_environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: Queue[str] = Queue()
    threading.Thread(target=lambda: [lines.put(x) for x in server.stdout], daemon=True).start()
    printed: list[str] = []
    try:
        while not printed or not printed[-1].startswith("stop it"):
            printed.append(lines.get(timeout=120).strip())
        yield server, printed
        while True:
            printed.append(lines.get(timeout=1).strip())
    except Empty:
        assert server.poll() is not None, f"no answer after {printed}"
    finally:
        descendants = family_of(server)
        server.kill()
        for each in descendants:
            if each.is_running():
                each.kill()


def family_of(server: subprocess.Popen) -> list[psutil.Process]:
    if server.poll() is not None:
        return []
    return psutil.Process(server.pid).children(recursive=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ui.HOST, 0))
        return probe.getsockname()[1]
