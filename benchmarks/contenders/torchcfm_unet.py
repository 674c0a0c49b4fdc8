"""torchcfm's example on MNIST: flow matching with optimal transport (arXiv:2302.00482)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
from torchcfm.models.unet import UNetModel
from torchdiffeq import odeint

from benchmarks.contenders import EVALUATIONS, loops

BATCH, RATE, WIDTH = 16, 2e-3, 32


class Training:
    """See `benchmarks.contenders.Training`."""

    network_evaluations = EVALUATIONS

    def __init__(self, images: np.ndarray, seed: int, name: str, count: int) -> None:
        self.images = images
        self.net = UNetModel(dim=images.shape[1:], num_channels=WIDTH, num_res_blocks=1)
        self.parameters = loops.count(self.net)

    def train(self, stepped: Callable[[float], None]) -> None:
        """See `benchmarks.contenders.Training`."""
        matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
        optimiser = torch.optim.Adam(self.net.parameters(), lr=RATE)
        self.net.train()
        for images in loops.batches(self.images, BATCH):
            optimiser.zero_grad()
            noise = torch.randn_like(images)
            t, x, flow = matcher.sample_location_and_conditional_flow(noise, images)
            loss = torch.mean((self.net(t, x) - flow) ** 2)
            loss.backward()
            optimiser.step()
            stepped(BATCH)

    def draw(self, n: int) -> np.ndarray:
        """See `benchmarks.contenders.Training`."""
        times = torch.linspace(0, 1, EVALUATIONS + 1)

        def part(size: int) -> Tensor:
            start = torch.randn(size, *self.images.shape[1:])
            return odeint(self.net, start, times, method="euler")[-1]

        return loops.in_parts(n, part, self.net)
