"""A cluster of Dask as the place where stages run: the head's side.

One task for each stage of a model or the judges, sent when those before it have ended. Workers
that were started in this folder, which several machines may share, run it right here, through DVC
and its locks. Others run it in a clone of this commit and push what they made to DVC's remote;
then the head restores it (`run_cache`), so that one machine alone writes dvc.lock. What a worker
does is in `cluster_task`.
"""

import base64
import importlib.util
import subprocess
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.comparison import dvc_lock
from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.orchestration import cluster_task, dvc_process, dvc_workers, run_cache
from pipeline.orchestration.dvc_workers import STOPPED, Slots

HASHED = ("pipeline", "stages", "dvc.yaml", "params.yaml", ".dvc/config", ".dvcignore")
"""What a clone must have as it is here."""
CONNECTING_SECONDS = 10.0
ENDING_SECONDS = 60.0
"""The longest wait for what was stopped on a worker."""
MISSING = (
    "--scheduler: Dask is not installed: python -m pip install -c constraints.txt -e '.[cluster]'"
)


class Cluster:
    """Runs stages on the workers of a Dask scheduler, and tells line by line what they print."""

    def __init__(self, address: str, slots: Slots) -> None:
        """Connect, and see who is there.

        Args:
            address: of the scheduler, such as ``tcp://head:8786``, or the file in which it wrote it
                (``dask scheduler --scheduler-file``).
            slots: run what has to run here: what a worker made is restored in them.

        Raises:
            PipelineError: if Dask is missing, there is no answer, or workers need what is not
                there: a commit, a remote.
        """
        self.address, self._slots = address, slots
        self._client = _connect(address)
        self._token = paths.CLUSTER / uuid.uuid4().hex
        files.write_text(self._token, "")
        self._topic = f"generative-families-{self._token.name}"
        self._source = Path(cluster_task.__file__).read_text(encoding="utf-8")
        self._sent = _nameless(cluster_task)
        self._lines: dict[str, Callable[[str], None]] = {}
        self._begun: set[str] = set()
        self._ended: dict[str, threading.Event] = {}
        self._futures: dict[str, Any] = {}
        self._stopping = False
        self._lock = threading.Lock()
        self._pushed: set[str] = set()
        self._pushing = threading.Lock()
        self._ran: dict[str, dict[str, Any]] = {}
        try:
            self._client.subscribe_topic(self._topic, self._hear)
            self._workers = self._meet()
            self._resources = self._gpus()
            self._clone = self._cloned()
        except BaseException:
            self.close()
            raise

    @property
    def threads(self) -> int:
        """How many stages run at once, as far as workers are there."""
        share = self._resources.get("GPU")
        return max(
            1,
            sum(
                min(each["threads"], int(each["gpus"] / share)) if share else each["threads"]
                for each in self._workers.values()
            ),
        )

    def _meet(self) -> dict[str, dict[str, Any]]:
        """What each worker says of itself, when there is at least one."""
        if not self._client.scheduler_info(n_workers=-1)["workers"]:
            print(f"waiting for a worker of {self.address}", flush=True)
            self._client.wait_for_workers(1)
        found = self._client.run(self._sent.look, str(self._token))
        if not found:
            raise PipelineError(
                f"--scheduler {self.address}: its workers went away; start it again"
            )
        return found

    def _gpus(self) -> dict[str, float]:
        """What a stage asks for: with GPUs on some workers, all run there, since `auto` means them.

        What a processor and what a GPU made of the same model would compete for one entry of DVC's
        run-cache, and models that were trained on either are not to be compared.
        """
        runtime: params.Runtime = params.section(params.read(), "runtime")
        there = any(each["gpus"] for each in self._workers.values())
        if runtime.device == "cuda" and not there:
            raise PipelineError(
                f"{paths.PARAMS}: runtime.device = 'cuda': no worker of {self.address} says that "
                "it has a GPU; start those that do with --resources GPU=1"
            )
        if not there or runtime.device == "cpu":
            return {}
        if runtime.devices > 1:
            return {"GPU": runtime.devices}
        return {"GPU": (1 - 1e-9) / runtime.models_per_gpu}  # so that all of them fit, rounded

    def _cloned(self) -> str | None:
        """The commit that workers clone; None if all of them see this folder.

        Raises:
            PipelineError: if a clone would not be what is here, or could not hand anything over.
        """
        away = [name for name, each in self._workers.items() if not each["shares"]]
        if not away:
            return None
        why = f"{len(away)} of {len(self._workers)} workers were started elsewhere and clone this"
        changed = _git("status", "--porcelain", "--untracked-files=all", "--", *HASHED)
        if changed:
            name = changed.splitlines()[0][3:]
            raise PipelineError(f"{name}: not committed, and {why}; commit it and push")
        remote = subprocess.run(
            [sys.executable, "-m", "dvc", "remote", "default"],
            capture_output=True,
            text=True,
            check=False,
        )
        if remote.returncode != 0 or not remote.stdout.strip():
            raise PipelineError(
                f".dvc/config: there is no default remote, and {why}; see docs/cluster.md: "
                "dvc remote add --default store ..., and commit it"
            )
        return _git("rev-parse", "HEAD")

    def run(self, stages: Sequence[str], flags: Sequence[str], line: Callable[[str], None]) -> int:
        """Run stages one after the other, each wherever there is room first.

        Args:
            stages: as DVC calls them.
            flags: of ``dvc repro``.
            line: is given each line of the output.

        Returns:
            DVC's exit code; `STOPPED` if everything was stopped meanwhile.
        """
        code = 0
        for name in stages:
            code = code or self._run_one(name, list(flags), line)
        return code

    def _run_one(self, name: str, flags: list[str], line: Callable[[str], None]) -> int:
        if self._clone and not flags and self._is_here(name):
            return self._slots.run(["repro", "--single-item", name], line)
        request = {
            "stage": name,
            "flags": flags,
            "token": str(self._token),
            "clone": None,
        }
        if self._clone:
            needs = _needs(name)
            code = self._push(needs, line)
            if code != 0:
                return code
            text = files.read_text(paths.DVC_LOCK)
            request["clone"] = {"commit": self._clone, "lock": text, "needs": needs}
        result = self._ask(name, request, line)
        self._ran[name] = result.get("facts", {})
        if result["code"] != 0 or "made" not in result:
            return result["code"]
        return self._take(name, result, line)

    def _is_here(self, name: str) -> bool:
        """Whether DVC would not run the stage, since nothing changed or it remembers the result."""
        said: list[str] = []
        code = self._slots.run(["repro", "--dry", "--single-item", name], said.append)
        return code == 0 and not any(text.startswith("Running stage") for text in said)

    def _push(self, needs: list[str], line: Callable[[str], None]) -> int:
        """Have on the remote what a stage needs and no worker has brought there."""
        with self._pushing:
            missing = [each for each in needs if each not in self._pushed]
            code = self._slots.run(["push", *missing], line) if missing else 0
            if code == 0:
                self._pushed.update(missing)
        return code

    def _ask(self, name: str, request: dict, line: Callable[[str], None]) -> dict[str, Any]:
        """What a worker answers; without an answer a line says why, and there is a ``code``."""
        key = f"{name}-{uuid.uuid4().hex[:8]}"
        ended = threading.Event()
        with self._lock:
            if self._stopping:
                return {"code": STOPPED}
            self._lines[key], self._ended[key] = line, ended
            future = self._futures[key] = self._client.submit(
                self._sent.perform,
                self._source,
                request,
                self._topic,
                key=key,
                pure=False,
                resources=self._resources,
                # A model that has begun comes first: its judging needs no training any more.
                priority=_depth(name),
            )
        try:
            result = future.result()
            ended.wait(ENDING_SECONDS)  # its last lines come by another way
            return result
        except CancelledError:
            if self._stopping:
                if key in self._begun:
                    ended.wait(ENDING_SECONDS)
                return {"code": STOPPED}
            line(f"error: {self.address}: the scheduler lost {name}, or is gone; run it again")
        except Exception as error:  # whatever happened on the worker, or Dask makes of it
            line(f"error: {self.address}: {name}: {_why(error)}")
        finally:
            with self._lock:
                self._futures.pop(key).release()
                del self._lines[key], self._ended[key]
        return {"code": 1}

    def _take(self, name: str, result: dict[str, Any], line: Callable[[str], None]) -> int:
        """Restore what a worker made."""
        try:
            run_cache.take(result["made"], dvc_workers.cache())
            for file, content in result["timings"].items():
                files.write_text(
                    paths.TIMINGS / Path(file).name, base64.b64decode(content).decode()
                )
        except PipelineError as error:
            line(f"error: {error}")
            return 1
        self._pushed.update(_made(name))
        restore = [dvc_process.RESTORE, "repro", "--single-item", "--pull", name]
        return self._slots.run(restore, line)

    def _hear(self, event: tuple[float, list]) -> None:
        """Take in what a task tells; called by the client's thread."""
        _, (key, text) = event
        with self._lock:
            self._begun.add(key)
            line, ended = self._lines.get(key), self._ended.get(key)
        if line is None:
            return
        if text is None:
            ended.set()
        else:
            line(text)

    def told(self) -> list[str]:
        """Where stages ran, if that may be seen in the bits: machines and versions that differ."""
        kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
        for facts in self._ran.values():
            if facts:
                kinds[facts["device"], facts["instructions"]].append(facts["host"])
        lines = []
        if len(kinds) > 1:
            shown = "; ".join(
                f"{len(hosts)} on {device} with {instructions} ({', '.join(sorted(set(hosts)))})"
                for (device, instructions), hosts in sorted(kinds.items())
            )
            lines.append(
                f"warning: stages ran on machines of several kinds, which give other bits: {shown}"
            )
        here = cluster_task.facts()["versions"]
        for host, versions in sorted(
            {each["host"]: each["versions"] for each in self._ran.values() if each}.items()
        ):
            other = [
                f"{name} {version} (here {here.get(name)})"
                for name, version in versions.items()
                if version != here.get(name)
            ]
            if other:
                lines.append(f"warning: {host} has {', '.join(other)}; install the same on all")
        return lines

    def stop(self) -> None:
        """End what runs on workers; `run` waits until it has ended."""
        with self._lock:
            self._stopping = True
            futures = list(self._futures.values())
        with suppress(Exception):  # the scheduler may be why we stop
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Leave the cluster as it was found."""
        with suppress(Exception):
            self._client.close(timeout=5)
        with suppress(OSError):
            self._token.unlink()


def _nameless(module: ModuleType) -> Any:
    """The module again, but not by a name: what Dask can import, it sends as a name.

    Workers need not have this code, and if they do, of another day.
    """
    spec = importlib.util.spec_from_file_location("sent", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def _connect(address: str) -> Any:
    try:
        import distributed
    except ImportError:
        raise PipelineError(MISSING) from None
    try:
        by = {"scheduler_file" if Path(address).is_file() else "address": address}
        return distributed.Client(**by, timeout=CONNECTING_SECONDS, name="generative-families")
    except (OSError, ValueError, TimeoutError) as error:
        raise PipelineError(
            f"--scheduler {address}: no scheduler answers there ({_why(error)}); one is started by "
            "`dask scheduler`, which prints its address"
        ) from None


def _why(error: BaseException) -> str:
    """What went wrong, in one line."""
    kind = type(error).__name__
    if kind == "KilledWorker":
        return (
            "the workers that ran it died one after the other; mostly that is for want of memory: "
            "start them with fewer threads"
        )
    text = " ".join(str(error).split())
    return f"{kind}: {text[:300]}" if text else kind


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise PipelineError(f"git {arguments[0]} failed, and workers clone what git has: {said}")
    return done.stdout.strip("\n")


def _depth(name: str) -> int:
    kind, _, _ = name.partition("@")
    return dvc_lock.MODEL_STAGES.index(kind) if kind in dvc_lock.MODEL_STAGES else 0


def _needs(name: str) -> list[str]:
    """Outputs of other stages that a stage reads."""
    kind, _, model = name.partition("@")
    deps = {str(path) for path in stage.declared(kind, model or None).deps}
    outs = [out["path"] for each in dvc_lock.read()["stages"].values() for out in each["outs"]]
    return sorted(
        out for out in outs if any(dep == out or dep.startswith(f"{out}/") for dep in deps)
    )


def _made(name: str) -> set[str]:
    return {out["path"] for out in dvc_lock.read().get("stages", {}).get(name, {}).get("outs", [])}
