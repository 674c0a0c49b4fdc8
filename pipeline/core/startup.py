"""The first thing that a stage does, before the seconds that its imports take.

It looks at the code before Python reads it: a fingerprint that is taken after the imports would be
of the new code while the old one runs. And it sees to it that Ctrl-C during them is one line and no
traceback. ``stages/__init__.py`` imports this module before anything else of the project; it takes
a few milliseconds and needs the standard library alone.
"""

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CODE = ("pipeline", "stages")
STOPPING = (signal.SIGINT, signal.SIGTERM)
STOPPED = 130
"""The exit code of what was stopped."""
LAUNCHED = "PIPELINE_RANKS_MEET_AT"
"""A variable of the environment of processes that `pipeline.core.launch` started, which speaks for
them: the file by which they find each other."""
Facts = tuple[int, int, int, int]


def facts(path: str | Path) -> Facts | None:
    """What moves when a file is written, replaced or touched; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def look(folders: Iterable[str] = CODE) -> dict[str, Facts | None]:
    """The facts of all Python files below some folders, by their relative path."""
    return {
        path: facts(path)
        for folder in folders
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith(".py")
        for path in [os.path.join(where, name)]
    }


def moved(paths: Iterable[Path]) -> list[str]:
    """Python files at or below ``paths`` that are not what they were at the start, sorted.

    None in a process that has gone to another folder since, as only tests do.
    """
    if os.getcwd() != BEGUN_IN:
        return []
    before, now = SEEN, look()
    wanted = [each for each in paths if each.parts and each.parts[0] in CODE]
    return sorted(
        name
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name) and any(map(Path(name).is_relative_to, wanted))
    )


def stop_at_once(*_: Any) -> None:
    """End this process in one line; for the time in which it holds nothing that must be let go."""
    if LAUNCHED not in os.environ:
        os.write(2, b"stopped\n")
    os._exit(STOPPED)


if sys.argv[0] == "-m":  # Python is about to run a stage, and no test imports one
    for number in STOPPING:
        signal.signal(number, stop_at_once)

BEGUN_IN = os.getcwd()
SEEN = look()
"""The code below `BEGUN_IN` as it was when this process began to import it."""
