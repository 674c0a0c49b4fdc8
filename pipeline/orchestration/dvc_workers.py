"""Slots in which DVC runs, one chain of stages after the other in each, and how they end."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from pipeline.core.errors import PipelineError
from pipeline.orchestration import dvc_output, dvc_process

STOPPED = 130
"""The exit code of what did not come to its end since everything was stopped."""
WORKER = (sys.executable, "-m", "pipeline.orchestration.dvc_process")
ENDING_SECONDS = 30
"""The longest wait for what was asked to end: where nobody reaps the dead, they stay listed."""


class Slots:
    """So many DVCs side by side, each started when it is first needed.

    Several may share a repository if each waits for its locks. All that they and their stages print
    is handed on line by line.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Prepare one slot, in which DVC runs in ``folder`` or in this one; `grow` makes more."""
        self._folder = folder
        self._free: SimpleQueue[int] = SimpleQueue()
        self._free.put(0)
        self._number = 1
        self._gpus: Sequence[str] = ()
        self._workers: dict[int, subprocess.Popen] = {}
        self._stopping = False
        self._lock = threading.Lock()

    def grow(self, number: int, gpus: Sequence[str] = ()) -> None:
        """Have so many slots.

        ``gpus`` are what CUDA_VISIBLE_DEVICES says in each of them, in turn; with none, or one for
        all, it says what it does here.
        """
        if len(gpus) > 1:
            self.close()  # what was started sees all of them
        self._gpus = gpus
        for slot in range(self._number, number):
            self._free.put(slot)
        self._number = max(number, self._number)

    def run(self, arguments: Sequence[str], line: Callable[[str], None]) -> int:
        """Do what ``dvc --wait-for-lock`` does with these arguments in the next free slot.

        Args:
            arguments: of DVC.
            line: is given each line of the output.

        Returns:
            DVC's exit code; `STOPPED` if everything was stopped meanwhile.
        """
        slot = self._free.get()
        try:
            with self._lock:
                if self._stopping:
                    return STOPPED
                worker = self._worker(slot)
            code = self._call(worker, arguments, line)
            if code is not None:
                return code
            self._workers.pop(slot, None)  # it ended without an answer
            code = worker.wait() or 1
            return STOPPED if self._stopping else code
        except BaseException:
            # Whoever takes the lines has given up, so nobody would take the answer either.
            end(worker)
            self._workers.pop(slot, None)
            raise
        finally:
            self._free.put(slot)

    @staticmethod
    def _call(
        worker: subprocess.Popen, arguments: Sequence[str], line: Callable[[str], None]
    ) -> int | None:
        """A worker's answer; None if it has ended."""
        try:
            worker.stdin.write(json.dumps(["--wait-for-lock", *arguments]) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:
            return None
        for text in worker.stdout:
            if text.startswith(dvc_process.END):
                return int(text[1:])
            line(text.rstrip("\n"))
        return None

    def _worker(self, slot: int) -> subprocess.Popen:
        if slot not in self._workers:
            environment = within(self._folder) if self._folder else dict(os.environ)
            if len(self._gpus) > 1:
                environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
            self._workers[slot] = subprocess.Popen(
                WORKER,
                cwd=self._folder,
                env=environment,
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                bufsize=1,
                errors="replace",
            )
        return self._workers[slot]

    def close(self) -> None:
        """Let the workers end by themselves, when nothing runs any more."""
        for worker in self._workers.values():
            with suppress(OSError):
                worker.stdin.close()
            worker.wait()
        self._workers.clear()

    def stop(self) -> None:
        """End what runs."""
        with self._lock:  # so that none is started behind our back
            self._stopping = True
            running = list(self._workers.values())
        end(*running)


def within(folder: Path) -> dict[str, str]:
    """The environment of what runs in a copy of the project: its code comes first.

    This project's own folder may be on PYTHONPATH.
    """
    return {**os.environ, "PYTHONPATH": str(folder.resolve())}


def to_its_end(command: Sequence[str], line: Callable[[str], None], **options: Any) -> int:
    """Run a command and return its exit code; if this process is interrupted, end it first.

    It has a session of its own, so that it is told once, together with what it has started.

    Args:
        command: and its arguments.
        line: is given each line that it writes to stderr.
        options: of ``subprocess.Popen``.
    """
    child = subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **options,
    )
    try:
        for text in child.stderr:
            line(text.rstrip("\n"))
        return child.wait()
    except BaseException:
        end(child)
        child.wait()
        raise


def end(*children: subprocess.Popen) -> None:
    """End processes that have a session of their own, with what they have started.

    DVC does not take its child along, so the whole group is told. It may also end before its
    child, which still writes to the same files, so all are waited for.
    """
    started = []
    for child in children:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it ended by itself just now
            started += psutil.Process(child.pid).children(recursive=True)
            os.killpg(child.pid, signal.SIGTERM)
    psutil.wait_procs(started, timeout=ENDING_SECONDS)


def cache() -> Path:
    """Where DVC keeps what it caches.

    Raises:
        PipelineError: if it does not say.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.splitlines()
        reason = dvc_output.in_the_way(said) or " ".join(said)
        raise PipelineError(f"`dvc cache dir` does not say where its cache is: {reason}")
    return Path(done.stdout.strip()).resolve()
