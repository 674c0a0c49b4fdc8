"""DCGAN (Radford et al. 2016, arXiv:1511.06434) as PyTorch's own example has it.

Its networks end at 64x64; for 28x28 they begin at 7x7 and have two convolutions less.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contenders import loops

BATCH, RATE, BETA1, LATENT, WIDTH = 64, 1e-3, 0.5, 100, 32


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def generator(channels: int, side: int) -> nn.Module:
    """Noise [B, LATENT, 1, 1] to images in -1..1, [B, channels, side, side]."""
    return nn.Sequential(
        nn.ConvTranspose2d(LATENT, 2 * WIDTH, side // 4, bias=False),
        nn.BatchNorm2d(2 * WIDTH),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(WIDTH, channels, 4, stride=2, padding=1, bias=False),
        nn.Tanh(),
    )


def discriminator(channels: int, side: int) -> nn.Module:
    """Images in -1..1 to the probabilities that they are real, [B]."""
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, 4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * WIDTH),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * WIDTH, 1, side // 4, bias=False),
        nn.Flatten(0),
        nn.Sigmoid(),
    )


class Training:
    """See `benchmarks.contenders.Training`."""

    network_evaluations = 1

    def __init__(self, images: np.ndarray, seed: int, name: str, count: int) -> None:
        channels, side = images.shape[1:3]
        self.images = images
        self.generator = generator(channels, side).apply(_start)
        self.discriminator = discriminator(channels, side).apply(_start)
        self.parameters = loops.count(self.generator, self.discriminator)

    def train(self, stepped: Callable[[float], None]) -> None:
        """See `benchmarks.contenders.Training`."""
        first, second = (
            torch.optim.Adam(net.parameters(), lr=RATE, betas=(BETA1, 0.999))
            for net in (self.discriminator, self.generator)
        )
        criterion = nn.BCELoss()
        ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)
        for real in loops.batches(self.images, BATCH):
            self.discriminator.zero_grad()
            criterion(self.discriminator(real), ones).backward()
            fake = self.generator(self._noise(BATCH))
            criterion(self.discriminator(fake.detach()), zeros).backward()
            first.step()
            self.generator.zero_grad()
            criterion(self.discriminator(fake), ones).backward()
            second.step()
            stepped(BATCH)

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, LATENT, 1, 1)

    def draw(self, n: int) -> np.ndarray:
        """As the example, with the statistics of the batch that is drawn."""
        return loops.in_parts(n, lambda part: self.generator(self._noise(part)))
