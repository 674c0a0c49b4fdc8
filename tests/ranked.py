"""Functions of the tests on several ranks at once, each in a process of its own.

A process that has imported torch copies itself for each of them (Python's fork server).
"""

import importlib
import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch

from pipeline.core import collectives, ranks, startup

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "torch._dynamo"])
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
    started = {}
    for size in sizes:
        for rank in range(size):
            path = folder / f"{size}-{rank}.pt"
            arguments = (function, rank, size, str(folder / f"{size}-met"), str(path), device)
            started[path] = PROCESSES.Process(target=_be, args=arguments)
            started[path].start()
    for process in started.values():
        process.join(SECONDS)
    codes = {path.name: process.exitcode for path, process in started.items()}
    for process in started.values():
        process.kill()
    assert not any(codes.values()), codes
    return [[torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in sizes]


def _be(function: str, rank: int, size: int, met: str, path: str, device: str) -> None:
    torch.set_num_threads(1)
    os.environ[startup.LAUNCHED] = met
    ranks.take_place(rank, size)
    where = torch.device(device, rank) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(where)
    collectives.join(where)
    module, _, name = function.partition(":")
    torch.save(getattr(importlib.import_module(module), name)(where), path)
    collectives.leave()
