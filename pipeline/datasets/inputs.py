"""The fingerprint of a person's own folder of images, which DVC does not look into.

Files are read where their size, times or place on the disk moved since the last look, and not
otherwise, so that it may be taken before every run.
"""

import hashlib
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core import files, params, paths, records, startup
from pipeline.core.errors import PipelineError
from pipeline.datasets import image_files, sources

SETTLED_SECONDS = 2.0
"""A file that was written this short a time ago may be again within one tick of its clock."""


LOOKING = threading.Lock()
"""Two that look at the same time would read everything twice."""


class Seen(records.Record):
    """A file as it was: its `startup.facts` and its SHA-256."""

    facts: list[int]
    sha256: str


class Memory(records.Record):
    """What the last look saw, by absolute path."""

    files: dict[str, Seen]


def current(data: params.Data, found: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """What there is in ``data.folder`` now, of what the download stage would read.

    Args:
        data: the section of params.yaml.
        found: these files, by name, where the caller knows them already.

    Returns:
        the number of ``files``, their ``bytes`` and one ``sha256`` over names and contents; {}
        for a data set that is not the user's own.

    Raises:
        PipelineError: if there is no such folder, or a file cannot be read.
    """
    if found is None:
        found = sources.load(data.name).configured(data).inputs()
    if not found:
        return {}
    with LOOKING:
        return _look(found)


def _look(found: Mapping[str, Path]) -> dict[str, Any]:
    before, seen, hashes, size = _memory(), {}, {}, 0
    now = time.time_ns()
    for name, file in found.items():
        key, facts = str(file.absolute()), startup.facts(file)
        known = before.get(key)
        if facts is None:
            raise PipelineError(f"{image_files.shown(file)}: it is gone; run this again")
        same = known is not None and tuple(known.facts) == facts
        hashes[name] = known.sha256 if same else _sha256(file)
        _, length, _, changed = facts
        size += length
        if now - changed > SETTLED_SECONDS * 1e9:
            seen[key] = Seen(facts=list(facts), sha256=hashes[name])
    if seen != before:
        with suppress(PipelineError):  # all that is lost is time
            files.write_json(paths.INPUTS_SEEN, Memory(files=seen).model_dump())
    return {"files": len(found), "bytes": size, "sha256": digest(hashes)}


def digest(hashes: Mapping[str, str]) -> str:
    """Hex SHA-256 of the hashes of files by their relative names, whatever their order."""
    ordered = sorted(hashes.items(), key=lambda item: item[0].split("/"))
    lines = [f"{name} {sha256}\n" for name, sha256 in ordered]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _memory() -> dict[str, Seen]:
    """What the last look saw; nothing if it cannot be told."""
    try:
        return records.read(paths.INPUTS_SEEN, Memory, "").files
    except (FileNotFoundError, PipelineError):
        return {}


def _sha256(file: Path) -> str:
    try:
        return files.sha256(file)
    except OSError as error:
        raise PipelineError(
            f"{image_files.shown(file)}: cannot be read: {files.reason(error)}"
        ) from None
