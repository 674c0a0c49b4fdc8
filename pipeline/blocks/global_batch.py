"""Layers that look at a whole batch, for models whose batches are shared by several processes.

Families have torch's own layers. Where there are several ranks, the trainer has those become these,
which give each rank's rows what one process with the whole batch would give them. torch's
SyncBatchNorm is for GPUs alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import collectives, ranks


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) by the statistics of all ranks.

    It can be differentiated twice, as a penalty on gradients needs it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if ranks.size() == 1 or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        # In float32 whatever the precision, as torch's own.
        values, over = x.float(), [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        variance, mean = torch.var_mean(values, dim=over, correction=0)
        # Ranks have as many values each: those within them, and those between them.
        means, variances = collectives.stacked(torch.stack([mean, variance])).unbind(dim=1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        self._remember(mean, variance, ranks.size() * values.numel() // len(mean))
        scale = torch.rsqrt(variance + self.eps)
        shift = torch.zeros_like(scale)
        if self.affine:
            scale, shift = scale * self.weight, self.bias
        return ((values - mean.view(shape)) * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Take the batch's statistics into those of `eval`, whose variance is the unbiased one."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Of [B, C] and [B, C, L]."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Of [B, C, H, W]."""


class Dropout(nn.Dropout):
    """Each rank draws what is left out of the whole batch, and keeps its rows."""

    def forward(self, x: Tensor) -> Tensor:
        if ranks.size() == 1 or not self.training:
            return super().forward(x)
        whole = torch.cat([torch.ones_like(x)] * ranks.size())
        return x * ranks.rows(F.dropout(whole, self.p))


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.Dropout: Dropout,
}
"""What each of torch's layers becomes."""
MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers whose result for an image depends on its batch, or on its place there."""


def share(model: nn.Module) -> None:
    """Have the layers of a model look at the batches of all ranks; parameters stay what they are.

    Raises:
        NotImplementedError: if it has one that needs to and cannot.
    """
    for name, module in model.named_modules():
        if type(module) in KINDS:
            module.__class__ = KINDS[type(module)]
        elif isinstance(module, MIXING) and type(module) not in KINDS.values():
            raise NotImplementedError(
                f"{name}: {type(module).__name__} looks at a whole batch, and blocks.global_batch "
                "has none for several processes"
            )
