"""diffusers: UNet2DModel and DDPMScheduler in a training loop, and its DDIM pipeline."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor

from benchmarks.contenders import EVALUATIONS, loops

BATCH, RATE, WIDTHS = 16, 1e-3, (16, 32, 32)


class Training:
    """See `benchmarks.contenders.Training`."""

    network_evaluations = EVALUATIONS

    def __init__(self, images: np.ndarray, seed: int, name: str, count: int) -> None:
        channels, side = images.shape[1:3]
        self.images = images
        self.net = UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=WIDTHS,
            norm_num_groups=min(32, *WIDTHS),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.parameters = loops.count(self.net)

    def train(self, stepped: Callable[[float], None]) -> None:
        """See `benchmarks.contenders.Training`."""
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=RATE)
        self.net.train()
        for images in loops.batches(self.images, BATCH):
            noise = torch.randn_like(images)
            times = torch.randint(self.scheduler.config.num_train_timesteps, (len(images),))
            noisy = self.scheduler.add_noise(images, noise, times)
            loss = F.mse_loss(self.net(noisy, times, return_dict=False)[0], noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            stepped(BATCH)

    def draw(self, n: int) -> np.ndarray:
        """See `benchmarks.contenders.Training`."""
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        pipeline = DDIMPipeline(self.net, scheduler)
        pipeline.set_progress_bar_config(disable=True)

        def part(size: int) -> Tensor:
            found = pipeline(size, num_inference_steps=EVALUATIONS, output_type="np").images
            return 2 * torch.from_numpy(found).permute(0, 3, 1, 2) - 1

        return loops.in_parts(n, part, self.net)
