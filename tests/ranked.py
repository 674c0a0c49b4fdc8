"""Functions that run on several ranks at once, each in a process of its own.

As a program it is one of these processes; `run` starts them and hands back what each has found.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.core import collectives, ranks, startup

SECONDS = 300


class Ranks:
    """``size`` processes that call a function and are on their way until they are asked."""

    def __init__(self, function: str, size: int, folder: Path, device: str = "cpu") -> None:
        """``function`` is "module:name" of the tests, and returns what `torch.save` takes."""
        self.folder = folder / f"{function.partition(':')[2]}-{size}"
        self.folder.mkdir()
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, function, str(self.folder / f"{place}.pt"), device],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
                    "RANK": str(place),
                    "WORLD_SIZE": str(size),
                    startup.LAUNCHED: str(self.folder / "met"),
                },
            )
            for place in range(size)
        ]

    def found(self) -> list[Any]:
        """What each rank returned."""
        try:
            codes = [each.wait(SECONDS) for each in self.processes]
        finally:
            for each in self.processes:
                each.kill()
        assert not any(codes), codes
        return [torch.load(self.folder / f"{place}.pt") for place in range(len(self.processes))]


def run(function: str, sizes: list[int], folder: Path) -> list[list[Any]]:
    """What a function returns on each of so many ranks, for each of these numbers at once."""
    started = [Ranks(function, size, folder) for size in sizes]
    return [each.found() for each in started]


def main(function: str, path: str, device: str) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    ranks.take_place(*ranks.assigned())
    where = torch.device(device, ranks.rank()) if device == "cuda" else torch.device(device)
    collectives.join(where)
    module, _, name = function.partition(":")
    torch.save(getattr(importlib.import_module(module), name)(where), path)
    collectives.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
