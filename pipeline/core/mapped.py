"""Arrays on disk whose rows become tensors when a batch wants them."""

import copy
import mmap
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

RESIDENT = 0.5
"""Share of a GPU's free memory up to which an array is copied there as a whole."""
AT_A_TIME = 64_000_000
"""Bytes that are copied at a time."""
LARGE = 256_000_000
"""Bytes from which on an array on disk is not expected to be in memory already."""


class Mapped:
    """Rows of an array [N, ...], given as tensors: ``mapped[index]`` as of a tensor.

    Of a memory map no more is read than is asked for, so that a data set may be larger than the
    memory. For a GPU, rows are copied from pinned memory, and nobody waits for the copy.
    """

    def __init__(self, array: np.ndarray, device: torch.device | None = None) -> None:
        """``device`` is where rows are wanted; None is the processor's memory."""
        self._array = np.asarray(array)  # a plain view, whose indexing costs less than memmap's
        self._map: mmap.mmap | None = None
        if isinstance(array, np.memmap) and array.nbytes >= LARGE and array.flags.c_contiguous:
            self._map = array._mmap
            first = np.frombuffer(self._map, np.uint8, count=1).__array_interface__["data"][0]
            self._offset = array.__array_interface__["data"][0] - first
            with suppress(OSError, ValueError):
                self._map.madvise(mmap.MADV_RANDOM)  # what lies beside a row is not wanted
        self.shape = torch.Size(array.shape)
        self.device = device or torch.device("cpu")

    def __len__(self) -> int:
        return len(self._array)

    def to(self, device: torch.device) -> "Tensor | Mapped":
        """The same for another device: a tensor there if all of it fits well, else this, for it."""
        if device.type != "cuda" or self._array.nbytes > RESIDENT * _free(device):
            return self._for(device)
        step = max(1, AT_A_TIME * len(self) // max(1, self._array.nbytes))
        whole = None
        for start in range(0, len(self), step):
            part = torch.from_numpy(np.array(self._array[start : start + step]))
            if whole is None:
                whole = torch.empty(self.shape, dtype=part.dtype, device=device)
            whole[start : start + step] = part.to(device)
        return whole

    def _for(self, device: torch.device) -> "Mapped":
        other = copy.copy(self)
        other.device = device
        return other

    def ahead(self, index: Tensor) -> None:
        """Ask for the rows at ``index`` to be read from the disk, and do not wait for them."""
        if self._map is None:
            return
        size = self._array[0].nbytes
        for row in index.tolist():
            start = self._offset + row * size
            begin = start - start % mmap.PAGESIZE
            with suppress(OSError, ValueError):
                self._map.madvise(mmap.MADV_WILLNEED, begin, start + size - begin)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Rows at ``index``, int64 [B] in the processor's memory; [B, ...] on the device."""
        rows = torch.from_numpy(self._array[index.numpy()])
        return sent(rows, self.device)


def sent(rows: Tensor, device: torch.device) -> Tensor:
    """What lies in the processor's memory, on its way to the device; nobody waits for it."""
    if device.type == "cpu":
        return rows
    return rows.pin_memory().to(device, non_blocking=True)


def _free(device: torch.device) -> int:
    """Bytes of a GPU's memory that nobody has taken."""
    return torch.cuda.mem_get_info(device)[0]
