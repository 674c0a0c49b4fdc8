"""What the code looked like before Python read it, so that an edit meanwhile is not missed.

Importing takes seconds, and a fingerprint that is taken after it would be of the new code while the
old one runs. ``stages/__init__.py`` imports this module before anything else of the project; it
takes a few milliseconds and needs the standard library alone.
"""

import os
from collections.abc import Iterable
from pathlib import Path

CODE = ("pipeline", "stages")
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


BEGUN_IN = os.getcwd()
SEEN = look()
"""The code below `BEGUN_IN` as it was when this process began to import it."""
