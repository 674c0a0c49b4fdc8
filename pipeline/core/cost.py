"""Deterministic cost: floating-point operations, counted from the shapes of what is executed.

Matrix products, convolutions and recurrent layers count, two for each multiplication with its
addition, forward and backward; what is done element by element (activations, norms, optimisers)
does not, as is usual. The numbers are the same on every machine, and no measure of time: small
products are slower than large ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
_WHOLE: set[Any] = set()
"""Operations that are made of no others: asking each time is what takes time."""


class Counter(TorchDispatchMode):
    """A context manager; ``flops`` is what was executed inside.

    It takes PyTorch's formulas. PyTorch's own counter also tells modules apart, for which it hooks
    into the backward pass, and fails where gradients are differentiated again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = FORMULAS.get(func.overloadpacket)
        if formula is None and func not in _WHOLE:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            _WHOLE.add(func)
        found = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=found)
        return found


_shortened: Counter | None = None
"""What counts in `shortened`, while it does."""


@contextmanager
def shortened() -> Iterator[Counter]:
    """A `Counter` with which of steps that are `alike` one is executed and counts for all.

    Its number is that of all steps; what they compute is of no use.
    """
    global _shortened
    with Counter() as counter:
        _shortened = counter
        try:
            yield counter
        finally:
            _shortened = None


def alike(steps: int) -> Iterator[int]:
    """``range(steps)`` for a loop whose steps all cost the same, whatever is in the tensors."""
    if _shortened is None:
        yield from range(steps)
        return
    before = _shortened.flops
    yield 0
    _shortened.flops += (steps - 1) * (_shortened.flops - before)


def _cpu_recurrent(
    inputs: Tensor, weight_in: Tensor, weight_state: Tensor, *_: Any, **__: Any
) -> int:
    """Of one layer: inputs [T, B, in] and its two matrices."""
    steps = inputs.shape[0] * inputs.shape[1]
    return 2 * steps * (weight_in.numel() + weight_state.numel())


def _gpu_recurrent(inputs: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    """Of all layers: inputs [T, B, in], and matrices and biases."""
    steps = inputs.shape[0] * inputs.shape[1]
    return 2 * steps * sum(each.numel() for each in weights if each.dim() == 2)


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten.mkldnn_rnn_layer: _cpu_recurrent,
    aten.mkldnn_rnn_layer_backward: lambda *args, **rest: 2 * _cpu_recurrent(*args),
    aten._cudnn_rnn: _gpu_recurrent,
    aten._cudnn_rnn_backward: lambda *args, **rest: 2 * _gpu_recurrent(*args),
}
