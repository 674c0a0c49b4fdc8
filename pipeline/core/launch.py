"""Start a stage once for each rank of its model, and see all of them to their end.

This process computes nothing. It gives each rank what ``torchrun`` would give it, and a file by
which they meet (`pipeline.core.collectives`). The first rank that fails ends all, and one line says
which it was; torch's own launcher says it in some thirty.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline.core.startup import LAUNCHED, STOPPED

LOST = 113
"""The exit code of a rank that ended since another one had."""
EVERY = 0.05
"""Seconds between looks at the ranks."""
PATIENCE = 3.0
"""Seconds in which ranks end by themselves when one has, or when they are told to."""


@dataclass
class _Rank:
    """A process, and the file that takes its standard error; rank 0 shows its own."""

    process: subprocess.Popen
    errors: Path | None

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def told(self) -> list[str]:
        """The lines by which it said why it failed."""
        if self.errors is None:
            return []
        lines = self.errors.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.startswith("error: ")] or lines


def run(command: Sequence[str], size: int, name: str) -> int:
    """Run a command on so many ranks at once, and return the exit code.

    Args:
        command: of each rank, which finds its place in its environment.
        size: how many ranks.
        name: what people call it.

    Raises:
        KeyboardInterrupt: if this process was stopped, when all ranks have ended.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        every: list[_Rank] = []
        try:
            for place in range(size):
                every.append(_start(command, place, size, Path(folder)))
            _wait(every)
        finally:
            _end(every)
        return _result(every, name)


def launched() -> bool:
    """Whether this process is a rank that `run` started, so that another one speaks for it."""
    return LAUNCHED in os.environ


def watch() -> None:
    """In a rank: end when the process that started it has ended, however that was."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> NoReturn:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(STOPPED)  # it waits for another rank, within a library


def _start(command: Sequence[str], place: int, size: int, folder: Path) -> _Rank:
    errors = folder / f"{place}.txt" if place else None
    told = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    environment = {**os.environ, **{k: str(v) for k, v in told.items()}}
    environment[LAUNCHED] = str(folder / "met")
    stream = errors.open("wb") if errors else None
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # its end is what `watch` waits for
            stdout=subprocess.DEVNULL if place else None,
            stderr=stream,
            start_new_session=True,  # Ctrl-C is for this process, which tells the ranks
        )
    finally:
        if stream:
            stream.close()
    return _Rank(process, errors)


def _wait(every: list[_Rank]) -> None:
    """Until all have ended, or one has failed and the others had time to notice."""
    since = None
    while any(each.code is None for each in every):
        if since is None and any(each.code for each in every):
            since = time.monotonic()
        if since is not None and time.monotonic() - since > PATIENCE:
            return
        time.sleep(EVERY)


def _end(every: list[_Rank]) -> None:
    """See to it that none is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [each.process for each in every if each.code is None]
        for process in left:
            process.send_signal(number)
        end = time.monotonic() + PATIENCE
        for process in left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))


def _result(every: list[_Rank], name: str) -> int:
    """The exit code of all; if a rank failed without a word, a line says which and how."""
    failed = {place: each for place, each in enumerate(every) if each.code}
    if not failed:
        return 0
    # Those that were ended here, or lost another one, follow from what went wrong.
    causes = {k: v for k, v in failed.items() if v.code not in (LOST, STOPPED, -signal.SIGTERM)}
    if 0 in causes and causes[0].code > 0:
        return causes[0].code  # it has said why
    place, rank = next(iter((causes or failed).items()))
    lines = rank.told() if rank.code > 0 and causes else []
    if not lines:
        how = f"ended with code {rank.code}"
        if rank.code < 0:
            how = f"was killed by {signal.Signals(-rank.code).name}"
        lines = [
            f"error: {name}: rank {place} of {len(every)} {how}, which ended the others; run it "
            "again: what keeps checkpoints goes on from the last one"
        ]
    print("\n".join(lines), file=sys.stderr)
    return rank.code if rank.code > 0 else 1
