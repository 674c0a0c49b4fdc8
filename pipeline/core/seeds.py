"""Randomness as a function of (seed, purpose, step), never as a state that is carried along.

A generator is derived where it is needed. Resuming, running in another order or in other
batches then needs no generator to be saved: the numbers are the same because their names are.
"""

import hashlib

import torch
from torch import Tensor


def derive(*name: int | str) -> int:
    """A 63-bit seed from a name such as ``(seed, "noise", step)``; other names, other seeds."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*name: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` for the given name (see `derive`)."""
    return torch.Generator(device=device).manual_seed(derive(*name))


def image_seeds(n: int, *name: int | str) -> Tensor:
    """One seed per image, int64 [n].

    They count up from a derived start: torch's CPU generator uses 32 bits of its seed, and
    consecutive ones cannot collide, where 10,000 random ones would in 1 % of all runs.
    """
    start = derive(*name) % 2**32
    return (torch.arange(n) + start) % 2**32


class ImageNoise:
    """Random numbers of n images, each image drawing from a generator of its own.

    What an image gets depends on its seed alone, never on its neighbours in the batch. The
    numbers are drawn on the CPU and moved, so they do not depend on the device either.
    """

    def __init__(self, seeds: Tensor, device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self._device = device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 [n, *shape]."""
        draws = [torch.randn(shape, generator=each) for each in self._generators]
        return torch.stack(draws).to(self._device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), float32 [n, *shape]."""
        draws = [torch.rand(shape, generator=each) for each in self._generators]
        return torch.stack(draws).to(self._device)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in 0..high-1, int64 [n, *shape]."""
        draws = [torch.randint(high, shape, generator=each) for each in self._generators]
        return torch.stack(draws).to(self._device)
