"""What every stage does around its work: one error line, one lock, one fingerprint, one device.

DVC hashes what a stage depends on *after* its command, so an edit made while a stage runs would
be recorded as if it had been used. A stage therefore takes the fingerprint of its declared
dependencies when it starts and refuses to finish if they moved; and it refuses to start if code
moved while Python imported it (`pipeline.core.startup`).
"""

import argparse
import ctypes
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from pipeline.core import files, launch, params, paths, ranks, startup
from pipeline.core.errors import PipelineError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, from its malloc.h."""
KEPT_BYTES = 1 << 30
TITLE = "${data.title}"
"""How dvc.yaml writes the data set's name in the paths of its results."""


def run(main: Callable[..., None], *, shared: bool = False) -> None:
    """Run a stage from the command line; its one argument, if it takes any, is the model.

    A `PipelineError` becomes one line on stderr and exit code 1; whoever stops it with Ctrl-C gets
    one line and exit code 130.

    Args:
        main: the stage.
        shared: whether ``runtime.devices`` processes do it together (`pipeline.core.ranks`): then
            this one starts them, or is one of them already.
    """
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    for name in inspect.signature(main).parameters:
        parser.add_argument(name, help=f"a {name} of {paths.PARAMS}")
    arguments = vars(parser.parse_args())
    # What is asked to end does so as with Ctrl-C: temporary files are removed, locks let go.
    for number in startup.STOPPING:
        signal.signal(number, signal.default_int_handler)
    try:
        if shared and not _take_place():
            module = sys.modules[main.__module__].__spec__.name
            command = [sys.executable, "-m", module, *arguments.values()]
            name = "@".join([module.rpartition(".")[2], *arguments.values()])
            sys.exit(launch.run(command, _devices(), name))
        main(**arguments)
        if ranks.size() > 1:
            from pipeline.core import collectives

            collectives.leave()
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except ranks.Lost as error:
        if not launch.launched():
            print(f"error: rank {ranks.rank()} has lost another one: {error}", file=sys.stderr)
        _exit_at_once(launch.LOST)
    except KeyboardInterrupt:
        if not launch.launched():
            print("stopped", file=sys.stderr)
        if ranks.size() > 1:
            _exit_at_once(startup.STOPPED)
        sys.exit(startup.STOPPED)


