"""What a worker of a Dask cluster does: one stage, by DVC, in the run's own folder or a clone.

It is sent as text, since what is checked out where a worker was started may be of any age. So it
imports nothing of the project, and beside the standard library only what Dask has brought.

A stage runs below a process of its own, which ends it when the worker is gone or the run lost
interest: nobody may write where the scheduler has sent the next one.
"""

import base64
import configparser
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

END = "\x02"
"""Begins a line that is no output: an exit code of DVC, or the last word of a stage."""
SERVER = ("-u", "-m", "pipeline.orchestration.dvc_process")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "dvc")
"""What results may depend on, beside the code."""
CLONES = Path("work/cluster")
"""Where clones are, below the folder in which a worker was started; they share its cache."""
CODE = ("pipeline", "stages", "dvc.yaml", "params.yaml")
"""What a checkout of this project holds."""
PATIENCE_SECONDS = 60.0
"""How long the end of a stage that runs elsewhere in the same folder is waited for: that of a lost
worker ends at once when it can."""
ENDING_SECONDS = 30.0
INTEREST_SECONDS = 0.5
"""Time between questions whether the run still wants the result."""
FACTS = f"""
import json, platform, socket, torch
from importlib import metadata
gpu = torch.cuda.is_available()
print(json.dumps({{
    "host": socket.gethostname(),
    "device": torch.cuda.get_device_name() if gpu else "cpu",
    "instructions": torch.backends.cpu.get_cpu_capability(),
    "versions": {{"python": platform.python_version()}}
    | {{name: metadata.version(name) for name in {PACKAGES!r}}},
}}))
"""


class Refused(Exception):
    """Why nothing can run here, in one line."""


# In the worker, which is a process of Dask's.


def perform(source: str, request: dict[str, Any], topic: str) -> dict[str, Any]:
    """Run one stage and tell what it prints to a topic.

    Args:
        source: the text of this file.
        request: see `run`.
        topic: takes ``[key, line]`` for each line, an empty one first, and ``[key, None]`` when
            all has ended.

    Returns:
        What `run` does, with ``facts`` of this machine; only ``code``, if it ended without a word.
    """
    from distributed.worker import get_worker, thread_state

    worker, key = get_worker(), thread_state.key

    def wanted() -> bool:
        found = worker.state.tasks.get(key)
        return found is not None and found.state not in ("cancelled", "resumed", "released")

    known = worker.extensions.setdefault("generative-families", {})
    result: dict[str, Any] = {"code": 1}
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", source],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    ended = threading.Event()

    def ask() -> None:
        while wanted() and not ended.wait(INTEREST_SECONDS):
            pass
        with suppress(OSError):
            child.stdin.close()

    worker.log_event(topic, [key, ""])
    try:
        child.stdin.write(json.dumps({**request, "facts": known or None}) + "\n")
        child.stdin.flush()
        threading.Thread(target=ask, daemon=True).start()
        for text in child.stdout:
            if text.startswith(END):
                result = json.loads(text[len(END) :])
            else:
                worker.log_event(topic, [key, text.rstrip("\n")])
        child.wait()
        known.update(result.get("facts", {}))
    finally:
        ended.set()
        worker.log_event(topic, [key, None])
    return result


def look(token: str, dask_worker: Any = None) -> dict[str, Any]:
    """What there is at a worker (Dask fills it in): ``threads``, ``gpus``, and whether it was
    started in the run's own folder (``shares``)."""
    return {
        "shares": Path(token).exists(),
        "threads": dask_worker.state.nthreads,
        "gpus": dask_worker.state.total_resources.get("GPU", 0),
    }


# In the process below it.


