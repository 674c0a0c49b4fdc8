"""What every stage does around its work: one error line, one lock, one fingerprint, one device.

DVC hashes what a stage depends on *after* its command, so an edit made while a stage runs would
be recorded as if it had been used. A stage therefore takes the fingerprint of its declared
dependencies when it starts and refuses to finish if they moved.
"""

import argparse
import ctypes
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings, from its malloc.h."""
KEPT_BYTES = 1 << 30


def run(main: Callable[..., None]) -> None:
    """Run a stage from the command line; its one argument, if it takes any, is the model.

    A `PipelineError` becomes one line on stderr and exit code 1.
    """
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    for name in inspect.signature(main).parameters:
        parser.add_argument(name, help=f"a {name} of {paths.PARAMS}")
    arguments = vars(parser.parse_args())
    try:
        main(**arguments)
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


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


def declared(stage: str, model: str | None = None) -> Declared:
    """Read the dependencies of a stage from dvc.yaml, resolved for one model."""
    raw = YAML(typ="safe").load(paths.DVC_YAML.read_text(encoding="utf-8"))["stages"][stage]
    body = raw.get("do", raw)
    replacements = {}
    if model is not None:
        chosen = params.entry(params.read(), model)
        replacements = {"${key}": model} | {
            f"${{item.{key}}}": chosen[key] for key in ("family", "data")
        }

    def resolve(text: str) -> str:
        for old, new in replacements.items():
            text = text.replace(old, new)
        return text

    return Declared(
        deps=[Path(resolve(each)) for each in body.get("deps", [])],
        params=[resolve(each) for each in body.get("params", [])],
    )


class Guard:
    """Handed to a running stage by `guard`."""

    def __init__(self, name: str, dependencies: Declared) -> None:
        self.name = name
        self._dependencies = dependencies
        self._before = dependencies.fingerprint()

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

    The lock is ours and not DVC's, since killing dvc leaves its child running.

    Raises:
        PipelineError: if the same stage of the same model is running already.
    """
    name = f"{stage}@{model}" if model else stage
    paths.LOCKS.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.LOCKS / f"{name}.lock", timeout=0)
    try:
        with lock:
            yield Guard(name, declared(stage, model))
    except Timeout:
        raise PipelineError(
            f"{name} is already running (it holds {lock.lock_file}); wait for it or stop it"
        ) from None


def prepare_torch(runtime: params.Runtime) -> Any:
    """Set threads, determinism and float32 precision, and return the ``torch.device`` to use.

    Raises:
        PipelineError: if a GPU was asked for and there is none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch
    from threadpoolctl import threadpool_limits

    device = device_of(runtime)
    torch.set_num_threads(runtime.threads)
    threadpool_limits(runtime.threads)
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
    """What a person calls the device: ``cpu``, or the GPU's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