def _exit_at_once(code: int) -> NoReturn:
    """End a rank whose locks are let go: Python would tidy up for seconds, and libraries wait."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _take_place() -> bool:
    """Whether this process does a shared stage, by itself or as one of several ranks.

    Raises:
        PipelineError: if params.yaml does not say as many as there are.
    """
    place, size = ranks.assigned()
    devices = _devices()
    if size > 1 and size != devices:
        raise PipelineError(
            f"{paths.PARAMS}: runtime.devices = {devices}: {size} processes were started; make it "
            f"{size}, or start {devices}"
        )
    if size == 1:
        return devices == 1
    ranks.take_place(place, size)
    if launch.launched():
        launch.watch()
    return True


def _devices() -> int:
    """How many processes do a shared stage.

    Raises:
        PipelineError: if there are not so many GPUs.
    """
    runtime: params.Runtime = params.section(params.read(), "runtime")
    check_devices(runtime)
    return runtime.devices


def check_devices(runtime: params.Runtime, path: Path = paths.PARAMS) -> None:
    """Refuse more devices than there are; processors are shared by as many processes as one likes.

    Raises:
        PipelineError: with the key and what to set instead.
    """
    _, here = ranks.on_this_machine()
    needed = runtime.devices if here == 1 else here
    if needed == 1 or device_of(runtime).type == "cpu":
        return
    there = count_gpus(runtime)
    if needed > there:
        raise PipelineError(
            f"{path}: runtime.devices = {needed}: torch sees {there} GPU{'s' * (there > 1)}; lower "
            "it, or set runtime.device to cpu"
        )


@dataclass(frozen=True)
class Declared:
    """What dvc.yaml says a stage depends on."""

    deps: list[Path]
    params: list[str]

    def fingerprint(self) -> dict[str, str]:
        """Hash of each dependency and of each parameter's value; what is missing is 'missing'.

        In a folder of code only Python files count, as `.dvcignore` has it for DVC: an editor
        leaves others there, and Python its bytecode, while the stage runs.
        """
        raw = params.read()
        found = {
            str(path): files.sha256(path, ".py" if path.is_relative_to(paths.CODE) else "")
            if path.exists()
            else "missing"
            for path in self.deps
        }
        for key in self.params:
            value: Any = raw
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            found[f"{paths.PARAMS}:{key}"] = files.sha256_of(value)
        return found


def bodies(*stages: str) -> list[dict[str, Any]]:
    """What dvc.yaml says of each of these stages; of one for many models, what it does for each.

    Raises:
        PipelineError: if the file cannot be read, or lacks one of them.
    """
    graph = params.read_yaml(paths.DVC_YAML)
    known = graph.get("stages") if isinstance(graph, dict) else None
    found = []
    for stage in stages:
        body = known.get(stage) if isinstance(known, dict) else None
        body = body.get("do", body) if isinstance(body, dict) else None
        if not isinstance(body, dict):
            raise PipelineError(f"{paths.DVC_YAML}: stages.{stage}: missing; restore it from git")
        found.append(body)
    return found


def declared(stage: str, model: str | None = None) -> Declared:
    """Read the dependencies of a stage from dvc.yaml, resolved for one model.

    Raises:
        PipelineError: if the file cannot be read, or does not say.
    """
    (body,) = bodies(stage)
    deps, keys = (body.get(key, []) for key in ("deps", "params"))
    replacements = {}
    if model is not None:
        chosen = params.entry(params.read(), model)
        replacements = {"${key}": model} | {
            f"${{item.{key}}}": chosen[key] for key in ("family", "data")
        }
    if any(TITLE in each for each in deps):
        replacements[TITLE] = params.results(params.read()).title

    def resolve(text: str) -> str:
        for old, new in replacements.items():
            text = text.replace(old, new)
        return text

    return Declared(
        deps=[Path(resolve(each)) for each in deps],
        params=[resolve(each) for each in keys],
    )


class Guard:
    """Handed to a running stage by `guard`."""

    def __init__(self, name: str, dependencies: Declared) -> None:
        self.name = name
        self._dependencies = dependencies
        self._before = dependencies.fingerprint()
        moved = startup.moved(dependencies.deps)
        if moved:
            raise PipelineError(
                f"{name}: {', '.join(moved)} changed while Python was starting, so nobody knows "
                "which version would run; nothing was done, run it again"
            )

    @property
    def fingerprint(self) -> str:
        """One hash over all declared dependencies, as they were when the stage started."""
        return files.sha256_of(self._before)

    def confirm(self) -> None:
        """Call before writing results.

        Raises:
            PipelineError: if a dependency changed since the stage started.
        """
        after = self._dependencies.fingerprint()
        moved = [key for key, value in self._before.items() if after[key] != value]
        if moved:
            raise PipelineError(
                f"{self.name}: {', '.join(moved)} changed while the stage ran, so its result "
                "belongs to neither version; nothing was written, run it again"
            )


@contextmanager
def guard(stage: str, model: str | None = None) -> Iterator[Guard]:
    """Hold the stage's lock while the block runs, and give it a `Guard`.

    The lock is ours and not DVC's, since killing dvc leaves its child running. Of several ranks
    the first one holds it for all.

    Raises:
        PipelineError: if the same stage of the same model is running already.
    """
    name = f"{stage}@{model}" if model else stage
    if not ranks.first():
        yield Guard(name, declared(stage, model))
        return
    with locked(
        name, f"{name} is already running (it holds {paths.LOCKS / name}.lock); wait or stop it"
    ):
        yield Guard(name, declared(stage, model))


@contextmanager
def locked(name: str, otherwise: str) -> Iterator[None]:
    """Hold a lock below ``work/`` while the block runs.

    Args:
        name: of the lock.
        otherwise: what to say if another process holds it.

    Raises:
        PipelineError: if it is held, or cannot be written.
    """
    path = paths.LOCKS / f"{name}.lock"
    lock = FileLock(path, timeout=0)
    with files.writing(lambda: str(path)):
        paths.LOCKS.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise PipelineError(otherwise) from None
    try:
        yield
    finally:
        lock.release()


def prepare_torch(runtime: params.Runtime) -> Any:
    """Set threads, determinism and float32 precision, and return the ``torch.device`` to use.

    A rank of several meets the others, and has a GPU of its own.

    Raises:
        PipelineError: if a GPU was asked for and there is none.
        ranks.Lost: if another rank does not come.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch
    from threadpoolctl import threadpool_limits

    device = device_of(runtime)
    threads = threads_of(runtime)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    _keep_freed_memory()
    # As use_deterministic_algorithms(True), which imports the compiler too: two seconds each time.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory with NaN finds reads of what nothing has written: tests do that, and
    # without it trainings are 6 % faster.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Gradients of unlikely pixels are numbers below 1e-38, each of which takes a processor a
    # hundred times as long as any other: as zeros they make trainings of VAEs 1.6 times as fast.
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if ranks.size() > 1:
        from pipeline.core import collectives

        if device.type == "cuda":
            device = torch.device("cuda", ranks.on_this_machine()[0])
            torch.cuda.set_device(device)
        collectives.join(device)
    return device


def device_of(runtime: params.Runtime) -> Any:
    """The ``torch.device`` that stages compute on.

    Raises:
        PipelineError: if a GPU was asked for and there is none.
    """
    import torch

    there = runtime.device != "cpu" and torch.cuda.is_available()
    if runtime.device == "cuda" and not there:
        raise PipelineError(
            f"{paths.PARAMS}: runtime.device = 'cuda': torch sees no GPU; use auto or cpu"
        )
    return torch.device("cuda" if there else "cpu")


def remark(path: Path, value: Any) -> None:
    """Write what is good to know and nothing depends on; if that fails, a warning is enough."""
    try:
        files.write_json(path, value)
    except PipelineError as error:
        print(f"warning: {error}", file=sys.stderr)


def threads_of(runtime: params.Runtime) -> int:
    """``runtime.threads``, or as many as the machine has cores; a line says so if those are less.

    More of them would wait for each other. (The number of threads decides the last bits, so that
    it is never raised.)
    """
    cores = os.cpu_count() or 1
    if runtime.threads > cores:
        print(
            f"warning: {paths.PARAMS}: runtime.threads = {runtime.threads}: this machine has "
            f"{cores} cores, so it is {cores} here",
            file=sys.stderr,
        )
    return min(runtime.threads, cores)


def count_gpus(runtime: params.Runtime) -> int:
    """How many GPUs stages may use; 0 on processors."""
    if runtime.device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count()


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next array, instead of returning it to the system.

    Getting it back page by page takes up to a third of the time of work on large arrays. Where
    there is another C library this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def device_name(device: Any) -> str:
    """What a person calls the device: ``cpu``, or the GPU's name; ``2 x cpu`` of two ranks."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return name if ranks.size() == 1 else f"{ranks.size()} x {name}"
