"""What the peers' loops share: batches from a plain loader, and samples in parts."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.contenders import DRAWN_AT_ONCE
from pipeline.blocks.adversarial import evaluating
from pipeline.core.contract import to_signed, to_uint8


def batches(images: np.ndarray, size: int) -> Iterator[Tensor]:
    """Shuffled batches of images in -1..1, float32 [size, C, H, W], for ever."""
    whole = TensorDataset(to_signed(torch.from_numpy(np.array(images))))
    loader = DataLoader(whole, batch_size=size, shuffle=True, drop_last=True)
    while True:
        for (batch,) in loader:
            yield batch


@torch.no_grad()
def in_parts(n: int, draw: Callable[[int], Tensor], net: nn.Module | None = None) -> np.ndarray:
    """uint8 [n, C, H, W] of what ``draw`` makes, in -1..1, with ``net`` in eval mode meanwhile."""
    with nullcontext() if net is None else evaluating(net):
        parts = [draw(min(DRAWN_AT_ONCE, n - first)) for first in range(0, n, DRAWN_AT_ONCE)]
    return to_uint8(torch.cat(parts)).numpy()


def count(*nets: nn.Module) -> int:
    """Trained parameters."""
    return sum(each.numel() for net in nets for each in net.parameters() if each.requires_grad)
