"""denoising-diffusion-pytorch: its U-Net and GaussianDiffusion, in the loop of its README.

Its own Trainer reads image files in as many processes as there are cores. What that does at each
step is done here: Adam, clipping, and the average of the weights, which it samples from.
"""

from collections.abc import Callable

import numpy as np
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from ema_pytorch import EMA

from benchmarks.contenders import EVALUATIONS, loops

BATCH, RATE, WIDTH = 16, 2e-3, 16


class Training:
    """See `benchmarks.contenders.Training`."""

    network_evaluations = EVALUATIONS

    def __init__(self, images: np.ndarray, seed: int, name: str, count: int) -> None:
        channels, side = images.shape[1:3]
        self.images = images
        net = Unet(dim=WIDTH, dim_mults=(1, 2, 4), channels=channels)
        self.diffusion = GaussianDiffusion(
            net, image_size=side, timesteps=1000, sampling_timesteps=EVALUATIONS
        )
        self.average = EMA(self.diffusion, beta=0.995, update_every=10)
        self.parameters = loops.count(self.diffusion)

    def train(self, stepped: Callable[[float], None]) -> None:
        """See `benchmarks.contenders.Training`."""
        parameters = list(self.diffusion.parameters())
        optimiser = torch.optim.Adam(parameters, lr=RATE, betas=(0.9, 0.99))
        self.diffusion.train()
        for images in loops.batches(self.images, BATCH):
            loss = self.diffusion((images + 1) / 2)  # it takes 0..1
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            self.average.update()
            stepped(BATCH)

    def draw(self, n: int) -> np.ndarray:
        """See `benchmarks.contenders.Training`."""
        model = self.average.ema_model
        return loops.in_parts(n, lambda part: 2 * model.sample(batch_size=part) - 1, model)
