"""Functions of the tests on several ranks at once, each in a process of its own.

As a program it imports what they need and copies itself for each rank.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from pipeline.core import collectives, ranks, startup

PRELOADED = ("torch._dynamo", "sklearn.mixture")
SECONDS = 300


def run(function: str, sizes: list[int], folder: Path, device: str = "cpu") -> list[list[Any]]:
    """What a function returns on each rank of so many, for each of these numbers.

    Args:
        function: "module:name" of the tests; it is given its device, and returns what
            `torch.save` takes.
        sizes: how many ranks; each number is tried at the same time.
        folder: for what they return.
        device: ``cpu``, or ``cuda`` for a GPU of its own for each.
    """
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, __file__, json.dumps([function, sizes, str(folder), device])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])},
        timeout=SECONDS,
        check=True,
    )
    return [[torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in sizes]


def main(function: str, sizes: list[int], folder: str, device: str) -> int:
    """Be all ranks; the exit code is 0 if all of them came to their end."""
    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    called = getattr(importlib.import_module(module), name)
    for each in PRELOADED:
        importlib.import_module(each)
    children = []
    for size in sizes:
        for rank in range(size):
            children.append(os.fork())
            if children[-1] == 0:
                _be(called, rank, size, Path(folder), device)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


def _be(called: Any, rank: int, size: int, folder: Path, device: str) -> None:
    code = 1
    try:
        os.environ[startup.LAUNCHED] = str(folder / f"{size}-met")
        ranks.take_place(rank, size)
        where = torch.device(device)
        if device == "cuda":
            where = torch.device(device, rank)
            torch.cuda.set_device(where)
        collectives.join(where)
        torch.save(called(where), folder / f"{size}-{rank}.pt")
        collectives.leave()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(*json.loads(sys.argv[1])))
