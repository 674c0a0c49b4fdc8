"""Blocks that two or more families share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position: fast where the channels are innermost."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Ema:
    """Exponential moving average of parameters, with a warm-up so that it forgets the start.

    The decay of update t is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.shadow = [each.detach().clone() for each in parameters]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Make the average the parameters."""
        for parameter, shadow in zip(self.parameters, self.shadow, strict=True):
            parameter.copy_(shadow)


class HostCount:
    """What a buffer of a module has counted, known without asking the device.

    The buffer is saved and restored with the module. Its value as a number would make the host wait
    for all that the device has to do yet, so it is read where weights are loaded alone.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        """Give ``module`` a buffer ``name``, int64 [], at 0."""
        module.register_buffer(name, torch.zeros((), dtype=torch.int64))
        module.register_load_state_dict_post_hook(self._read)
        self.value = 0
        self._name = name
        self._module = module

    def add(self, number: int) -> None:
        """Count on."""
        self.value += number
        self._module.get_buffer(self._name).add_(number)

    def _read(self, module: nn.Module, _: object) -> None:
        self.value = int(module.get_buffer(self._name))


def cosine(done: float) -> float:
    """Learning-rate factor that falls from 1 to 0 along half a cosine (arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def warm_cosine(warmup: float) -> Callable[[float], float]:
    """Linear rise from 0 over the first ``warmup`` of training, then `cosine`."""

    def factor(done: float) -> float:
        if done < warmup:
            return (done + 1e-3) / (warmup + 1e-3)
        return cosine((done - warmup) / (1 - warmup))

    return factor


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """float32 [B, classes] from int64 [B]; torch's own makes the host wait for their range."""
    return (labels[:, None] == torch.arange(classes, device=labels.device)).float()


def sinusoidal(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, float32 [n, width], of positions [n] (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=positions.device) / half)
    angles = positions.float()[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


SMALLEST_MAP = 4
"""Convolutional networks go down to maps whose shorter side is this to 7 positions."""
WIDEST = 8
"""Channels double with each halving, up to this many times those next to the images."""


def halvings(height: int, width: int) -> int:
    """How often images are halved down to the smallest maps, at least once.

    28 pixels twice (to 7), 32, 64 and 128 pixels 3, 4 and 5 times (to 4).
    """
    return max(1, (min(height, width) // SMALLEST_MAP).bit_length() - 1)


def halved(size: int, times: int) -> int:
    """Height or width after so many halvings that round up."""
    return -(-size // 2**times)


def doubled(channels: int, levels: int) -> list[int]:
    """Channels of so many levels, each half as large as the one before; see `WIDEST`."""
    return [channels * min(2**level, WIDEST) for level in range(levels)]


def great_circle(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """From one Gaussian noise vector to another, [B, steps, d] from [B, d] each.

    Along the great circle, whose points have the lengths that noise has, where a straight line
    would pass too near to 0 (White 2016, arXiv:1609.04468).
    """
    weight = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    first, last = start[:, None], end[:, None]
    cosine_of = torch.nn.functional.cosine_similarity(first, last, dim=2)[:, :, None]
    angle = torch.acos(cosine_of.clamp(-1 + 1e-6, 1 - 1e-6))
    near = torch.sin((1 - weight) * angle) / torch.sin(angle)
    return near * first + torch.sin(weight * angle) / torch.sin(angle) * last
