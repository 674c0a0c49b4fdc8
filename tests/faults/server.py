"""A process that has imported the project and copies itself for each call.

A stage as a process of its own takes seconds to import what it needs. Here each call is a real
process too, with a folder, limits and output of its own, and is killed for real; only the imports
are shared (`pipeline.orchestration.dvc_process` runs stages in the same way).

It is started as ``python server.py`` by `harness.Server`, and takes one call in JSON a line:

- ``folder``: where;
- ``command``: what, such as ``["stages.train", "vae"]`` or ``["pipeline", "check"]``;
- ``leave_out``: a function ("module:name") that is not called, since what it makes is there;
- ``stdout``, ``stderr``: files that take its output;
- ``environment``: what to set besides;
- ``seconds``: after these it is killed as one that hangs (the answer is "hung");
- ``kill_after``: seconds after which it is killed, at whatever it does then;
- ``kill_at``: it kills itself right before its n-th change of the disk (see `changes`);
- ``torn``: it kills itself in its n-th write of tensors or an array, of which a share is written;
- ``fail_at``: a number and a file: its n-th change of the disk that needs space fails, once, as on
  a full disk, and the file is made;
- ``record``: a file that takes a line for each change of the disk;
- ``largest``: bytes that a file may have (RLIMIT_FSIZE);
- ``interrupt``: the signal to send by ``kill_after``, SIGKILL if it is not given.
"""

import errno
import importlib
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback

STAGES = (
    *("inputs", "download", "preprocess", "domains", "judge", "reference"),
    *("train", "sample", "evaluate", "compare", "report", "track"),
)
LIBRARIES = ("torch._dynamo", "safetensors.torch", "sklearn.mixture", "mlflow", "torchvision")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.link",
    "os.symlink",
}
NEED_SPACE = ("open", "os.mkdir", "os.rename")


def changes(tell) -> None:
    """Call ``tell(what)`` before this process changes anything below its folder.

    Python's audit events name every change that Python itself makes. What libraries write in
    other languages is not among them, but the files are moved to their places by Python.
    """
    here = os.path.realpath(os.getcwd())
    busy = False

    def hook(event: str, arguments: tuple) -> None:
        nonlocal busy
        if busy or not (event in CHANGES or event == "open"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        busy = True
        try:
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(here + os.sep):
                tell(f"{event} {os.path.relpath(path, here)}")
        finally:
            busy = False

    sys.addaudithook(hook)


def kill_at(number: int) -> None:
    """Kill this process right before its change of the disk with this number, from 1."""
    seen = 0

    def tell(what: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    changes(tell)


def fail_at(number: int, mark: str) -> None:
    """Have the change of the disk with this number fail, of those that need space, from 1."""
    seen = 0

    def tell(what: str) -> None:
        nonlocal seen
        seen += what.startswith(NEED_SPACE)
        if seen == number and what.startswith(NEED_SPACE):
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what.split()[-1])

    changes(tell)


def torn(number: int, share: float) -> None:
    """Kill this process within its write of tensors or an array with this number, from 1."""
    import numpy

    seen = 0

    def tearing(write):
        def torn_write(*arguments, **options):
            nonlocal seen
            seen += 1
            write(*arguments, **options)
            if seen == number:
                path = arguments[0]
                os.truncate(path, int(share * os.path.getsize(path)))
                os.kill(os.getpid(), signal.SIGKILL)

        return torn_write

    pathlib.Path.write_bytes = tearing(pathlib.Path.write_bytes)
    numpy.save = tearing(numpy.save)


def become(call: dict) -> None:
    """Be the process that was asked for; never returns."""
    code = 1
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(call[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
            os.close(file)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(call["folder"])
        os.environ.update(call.get("environment", {}))
        tempfile.tempdir = None  # it was looked up with the server's environment
        module, *arguments = call["command"]
        sys.argv = [module, *arguments]
        if call.get("largest") is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (call["largest"], resource.RLIM_INFINITY))
        if call.get("record"):
            log = open(call["record"], "w", buffering=1)  # noqa: SIM115 - until the process ends
            changes(lambda what: log.write(f"{what}\n"))
        if call.get("leave_out"):
            where, name = call["leave_out"].split(":")
            setattr(importlib.import_module(where), name, lambda *_, **__: None)
        if call.get("torn"):
            torn(*call["torn"])
        if call.get("fail_at"):
            fail_at(*call["fail_at"])
        if call.get("kill_at"):
            kill_at(call["kill_at"])
        if module == "pipeline":
            import pipeline.__main__ as commands

            code = commands.main(arguments)
        else:
            from pipeline.core import stage

            stage.run(sys.modules[module].main)
            code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait(child: int, call: dict) -> int | str:
    """Its exit code, negative for a signal; "hung" if it had to be killed."""
    began = time.monotonic()
    told = False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        gone = time.monotonic() - began
        if gone > call.get("seconds", 60):
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung"
        if call.get("kill_after") is not None and gone > call["kill_after"] and not told:
            told = True
            os.kill(child, call.get("interrupt", signal.SIGKILL))
        time.sleep(0.002)


def main() -> None:
    for name in (*LIBRARIES, *(f"stages.{each}" for each in STAGES), "pipeline.__main__"):
        importlib.import_module(name)
    from pipeline import families

    for name in families.names():
        families.load(name)
    threads = [each.name for each in threading.enumerate()]
    if len(threads) > 1:
        raise SystemExit(f"copies would miss threads: {threads}")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    answers.write("ready\n")
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if child == 0:
            become(call)
        answers.write(json.dumps(wait(child, call)) + "\n")


if __name__ == "__main__":
    main()
