"""Randomness as a function of (seed, purpose, step), never as a state that is carried along.

A generator is derived where it is needed. Resuming, running in another order or in other
batches then needs no generator to be saved: the numbers are the same because their names are.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core import ranks

if TYPE_CHECKING:
    # Imported where it is used: what only names its randomness does not wait for it.
    import torch
    from torch import Tensor


def derive(*name: int | str) -> int:
    """A 63-bit seed from a name such as ``(seed, "noise", step)``; other names, other seeds."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*name: int | str, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A generator on ``device`` for the given name (see `derive`)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(*name))


def seed_modules(seed: int, device: "torch.device") -> None:
    """Name the state of torch's global generators, from which modules such as dropout draw.

    As ``torch.manual_seed``, but of the processor and this device alone: where no GPU was used,
    that one notes a stack of calls each time, which takes as long as a layer of a small network.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def image_seeds(n: int, *name: int | str) -> "Tensor":
    """One seed per image, int64 [n].

    They count up from a derived start: torch's CPU generator uses 32 bits of its seed, and
    consecutive ones cannot collide, where 10,000 random ones would in 1 % of all runs.
    """
    import torch

    start = derive(*name) % 2**32
    return (torch.arange(n) + start) % 2**32


def subset(total: int, n: int, *name: int | str) -> np.ndarray:
    """Which n of ``total`` items to take, int64 [n], ascending and without replacement.

    All of them if n is ``total``; otherwise a choice that is a function of the name (see
    `derive`). Raw Philox output is sorted rather than ``Generator.choice`` called: NumPy
    promises that the former never changes and reserves the right to change the latter.

    Raises:
        ValueError: if n is not in 0..total.
    """
    if not 0 <= n <= total:
        raise ValueError(f"cannot take {n} of {total} items")
    keys = np.random.Philox(derive(*name)).random_raw(total)
    return np.sort(np.argsort(keys, kind="stable")[:n])


class ImageNoise:
    """Random numbers of n images, each image drawing from a generator of its own.

    What an image gets depends on its seed alone, never on its neighbours in the batch. The
    numbers are drawn on the CPU and moved, so they do not depend on the device either.
    """

    def __init__(self, seeds: "Tensor", device: "torch.device | str" = "cpu") -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._device = device

    def normal(self, *shape: int) -> "Tensor":
        """Standard normal float32 [n, *shape]."""
        import torch

        draws = [torch.randn(shape, generator=each) for each in self._generators]
        return torch.stack(draws).to(self._device)

    def uniform(self, *shape: int) -> "Tensor":
        """Uniform on [0, 1), float32 [n, *shape]."""
        import torch

        draws = [torch.rand(shape, generator=each) for each in self._generators]
        return torch.stack(draws).to(self._device)

    def integers(self, high: int, *shape: int) -> "Tensor":
        """Uniform integers in 0..high-1, int64 [n, *shape]."""
        import torch

        draws = [torch.randint(high, shape, generator=each) for each in self._generators]
        return torch.stack(draws).to(self._device)


class BatchNoise:
    """Random numbers for the images of a training batch, all from one generator.

    Where several processes share the batch, each draws for all of it and keeps its own rows
    (`pipeline.core.ranks`): what an image gets does not depend on how many they are.
    """

    def __init__(self, rng: "torch.Generator") -> None:
        """``rng`` belongs to the training step; the numbers are on its device."""
        self._rng = rng

    def normal(self, n: int, *shape: int) -> "Tensor":
        """Standard normal float32 [n, *shape] for the n images that this process has."""
        import torch

        whole = (n * ranks.size(), *shape)
        return ranks.rows(torch.randn(whole, generator=self._rng, device=self._rng.device))

    def uniform(self, n: int, *shape: int) -> "Tensor":
        """Uniform on [0, 1), float32 [n, *shape]; otherwise as `normal`."""
        import torch

        whole = (n * ranks.size(), *shape)
        return ranks.rows(torch.rand(whole, generator=self._rng, device=self._rng.device))
