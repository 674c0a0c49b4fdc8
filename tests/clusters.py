"""A cluster of Dask on loopback, whose workers can be killed, for tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SECONDS = 60


class Dask:
    """A scheduler and its workers, each a process that writes what it says to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen] = []
        facts = folder / "scheduler.json"
        options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(facts))
        self.scheduler = self._start("scheduler", folder, *options)
        until = time.monotonic() + SECONDS
        while not facts.exists() or not facts.read_text():
            assert time.monotonic() < until, (folder / "scheduler.log").read_text()
            time.sleep(0.1)
        self.address = json.loads(facts.read_text())["address"]

    def worker(self, where: Path, *options: str) -> subprocess.Popen:
        """One that was started in a folder; nobody starts it again when it is killed."""
        scratch = self.folder / f"scratch-{len(self.workers)}"
        started = self._start(
            "worker",
            where,
            self.address,
            *("--nthreads", "1", "--no-nanny", "--local-directory", str(scratch)),
            *options,
        )
        self.workers.append(started)
        return started

    def _start(self, kind: str, where: Path, *options: str) -> subprocess.Popen:
        log = self.folder / f"{kind}{len(self.workers) if kind == 'worker' else ''}.log"
        with log.open("w") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"],
                cwd=where,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            )


@contextmanager
def dask(folder: Path) -> Iterator[Dask]:
    """A cluster without workers; whatever is left of it ends with the block."""
    found = Dask(folder)
    try:
        yield found
    finally:
        for each in (*found.workers, found.scheduler):
            each.kill()
            each.wait()


def working(folder: Path) -> list[str]:
    """The commands of processes that run in a folder."""
    found = []
    for each in psutil.process_iter():
        try:
            here = Path(each.cwd()).is_relative_to(folder)
        except (psutil.Error, OSError):
            continue
        if here:
            found.append(command(each))
    return found


def command(process: psutil.Process) -> str:
    """What was called; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def until(condition, seconds: float = SECONDS):
    """Wait for what a function gives to be true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
    return found
