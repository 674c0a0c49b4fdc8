"""A process that has imported libraries, but nothing of the project, and copies itself for calls.

Each call, ``python -m module arguments`` in a folder, is a process with the code, environment and
output of its own; what it is spared is to import torch and DVC, which takes longer than most do
(`pipeline.orchestration.dvc_process` runs stages in the same way). As a program it takes one call
in JSON a line and answers with its exit code.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NoReturn

from pipeline.orchestration import dvc_process

LIBRARIES = (*dvc_process.PRELOADED, *dvc_process.TORCH, "dvc.cli", "pandas", "scipy.special")
SECONDS = 900
"""The longest that a call may take."""
SERVERS: dict[frozenset[tuple[str, str]], subprocess.Popen] = {}
"""One for each environment, since libraries look at it while they are imported."""


def _server(env: dict[str, str]) -> subprocess.Popen:
    same = {name: env[name] for name in env if name not in ("PYTEST_CURRENT_TEST", "PYTHONPATH")}
    key = frozenset(same.items())
    if key not in SERVERS:
        SERVERS[key] = subprocess.Popen(
            [sys.executable, __file__],
            cwd=tempfile.gettempdir(),
            env={**same, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
    return SERVERS[key]


def close() -> None:
    """End what waits for calls; where a process of tests dies, that ends by itself."""
    for server in SERVERS.values():
        server.stdin.close()
        server.wait()
    SERVERS.clear()


def run(
    command: tuple[str, ...], cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run([sys.executable, "-m", *command], ...)`` that captures the output."""
    server = _server(env)
    with tempfile.TemporaryDirectory() as folder:
        output = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        call = {"command": command, "cwd": str(cwd), "env": env, "output": output}
        server.stdin.write(json.dumps(call) + "\n")
        code = int(server.stdout.readline())
        told = [Path(each).read_text(errors="replace") for each in output]
    return subprocess.CompletedProcess([sys.executable, "-m", *command], code, *told)


def _become(call: dict) -> NoReturn:
    for number, file in enumerate([os.devnull, *call["output"]]):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(file, flags), number)
    signal.alarm(SECONDS)
    sys.path[0] = call["cwd"]
    sys.path.remove(os.environ["PYTHONPATH"])
    module, *arguments = call["command"]
    dvc_process._become(module, arguments, call)


def main() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "copies would miss threads"
    calls, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    for line in calls:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)


if __name__ == "__main__":
    main()
