"""The VAE of pythae (Chadebec et al. 2022, arXiv:2206.08309), by its own trainer."""

import tempfile
from collections.abc import Callable

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.samplers import NormalSampler
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from benchmarks.contenders import loops

BATCH, RATE, LATENT = 64, 2e-3, 16
EPOCHS = 10**9


class _Stepped(TrainingCallback):
    """Tells of each step; the trainer does not say how many images that saw, but for the mean."""

    def __init__(self) -> None:
        self.tell: Callable[[], None] = lambda: None

    def on_train_step_end(self, training_config: BaseTrainerConfig, **kwargs: object) -> None:
        self.tell()


class Training:
    """See `benchmarks.contenders.Training`."""

    network_evaluations = 1

    def __init__(self, images: np.ndarray, seed: int, name: str, count: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        settings = BaseTrainerConfig(
            output_dir=self.folder.name,
            per_device_train_batch_size=BATCH,
            num_epochs=EPOCHS,
            learning_rate=RATE,
            seed=seed,
            no_cuda=True,
        )
        self.model = VAE(VAEConfig(input_dim=images.shape[1:], latent_dim=LATENT))
        self.parameters = loops.count(self.model)
        data = BaseDataset(torch.from_numpy(images / 255), torch.zeros(len(images)))
        self.callback = _Stepped()
        self.trainer = BaseTrainer(
            self.model, data, training_config=settings, callbacks=[self.callback]
        )

    def train(self, stepped: Callable[[float], None]) -> None:
        """See `benchmarks.contenders.Training`."""
        mean = len(self.trainer.train_dataset) / len(self.trainer.train_loader)
        self.callback.tell = lambda: stepped(mean)
        self.trainer.train()

    def draw(self, n: int) -> np.ndarray:
        """See `benchmarks.contenders.Training`."""
        sampler = NormalSampler(self.model)
        return loops.in_parts(n, lambda part: 2 * sampler.sample(part) - 1, self.model)
