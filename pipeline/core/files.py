"""Files that appear whole or not at all, and their fingerprints."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from pipeline.core.errors import NotFinite, PipelineError


class Unreadable(PipelineError, ValueError):
    """A file that does not hold what it should."""


class Outputs:
    """What `together` gives: temporary names, which become the real ones all at once."""

    def __init__(self) -> None:
        self.targets: list[Path] = []
        self._made: list[tuple[Path, Path]] = []  # temporary, target

    def file(self, path: Path) -> Path:
        """A name beside ``path`` that keeps the suffix, since writers choose a format by it."""
        self.targets.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
        self._made.append((temporary, path))
        return temporary

    def folder(self, path: Path) -> Path:
        """An empty folder beside ``path``."""
        self.targets.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        prefix = f".{path.stem}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(f".tmp{path.suffix}", prefix, path.parent))
        self._made.append((temporary, path))
        temporary.chmod(0o755)
        return temporary

    def commit(self) -> None:
        """Move everything to its place; if that fails half-way, what was there comes back."""
        replaced: list[tuple[Path, Path | None]] = []
        try:
            for temporary, path in self._made:
                old = None
                if os.path.lexists(path) and (path.is_dir() or temporary.is_dir()):
                    # A folder cannot be replaced in one step.
                    old = path.with_name(f"{temporary.name}.old")
                    os.replace(path, old)
                    replaced.append((path, old))
                    os.replace(temporary, path)
                else:
                    os.replace(temporary, path)
                    replaced.append((path, None))
        except BaseException:
            for path, old in reversed(replaced):
                if old is not None:
                    remove(path)
                    os.replace(old, path)
            raise
        for _, old in replaced:
            if old is not None:
                remove(old)

    def discard(self) -> None:
        """Remove what is still temporary."""
        for temporary, _ in self._made:
            with suppress(OSError):
                remove(temporary)


@contextmanager
def together() -> Iterator[Outputs]:
    """Write several files and folders that belong together: all of them, or none.

    Raises:
        PipelineError: if the disk is full, a folder is read-only, and the like.
    """
    outputs = Outputs()
    with writing(lambda: ", ".join(map(str, outputs.targets))):
        try:
            yield outputs
            outputs.commit()
        finally:
            outputs.discard()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; move it there if the block succeeds.

    Raises:
        PipelineError: as `together`.
    """
    with together() as outputs:
        yield outputs.file(path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``path``; move it there if the block succeeds.

    Raises:
        PipelineError: as `together`.
    """
    with together() as outputs:
        yield outputs.folder(path)


@contextmanager
def writing(what: Callable[[], str]) -> Iterator[None]:
    """Tell in one line why something cannot be written.

    Args:
        what: says what it is, when it is called.

    Raises:
        PipelineError: for an OSError.
    """
    try:
        yield
    except OSError as error:
        raise PipelineError(f"{what()}: cannot be written: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What an OSError or a library says about it, on one line and without a path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there; never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what processes left that were killed while they wrote ``path``.

    Whoever writes it does this; it is for those who only look at it.
    """
    name = re.compile(rf"\.{re.escape(path.stem)}\.(\d+)\.(?:\w+\.)?tmp{re.escape(path.suffix)}")
    for each in path.parent.iterdir():
        found = name.match(each.name)
        if found and not _runs(int(found[1])):
            if each.name.endswith(".old") and not path.exists():
                os.replace(each, path)  # killed between the two steps of replacing a folder
                continue
            with suppress(OSError):
                remove(each)


def _runs(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON, atomically; NaN and infinity are refused with a ValueError."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Sorted, indented JSON.

    Raises:
        ValueError: for NaN and infinity.
    """
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_text(path: Path, remedy: str = "") -> str:
    """Read UTF-8 text; ``remedy``, what to do if that fails, ends the messages.

    Raises:
        FileNotFoundError: if there is none.
        Unreadable: if it cannot be opened, or is no such text.
    """
    remedy = f"; {remedy}" if remedy else ""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"{path}: cannot be read: {reason(error)}{remedy}") from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: not UTF-8 text ({error.reason}){remedy}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        Unreadable: if it cannot be opened, is no JSON, or has NaN, infinity or a key twice.
    """
    text = read_text(path)
    try:
        return json.loads(
            text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise Unreadable(f"{path}: not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise Unreadable(f"{path}: not valid JSON ({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return found


def _finite(text: str) -> float:
    found = float(text)
    if not isfinite(found):
        raise ValueError(f"{text} is no finite number")
    return found


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
    """A result with its floats, also those in lists and blocks, rounded to significant digits.

    Raises:
        NotFinite: if a value is NaN or infinite, which no result may hold.
    """
    bad = [key for key, value in result.items() if not _is_finite(value)]
    if bad:
        raise NotFinite(f"results must be finite, but these are not: {', '.join(bad)}")
    return {key: _rounded(value, digits) for key, value in result.items()}


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or isfinite(value)


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
