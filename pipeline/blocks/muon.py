"""Muon: Adam but for matrices, whose updates are made orthogonal.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(https://kellerjordan.github.io/posts/muon/), with steps as large as Adam's by Liu et al. 2025,
"Muon is Scalable for LLM Training", arXiv:2502.16982, so that learning rates of Adam can stay.

`torch.optim.Muon` is for matrices alone, one after the other and in bfloat16, which few processors
have. Here matrices of one shape are iterated together, in float32, and on their Gram matrices: all
that is multiplied is a polynomial of X Xᵀ, so that X itself, the longer side, comes in twice only.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.contract import TrainingParams

MOMENTUM = 0.9
"""Less than the .95 of long trainings."""
BETAS = (0.9, 0.98)
"""Of Adam, for what is no matrix: trainings are so short that squares of 1,000 steps are old."""
SMALLEST = 32
"""Rows and columns of a matrix at least: with fewer, Adam does as well and costs nothing."""
COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
"""Of the polynomials a s + b s^3 + c s^5 that take singular values towards 1: the first three of
Amsel et al. 2025, "The Polar Express", arXiv:2505.16932, each the best after those before it."""
SIZE = 0.2
"""Root mean square of an update at learning rate 1, which is about Adam's (Liu et al., section
2.2)."""


class MatrixTraining(TrainingParams):
    """Which ``optimiser`` there is: ``adam``, or ``muon`` for matrices, with Adam for all else."""

    optimiser: Literal["adam", "muon"] = "adam"


def optimiser(
    module: nn.Module, training: Any, learning_rate: float | None = None, weight_decay: float = 0.0
) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """What makes the optimiser of parameters of ``module`` (`core.contract.Group`).

    Args:
        module: whose matrices are known from its layers.
        training: a block with ``optimiser`` and ``learning_rate``.
        learning_rate: another one.
        weight_decay: decoupled, as AdamW's; 0 makes it Adam.
    """
    rate = training.learning_rate if learning_rate is None else learning_rate
    if training.optimiser == "muon":
        return lambda p: Muon(p, matrices(module), rate, weight_decay)
    if weight_decay:
        return lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=weight_decay, fused=True)
    return lambda p: torch.optim.Adam(p, lr=rate, fused=True)


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of dense layers, convolutions and recurrent layers that are large matrices.

    A convolution's has a row for each channel that comes out, and a transposed one's for each that
    goes in. Tables of embeddings are none.
    """
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.LSTM):
            whole = getattr(layer, "groups", 1) == 1
            found += [p for p in layer.parameters(recurse=False) if whole and p.ndim > 1]
    return [p for p in found if min(len(p), p[0].numel()) >= SMALLEST]


class Muon(torch.optim.AdamW):
    """Momentum whose updates of matrices are made orthogonal; AdamW for all other parameters."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        """``matrices`` tells which of the parameters are such; others in it are ignored."""
        these = {id(each) for each in matrices}
        split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for each in parameters:
            split[id(each) in these].append(each)
        super().__init__(
            [{"params": split[True]}, {"params": split[False]}],
            lr=lr,
            betas=BETAS,
            weight_decay=weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update, of all parameters that have a gradient."""
        whole = self.param_groups
        self._turn(whole[0])
        self.param_groups = whole[1:]
        try:
            super().step()
        finally:
            self.param_groups = whole

    def _turn(self, group: dict[str, Any]) -> None:
        """Update the matrices, those of one shape together."""
        alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for each in group["params"]:
            if each.grad is not None:
                alike.setdefault(tuple(sorted((len(each), each[0].numel()))), []).append(each)
        for (_, long), those in alike.items():
            updates = orthogonal(torch.stack([self._wide(each) for each in those]))
            scale = group["lr"] * SIZE * long**0.5
            for each, update in zip(those, updates, strict=True):
                turned = update if len(each) <= each[0].numel() else update.T
                each.mul_(1 - group["lr"] * group["weight_decay"])
                each.sub_(turned.reshape(each.shape), alpha=scale)

    def _wide(self, each: nn.Parameter) -> Tensor:
        """What is to be made orthogonal, as a matrix with no more rows than columns.

        Nesterov's momentum: the average of gradients, and the newest once more.
        """
        state = self.state[each]
        if not state:
            # AdamW asks for the first of these when it is loaded.
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(each)
        state["step"] += 1
        average = state["momentum"].lerp_(each.grad, 1 - MOMENTUM)
        matrix = each.grad.lerp(average, MOMENTUM).flatten(1)
        return matrix if len(matrix) <= matrix.shape[1] else matrix.T


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [k, m, n], m <= n, with their singular values taken towards 1, and nothing else.

    Newton and Schulz's iteration: odd polynomials of X / |X|, one after the other, each of which is
    one in X Xᵀ times X. What was a thousandth of the Frobenius norm |X| or more comes out between
    .13 and 1.87, which is near enough: each further polynomial costs time and did not help.
    """
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-20)
    gram = matrices @ matrices.mT
    product: Tensor | None = None
    for i, (a, b, c) in enumerate(COEFFICIENTS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if i < len(COEFFICIENTS) - 1:
            gram = factor @ gram @ factor
    return product @ matrices
