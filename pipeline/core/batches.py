"""Batches of one size for whatever is drawn or scored, shared by the ranks of a model.

The size of a batch decides the last bits of what a network makes of it, the number of ranks does
not: each computes whole batches, the same as one process would.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pipeline.core import collectives, ranks


def in_batches(n: int, size: int) -> Iterator[tuple[Tensor, int]]:
    """Indices in batches of exactly ``size``, with how many of each are real.

    The tail is padded with repeats of the last index, so that every call to a network has the
    same shape: other shapes may choose other kernels, and with them other roundings.
    """
    for start in range(0, n, size):
        index = torch.arange(start, start + size).clamp(max=n - 1)
        yield index, min(size, n - start)


def computed(
    n: int,
    size: int,
    compute: Callable[[Tensor], dict[str, Tensor]],
    done: Callable[[int], None] = lambda images: None,
) -> dict[str, Tensor]:
    """What is computed of n images in batches: tensors [n, ...] in the processor's memory.

    Every rank has all of it in the end, and has computed its share (`pipeline.core.ranks`).

    Args:
        n: how many images.
        size: of a batch.
        compute: is given indices, int64 [size], and returns tensors [size, ...] by name.
        done: is told how many images more there are.
    """
    every = list(in_batches(n, size))
    found: dict[str, list[Tensor]] = {}
    for first in range(0, len(every), ranks.size()):
        # Where no batch is left, the last one again: others are busy meanwhile as well.
        index, _ = every[min(first + ranks.rank(), len(every) - 1)]
        for name, values in compute(index).items():
            found.setdefault(name, []).append(collectives.gathered(values).cpu())
        done(sum(real for _, real in every[first : first + ranks.size()]))
    # Padding is at the end alone.
    return {name: torch.cat(parts)[:n] for name, parts in found.items()}
