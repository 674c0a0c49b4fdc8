"""Deterministic cost: floating-point operations, counted from the shapes of what is executed.

Matrix products, convolutions and recurrent layers count, two for each multiplication with its
addition, forward and backward, and an optimiser's products of matrices too; what is done element by
element (activations, norms, Adam) does not, as is usual. The numbers are the same on every machine,
and no measure of time: small products are slower than large ones. For times there is a `Clock`,
which skips the same steps.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

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

    @property
    def total(self) -> int:
        """Operations so far."""
        return self.flops

    def add(self, flops: int) -> None:
        """Count what was left out."""
        self.flops += flops

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


class Clock:
    """Seconds since it was made, with those of steps that `clocked` left out; no `Counter`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """``now`` tells the seconds, of the clock on the wall or of this process alone."""
        self._now = now
        self._began, self._left_out = self._read(), 0.0

    @property
    def total(self) -> float:
        """Seconds."""
        return self._read() - self._began + self._left_out

    def add(self, seconds: float) -> None:
        """Count what was left out."""
        self._left_out += seconds

    def _read(self) -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return self._now()


_meter: Counter | Clock | None = None
"""What counts in `shortened` and `clocked`, while it does."""
M = TypeVar("M", Counter, Clock)


@contextmanager
def _counting(meter: M) -> Iterator[M]:
    global _meter
    _meter = meter
    try:
        yield meter
    finally:
        _meter = None


@contextmanager
def shortened() -> Iterator[Counter]:
    """A `Counter` with which of steps that are `alike` one is executed and counts for all.

    Its number is that of all steps; what they compute is of no use.
    """
    with Counter() as counter, _counting(counter):
        yield counter


@contextmanager
def clocked(now: Callable[[], float] = time.perf_counter) -> Iterator[Clock]:
    """As `shortened`, but a `Clock`."""
    with _counting(Clock(now)) as clock:
        yield clock


def alike(steps: int) -> Iterator[int]:
    """``range(steps)`` for a loop whose steps all cost the same, whatever is in the tensors."""
    if _meter is None:
        yield from range(steps)
        return
    before = _meter.total
    yield 0
    _meter.add((steps - 1) * (_meter.total - before))


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
