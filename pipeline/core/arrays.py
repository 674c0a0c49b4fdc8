"""Arrays on disk: .npy files that are checked before anything is made of them."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import field_validator

from pipeline.core import files, records

INDEX = "arrays.json"
"""What a folder says of its arrays."""
AT_A_TIME = 16_000_000
"""Bytes of rows that are copied."""


class Entry(records.Record):
    """What `INDEX` says of one array."""

    dtype: str
    shape: list[int]
    sha256: str

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        try:
            np.dtype(dtype)
        except TypeError:
            raise ValueError("should be one of NumPy's types") from None
        return dtype


class Index(records.Record):
    """The content of `INDEX`."""

    arrays: dict[str, Entry]


class _Plain:
    """A file that NumPy does not recognise as one.

    To those it recognises it writes past Python, and does not notice when the last bytes find no
    room: the file is cut, and nobody is told.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.write = stream.write


class Chosen:
    """Some rows of an array on disk, in an order of their own, read when they are asked for."""

    def __init__(self, array: np.ndarray, index: np.ndarray) -> None:
        self._array, self._index = array, index
        self.dtype, self.shape = array.dtype, (len(index), *array.shape[1:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, place: Any) -> np.ndarray:
        return self._array[self._index[place]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def rows(self, index: np.ndarray) -> "Chosen":
        """Some of them."""
        return Chosen(self._array, self._index[index])


def chosen(array: np.ndarray | Chosen, index: np.ndarray) -> np.ndarray | Chosen:
    """The rows at ``index``, int64 [N]; of an array on disk none is read yet."""
    if isinstance(array, Chosen):
        return array.rows(index)
    return Chosen(array, index) if isinstance(array, np.memmap) else array[index]


def write(path: Path, array: np.ndarray | Chosen) -> None:
    """Write an .npy file, the bytes of ``numpy.save``; of `Chosen` rows, some at a time.

    Raises:
        OSError: if not all of it could be written.
    """
    if isinstance(array, Chosen):
        step = max(1, AT_A_TIME // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
        with Rows(path, array.dtype, array.shape[1:], len(array)) as made:
            for start in range(0, len(array), step):
                made.append(array[start : start + step])
        return
    with path.open("wb") as stream:
        np.lib.format.write_array(_Plain(stream), np.asanyarray(array), allow_pickle=False)


class Rows:
    """Writes an .npy file row by row, so that no more than some rows are in memory."""

    def __init__(self, path: Path, dtype: Any, shape: Sequence[int], most: int) -> None:
        """Begin one of at most ``most`` rows of this shape.

        Raises:
            OSError: if it cannot be written.
        """
        self.count, self._dtype, self._shape = 0, np.dtype(dtype), tuple(shape)
        self._stream = path.open("wb")
        self._begin(most)
        self._begins = self._stream.tell()

    def _begin(self, rows: int) -> None:
        head = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, head)

    def append(self, rows: np.ndarray) -> None:
        """Write some more rows, [N, ...]."""
        if rows.shape[1:] != self._shape or rows.dtype != self._dtype:
            raise ValueError(f"{rows.dtype} {rows.shape}, not {self._dtype} {self._shape}")
        self._stream.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def close(self) -> None:
        """Say in the header, which has room for it, how many rows there are."""
        with self._stream:
            self._stream.seek(0)
            self._begin(self.count)
            if self._stream.tell() != self._begins:
                raise ValueError("the header of an .npy file has grown")

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.close()
        else:
            self._stream.close()


def save(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write each array as ``<name>.npy``, and `INDEX` with its type, shape and SHA-256."""
    entries = {}
    for name, array in arrays.items():
        file = folder / f"{name}.npy"
        write(file, array)
        entries[name] = {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "sha256": files.sha256(file),
        }
    files.write_json(folder / INDEX, {"arrays": entries})


def names(folder: Path, remedy: str) -> list[str]:
    """The arrays that `save` wrote there; none if there is no such folder.

    Raises:
        files.Unreadable: if the index is damaged.
    """
    try:
        return list(records.read(folder / INDEX, Index, remedy).arrays)
    except FileNotFoundError:
        return []


def load(
    folder: Path,
    name: str,
    remedy: str,
    shape: Sequence[int | None] | None = None,
    dtype: Any = None,
) -> np.ndarray:
    """One of the arrays that `save` wrote, checked against the index; a read-only memory map.

    Args:
        folder: where.
        name: of the array.
        remedy: what to do if it is not there or not intact.
        shape: what it must be besides; None matches any length.
        dtype: likewise of its values.

    Raises:
        files.Unreadable: if it is missing, or not what was saved.
    """
    try:
        entry = records.read(folder / INDEX, Index, remedy).arrays[name]
    except (FileNotFoundError, KeyError):
        raise files.Unreadable(f"{folder / name}.npy: missing; {remedy}") from None
    found = read(
        folder / f"{name}.npy",
        dtype=np.dtype(entry.dtype),
        shape=entry.shape,
        sha256=entry.sha256,
        remedy=remedy,
    )
    return _fitting(found, folder / f"{name}.npy", dtype, shape, remedy)


def read(
    path: Path,
    *,
    dtype: Any = None,
    shape: Sequence[int | None] | None = None,
    sha256: str | None = None,
    remedy: str,
) -> np.ndarray:
    """A read-only memory map of an .npy file, so that a false header costs no memory.

    Args:
        path: the file.
        dtype: what its values must be.
        shape: what it must be; None matches any length.
        sha256: of the whole file.
        remedy: what to do if it is anything else; it ends each message.

    Raises:
        files.Unreadable: if the file is missing or holds anything else.
    """
    try:
        with path.open("rb") as stream:
            if sha256 is not None:
                found_hash = hashlib.file_digest(stream, "sha256").hexdigest()
                stream.seek(0)
            begin = stream.read(6)
    except FileNotFoundError:
        raise files.Unreadable(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise files.Unreadable(f"{path}: cannot be read: {files.reason(error)}; {remedy}") from None
    if sha256 is not None and found_hash != sha256:
        raise files.Unreadable(
            f"{path}: damaged (sha256 {found_hash[:12]}..., expected {sha256[:12]}...); {remedy}"
        )
    if begin != b"\x93NUMPY":
        kind = "an .npz archive" if begin.startswith(b"PK") else "no .npy file"
        raise files.Unreadable(f"{path}: {kind if begin else 'empty'}; {remedy}")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever a false header makes NumPy raise
        raise files.Unreadable(
            f"{path}: not a readable .npy file ({files.reason(error)}); {remedy}"
        ) from None
    return _fitting(found, path, dtype, shape, remedy)


def _fitting(
    found: np.ndarray, path: Path, dtype: Any, shape: Sequence[int | None] | None, remedy: str
) -> np.ndarray:
    if dtype is not None and found.dtype != np.dtype(dtype):
        raise files.Unreadable(
            f"{path}: {found.dtype} values, but they should be {np.dtype(dtype)}; {remedy}"
        )
    if shape is None:
        return found
    fits = found.ndim == len(shape) and all(
        wanted is None or wanted == there for wanted, there in zip(shape, found.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("N" if each is None else str(each) for each in shape)
        raise files.Unreadable(
            f"{path}: shape {list(found.shape)}, but it should be [{wanted}]; {remedy}"
        )
    return found
