"""One model on several processes: which of them this one is, and which rows of a batch are its own.

As in torch, process r of n is rank r of a world of n. Each rank holds the whole model and computes
some rows of every batch, and the mathematics is that of one process with the whole batch: what is
drawn for a batch every rank draws for all of it, and keeps its `rows`; whatever is a mean over the
batch is averaged (`pipeline.core.collectives`). A process that is alone, which is the default,
starts no library of communication and computes what it would without any of this.

Ranks are started by `pipeline.core.launch`, or by ``torchrun``.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_rank, _size = 0, 1


class Lost(Exception):
    """Another rank has ended, or cannot be reached, so that this one cannot go on."""


def rank() -> int:
    """Which one this process is, from 0."""
    return _rank


def size() -> int:
    """How many processes compute the model together."""
    return _size


def first() -> bool:
    """Whether this is rank 0, which alone writes and shows progress."""
    return _rank == 0


def assigned(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Rank and size as torchrun and our own launcher write them; of a process alone 0 and 1."""
    try:
        place, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (place, world) if 0 <= place < world else (0, 1)


def on_this_machine() -> tuple[int, int]:
    """As `rank` and `size`, but of those on this machine: which GPU is whose, and how many."""
    return (
        int(os.environ.get("LOCAL_RANK", _rank)),
        int(os.environ.get("LOCAL_WORLD_SIZE", _size)),
    )


def take_place(place: int, world: int) -> None:
    """Be this rank of so many from now on."""
    global _rank, _size
    _rank, _size = place, world


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, this process computes whole batches, as if there were no other.

    For what is done once and costs little: all ranks then have the same of it without a word.
    """
    before = _rank, _size
    take_place(0, 1)
    try:
        yield
    finally:
        take_place(*before)


def rows(whole: "Tensor") -> "Tensor":
    """This rank's rows [B, ...] of a whole batch [n B, ...]; all of them if it is alone.

    Raises:
        ValueError: if the ranks cannot have the same number of rows.
    """
    if _size == 1:
        return whole
    each, rest = divmod(len(whole), _size)
    if rest:
        raise ValueError(f"{len(whole)} rows cannot be shared evenly by {_size} processes")
    return whole[_rank * each : (_rank + 1) * each]
