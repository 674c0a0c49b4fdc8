"""What the ranks of one model (`pipeline.core.ranks`) tell each other; one alone says nothing.

Over gloo on processors, over NCCL on GPUs. All ranks must call these in the same order, which they
do since they run the same program on batches of the same size.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.core import ranks
from pipeline.core.startup import LAUNCHED

PATIENCE = timedelta(hours=1)
"""The longest wait for a rank that is busy; of one that has ended, gloo tells at once, and whoever
started the ranks."""


def join(device: torch.device) -> None:
    """Meet the other ranks, if there are any.

    Raises:
        ranks.Lost: if one of them does not come.
    """
    if ranks.size() == 1 or dist.is_initialized():
        return
    where: dict[str, Any] = {"init_method": "env://"}
    if LAUNCHED in os.environ:
        # Through a file and not a port, which another program might take just before.
        where = {"init_method": f"file://{os.environ[LAUNCHED]}"}
        where |= {"rank": ranks.rank(), "world_size": ranks.size()}
        _stay_on_this_machine()
    if device.type == "cuda":
        where["device_id"] = device
    with _telling():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, **where)


def leave() -> None:
    """Take leave of the other ranks, which may go on."""
    if dist.is_initialized():
        dist.destroy_process_group()


def stacked(own: Tensor) -> Tensor:
    """What every rank has in place of this [...], in their order, [n, ...].

    It can be differentiated, also twice; its gradient is that of the sum of all ranks' losses.
    """
    return own[None] if ranks.size() == 1 else _Stack.apply(own)


def gathered(own: Tensor) -> Tensor:
    """The whole batch [n B, ...] that rows [B, ...] of each rank make; see `ranks.rows`."""
    return own if ranks.size() == 1 else stacked(own).flatten(0, 1)


def mean(own: Tensor) -> Tensor:
    """The mean over ranks: where each has a mean over its rows, that over the batch."""
    return own if ranks.size() == 1 else stacked(own).mean(dim=0)


def means(scalars: dict[str, Tensor]) -> dict[str, Tensor]:
    """The `mean` of each of some scalars, in one exchange and without gradients."""
    if ranks.size() == 1 or not scalars:
        return scalars
    found = mean(torch.stack([each.detach().float() for each in scalars.values()]))
    return dict(zip(scalars, found.unbind(), strict=True))


def average(gradients: Sequence[Tensor]) -> None:
    """Put their means over ranks in the place of gradients, in one exchange."""
    if ranks.size() == 1 or not gradients:
        return
    flat = torch.cat([each.flatten() for each in gradients])
    with _telling():
        dist.all_reduce(flat)
    flat /= ranks.size()
    for each, found in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        each.copy_(found.view(each.shape))


def told(number: int) -> int:
    """A whole number that rank 0 knows."""
    return number if ranks.size() == 1 else int(stacked(torch.tensor(number))[0])


class _Stack(torch.autograd.Function):
    """`stacked`; each rank's part of the gradient is the sum of what all ranks say of it."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        sent = own.contiguous()
        if dist.get_backend() == "nccl":
            sent = sent.to(torch.device("cuda", torch.cuda.current_device()))
        found = [torch.empty_like(sent) for _ in range(ranks.size())]
        with _telling():
            dist.all_gather(found, sent)
        return torch.stack(found).to(own.device)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Stack.apply(gradient)[:, ranks.rank()].sum(dim=0)


@contextmanager
def _telling() -> Iterator[None]:
    """Turn what torch says where another rank is gone into `ranks.Lost`."""
    try:
        yield
    except RuntimeError as error:
        raise ranks.Lost(" ".join(str(error).split())) from error


def _stay_on_this_machine() -> None:
    """Have gloo talk through the loopback interface alone, unless somebody has chosen another."""
    known = [name for _, name in socket.if_nameindex()]
    loopback = next((name for name in ("lo", "lo0") if name in known), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
