"""Files that appear whole or not at all, and their fingerprints."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; move it there if the block succeeds.

    The temporary name keeps the suffix, since writers choose a format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``path``; move it there if the block succeeds.

    What stood at ``path`` is removed only after the block has succeeded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON, atomically; NaN and infinity are refused with a ValueError."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path, suffix: str = "") -> str:
    """Hex SHA-256 of a file, or of a folder: its relative names and its files' hashes, sorted.

    Of a folder only the files whose names end in ``suffix`` count.
    """
    if path.is_dir():
        lines = [
            f"{file.relative_to(path).as_posix()} {sha256(file)}\n"
            for file in sorted(path.rglob(f"*{suffix}"))
            if file.is_file()
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """Hex SHA-256 of a JSON-like value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def rounded(result: dict[str, Any], digits: int = 8) -> dict[str, Any]:
    """A flat result with its floats rounded to ``digits`` significant digits.

    Raises:
        ValueError: if a value is NaN or infinite, which no result may hold.
    """
    bad = [key for key, value in result.items() if isinstance(value, float) and not isfinite(value)]
    if bad:
        raise ValueError(f"results must be finite, but these are not: {', '.join(bad)}")
    return {
        key: float(f"{value:.{digits}g}") if isinstance(value, float) else value
        for key, value in result.items()
    }
