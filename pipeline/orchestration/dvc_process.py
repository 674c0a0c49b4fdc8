"""DVC in a process of ours: started once for many calls, and with some of its habits made quick.

``python -m pipeline.orchestration.dvc_process repro vae`` does what ``dvc repro vae`` does. Without
arguments it is a worker: it takes calls from its standard input, one JSON list of arguments on
each line, and ends the output of each with a line of `END` and the exit code.

DVC takes seconds to start. For each stage it parses params.yaml and holds each parameter's name
against all that it says; it reads the whole of dvc.lock before and after, and writes it, with a
parser that keeps comments, of which there are none. All that grows with the number of models, and
is done for each of them. Each stage is a Python that imports torch, which takes as long as some
trainings. Here a file is parsed again when it changed, dvc.lock by the stage (`lock_text`), names
are looked up, and a stage is a copy of this process (fork) in which libraries are imported already,
but nothing of the project is. What is written means the same, which a test compares with plain
DVC; if a later DVC has none of what is replaced here, it runs as it is.
"""

import copy
import importlib
import json
import os
import re
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from pipeline.orchestration import lock_text

END = "\x02"
"""Begins the line that ends the output of a call; no stage prints it."""
RESTORE = "--restore"
"""An argument of a call that must run nothing: its stages were run elsewhere."""
STAGE = re.compile(r"python -m (stages\.\w+)((?: \w+)*)")
PROJECT = ("pipeline", "stages")
"""Packages that a stage imports afresh, as they are when it starts."""
COMPUTING = ("stages.judge", "stages.reference", "stages.train", "stages.sample", "stages.evaluate")
"""Stages that import torch."""
TORCH = (
    "torch",
    # Its compiler, which nothing here uses: every optimiser imports it, and so does every count of
    # operations, which takes as long as torch itself.
    "torch._dynamo",
    "safetensors.torch",
)
PRELOADED = ("numpy", "pydantic", "ruamel.yaml", "tqdm", "PIL.Image")
"""What most stages import and nobody edits."""
NAME = re.compile(r"[^\W\d][^.*?[\]]*(\.[^\W\d][^.*?[\]]*)*")
"""A parameter that stands for itself: no pattern, and no place in a list."""
MISSING = object()
LOCK = lock_text.LockText()
PARSED: dict[str, tuple[tuple[int, int, int], Any]] = {}
"""Files as they were when they were parsed: when they had changed, their size and inode."""


def main(arguments: Sequence[str]) -> int:
    """Do what ``dvc`` does with these arguments, and return its exit code."""
    import dvc.cli
    from fsspec.implementations.memory import MemoryFileSystem

    _make_quick()
    given = [each for each in arguments if each != RESTORE]
    try:
        with _restoring() if RESTORE in arguments else nullcontext():
            return dvc.cli.main(given)
    finally:
        MemoryFileSystem.store.clear()  # the folders it listed, which no later call looks at


def serve() -> None:
    """Answer calls until standard input ends."""
    # Stages inherit standard input: they get none, and cannot read what is meant for this loop.
    calls = os.fdopen(os.dup(0), encoding="utf-8")
    os.set_inheritable(calls.fileno(), False)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for line in calls:
        code = main(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        print(f"\n{END}{code}", flush=True)


def _make_quick() -> None:
    import dvc.dependency.param
    import dvc.dvcfile
    import dvc.stage.run
    import dvc.utils.serialize
    from fsspec.implementations.memory import MemoryFileSystem
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # DVC's bars, also those that are not shown, would start a thread
    for place, name, quicker in (
        (dvc.dvcfile, "modify_yaml", _modifying),
        (getattr(dvc.dvcfile, "Lockfile", None), "_load_yaml", _loading),
        (dvc.dependency.param, "read_param_file", _picking),
        (dvc.utils.serialize, "load_path", _remembering),
        (dvc.stage.run, "_run", _copying),
        (MemoryFileSystem, "info", _finding),
    ):
        found = getattr(place, name, None)
        if found is not None and not hasattr(found, "quicker_than"):
            made = quicker(found)
            made.quicker_than = found
            setattr(place, name, made)


def _modifying(slowly: Callable[..., Any]) -> Callable[..., Any]:
    """As DVC's own, but for files of DVC's that hold no comments; an unchanged one is left."""

    @contextmanager
    def modify(path: Any, fs: Any = None) -> Iterator[dict[str, Any]]:
        file = Path(path)
        if file.name != "dvc.lock" or not file.exists():
            with slowly(path, fs=fs) as data:
                yield data
            return
        text = file.read_text(encoding="utf-8")
        data, before = LOCK.load(text), LOCK.load(text)
        yield data
        if data != before:
            # As `core.files` names them, which sweeps away what a killed process leaves; that
            # itself is of the project, of which a worker holds what belongs to DVC alone.
            temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp{file.suffix}")
            try:
                temporary.write_text(LOCK.dump(data), encoding="utf-8")
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)

    return modify