def main() -> None:
    """Do what the first line of standard input asks for; end when there is no more of it."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_until_nobody_listens, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: _give_up())
    try:
        result = run(request)
    except Refused as error:
        print(f"error: {error}", flush=True)
        result = {"code": 1}
    print(f"{END}{json.dumps(result)}", flush=True)


def _until_nobody_listens() -> None:
    while sys.stdin.readline():
        pass
    _give_up()


def _give_up() -> None:
    """End all that was started, and this process."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for each in children:
            with suppress(psutil.NoSuchProcess):
                end(each)
        _, children = psutil.wait_procs(children, timeout=ENDING_SECONDS)
    os._exit(128 + signal.SIGTERM)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run one stage of the head's project.

    Args:
        request: ``stage`` and ``flags`` of ``dvc repro``; ``token``, a file in the run's folder;
            ``clone`` if some worker needs one, with ``commit``, ``lock`` (the text of dvc.lock)
            and ``needs`` (outputs of other stages); ``facts`` if they are known.

    Returns:
        ``code`` of DVC, ``facts`` of this machine; and, if the head does not see what was made,
        ``made``: the entry of DVC's run-cache as `pipeline.orchestration.run_cache` has it, and
        ``timings``, the text of each new file of work/timings by its name.

    Raises:
        Refused: if there is no such project here.
    """
    stage, flags = request["stage"], request["flags"]
    told = request["facts"] or facts()
    if Path(request["token"]).exists():
        with Dvc(Path.cwd()) as dvc:
            return {"code": dvc.repro(stage, flags), "facts": told}
    wanted = request["clone"]
    if wanted is None:
        raise Refused(
            f"{told['host']}:{Path.cwd()}: is not the folder of this run, in which all workers "
            "were when it began; end this worker, or start the run again"
        )
    with clone(wanted["commit"], told["host"]) as here, Dvc(here) as dvc:
        (here / "dvc.lock").write_text(wanted["lock"], encoding="utf-8")
        known = {path.name for path in (here / "work/timings").glob("*.json")}
        code = dvc.call("pull", "--force", *wanted["needs"]) if wanted["needs"] else 0
        code = code or dvc.repro(stage, flags)
        # With its outputs on the remote, the head can take over what was made.
        code = code or dvc.call("push", stage)
        result = {"code": code, "facts": told}
        if code == 0:
            result["made"] = _entry(here, stage)
            result["timings"] = {
                path.name: base64.b64encode(path.read_bytes()).decode()
                for path in (here / "work/timings").glob("*.json")
                if path.name not in known
            }
        return result


class Dvc:
    """A process of the project that runs DVC, call by call, and shows what it prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *SERVER],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> "Dvc":
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.stdin.close()
        self.process.wait()

    def call(self, *arguments: str) -> int:
        """Do what ``dvc --wait-for-lock`` does with these arguments; its exit code."""
        self.said.clear()
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(["--wait-for-lock", *arguments]) + "\n")
            self.process.stdin.flush()
        for text in self.process.stdout:
            if text.startswith(END):
                return int(text[len(END) :])
            self.said.append(text)
            print(text, end="", flush=True)
        return self.process.wait() or 1

    def repro(self, stage: str, flags: list[str]) -> int:
        """Run a stage; if the same one still ends elsewhere, when it has."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            code = self.call("repro", "--single-item", *flags, stage)
            running = any(
                text.startswith(f"error: {stage} is already running") for text in self.said
            )
            if not running or time.monotonic() > until:
                return code
            time.sleep(1)


def environment(folder: Path) -> dict[str, str]:
    """That of what runs in a copy of the project: its code and this Python come first."""
    binaries = str(Path(sys.executable).parent)
    path = f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder.resolve())}


def facts() -> dict[str, Any]:
    """Of this machine: ``host``, ``device``, ``instructions`` (of its processor), ``versions``."""
    told = _said(sys.executable, "-c", FACTS)
    return json.loads(told.splitlines()[-1])


def _entry(folder: Path, stage: str) -> dict[str, Any]:
    program = (sys.executable, "-m", "pipeline.orchestration.run_cache", stage)
    return json.loads(_said(*program, cwd=folder, env=environment(folder)).splitlines()[-1])


def _said(*command: str, **options: Any) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Refused(f"{' '.join(command[:2])} failed: {why[-1].removeprefix('error: ')}")
    return done.stdout


@contextmanager
def clone(commit: str, host: str) -> Iterator[Path]:
    """A clone of the checkout in which the worker was started, at a commit; nobody else uses it.

    It is kept, with what DVC has made in it; the next stage of the same model may need it.

    Raises:
        Refused: if this is no checkout of the project, or the commit cannot be had.
    """
    base = Path.cwd()
    where = f"{host}:{base}"
    if not all((base / name).exists() for name in CODE):
        raise Refused(
            f"{where}: is no checkout of this project; start workers in one, or in the folder of "
            "the run where it is seen"
        )
    if not _has(base, commit):
        with suppress(Refused):
            _said("git", "-C", str(base), "fetch", "--quiet", "--all")
        if not _has(base, commit):
            raise Refused(
                f"{where}: has no commit {commit[:12]}, and fetching brings none; push it to where "
                "this checkout fetches from"
            )
    with _free_folder(base / CLONES) as folder:
        if not _has(folder, commit):
            shutil.rmtree(folder, ignore_errors=True)
            _said("git", "clone", "--quiet", "--shared", "--no-checkout", str(base), str(folder))
        _said("git", "-C", str(folder), "checkout", "--quiet", "--force", "--detach", commit)
        _configure(base, folder)
        yield folder


def _has(folder: Path, commit: str) -> bool:
    if not (folder / ".git").exists():
        return False
    done = subprocess.run(
        ["git", "-C", str(folder), "cat-file", "-e", f"{commit}^{{commit}}"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@contextmanager
def _free_folder(parent: Path) -> Iterator[Path]:
    """The first folder with a number that no other worker of this machine has taken."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        with (parent / f"{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            # What DVC starts inherits no handle, so that the lock ends with this process.
            yield parent / str(number)
            return


def _configure(base: Path, folder: Path) -> None:
    """Have the worker's own settings of DVC (its remote, its credentials), and its cache."""
    own, given = folder / ".dvc/config.local", base / ".dvc/config.local"
    if own.exists() and (not given.exists() or given.stat().st_mtime < own.stat().st_mtime):
        return
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(given, encoding="utf-8")
    cache = _said(sys.executable, "-m", "dvc", "cache", "dir", cwd=base).strip()
    if not settings.has_section("cache"):
        settings.add_section("cache")
    settings["cache"]["dir"] = str((base / cache).resolve())
    with own.open("w", encoding="utf-8") as stream:
        settings.write(stream)


if __name__ == "__main__":
    main()