@contextmanager
def _restoring() -> Iterator[None]:
    """Let DVC take the newest entry of its run-cache, whatever dvc.lock says, and run nothing."""
    import dvc.stage
    import dvc.stage.run
    from dvc.stage.exceptions import StageCmdFailedError

    def refuse(executable: Any, cmd: str, **options: Any) -> NoReturn:
        name = options["env"]["DVC_STAGE"]
        print(f"error: {name}: what was made of it elsewhere did not arrive; run it again")
        raise StageCmdFailedError(cmd, 1)

    stage, run = dvc.stage.PipelineStage, dvc.stage.run._run
    kept = {name: stage.__dict__.get(name) for name in ("changed", "changed_stage")}
    dvc.stage.run._run = refuse
    for name in kept:
        setattr(stage, name, lambda *arguments, **options: True)
    try:
        yield
    finally:
        dvc.stage.run._run = run
        for name, found in kept.items():
            if found is None:
                delattr(stage, name)
            else:
                setattr(stage, name, found)


def _loading(slowly: Callable[..., Any]) -> Callable[..., Any]:
    """As DVC's own of dvc.lock, but a stage that did not change is parsed and validated once."""
    valid: set[str] = set()

    def load(self: Any, **options: Any) -> tuple[Any, str]:
        if options or not _is_here(self.repo.fs):
            return slowly(self, **options)
        try:
            text = Path(self.path).read_text(encoding="utf-8")
            blocks = LOCK.blocks(text)
            self.validate(lock_text.content(each for each in blocks if each.text not in valid))
        except Exception:  # which DVC tells in its own words
            return slowly(self, **options)
        valid.clear()
        valid.update(each.text for each in blocks)
        return lock_text.content(blocks), text

    return load


def _remembering(slowly: Callable[..., Any]) -> Callable[..., Any]:
    """As DVC's own, but a file that did not change is parsed once."""

    def load(path: Any, fs: Any = None, **options: Any) -> Any:
        if options or not _is_here(fs):
            return slowly(path, fs, **options)
        return copy.deepcopy(_parsed(path, lambda: slowly(path, fs)))

    return load


def _picking(slowly: Callable[..., Any]) -> Callable[..., Any]:
    """As DVC's own, which holds each name against all that params.yaml says; this looks it up."""

    def read(fs: Any, path: Any, names: Any = None, flatten: bool = False, **options: Any) -> Any:
        if options or not (_is_here(fs) and names and flatten and all(map(NAME.fullmatch, names))):
            return slowly(fs, path, names, flatten, **options)
        whole = _parsed(path, lambda: slowly(fs, path))
        found = {}
        for name in names:
            value = whole
            for key in name.split("."):
                value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
            if value is not MISSING:
                found[name] = copy.deepcopy(value)
        return found

    return read


def _parsed(path: Any, parse: Callable[[], Any]) -> Any:
    """What ``parse`` gave when the file was last seen to change; nobody's to change."""
    facts = os.stat(path)
    version = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
    if PARSED.get(str(path), (None,))[0] != version:
        PARSED[str(path)] = (version, parse())
    return PARSED[str(path)][1]


def _is_here(fs: Any) -> bool:
    """Whether DVC reads files as they lie in the folder, and not as they were in another commit."""
    import dvc.fs

    return isinstance(fs, dvc.fs.LocalFileSystem)


def _finding(slowly: Callable[..., Any]) -> Callable[..., Any]:
    """As that of DVC's files in memory, which holds a name against all others before its own."""

    def info(self: Any, path: str, **options: Any) -> dict[str, Any]:
        own = self._strip_protocol(path)
        file = self.store.get(own)
        if file is None or own in self.pseudo_dirs:
            return slowly(self, path, **options)
        made = getattr(file, "created", None)
        return {"name": own, "size": file.size, "type": "file", "created": made}

    return info


def _copying(slowly: Callable[..., Any]) -> Callable[..., Any]:
    """As DVC's own, but a stage runs in a copy of this process, where that is safe."""

    def run(executable: Any, cmd: str, **options: Any) -> None:
        found = STAGE.fullmatch(cmd)
        if found is None or not _copies_well():
            slowly(executable, cmd, **options)
            return
        for name in (*PRELOADED, *(TORCH if found[1] in COMPUTING else ())):
            importlib.import_module(name)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _become(found[1], found[2].split(), options)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 0:
            from dvc.stage.exceptions import StageCmdFailedError

            raise StageCmdFailedError(cmd, code)

    return run


def _copies_well() -> bool:
    """Whether this process may be copied: a copy has no threads, which macOS's libraries need."""
    return sys.platform == "linux" and threading.active_count() == 1


def _become(module: str, arguments: list[str], options: dict[str, Any]) -> NoReturn:
    """Be the stage that ``python -m module arguments`` is."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(options["env"])
        os.chdir(options["cwd"])
        for name in [each for each in sys.modules if each.partition(".")[0] in PROJECT]:
            del sys.modules[name]
        sys.argv = ["-m", *arguments]  # as Python has it until it has found the module
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:  # while it was imported: later the stage says so itself
        print("stopped", file=sys.stderr)
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        # Whatever happens, this copy must not go on as the process that it is a copy of.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(main(sys.argv[1:]))
    serve()
