"""Autoencoders.

- ae: Hinton & Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural Networks",
  Science 313 (504-507), here convolutional; it samples from a density fitted to the codes once
  training is over, as in Ghosh et al. 2020, "From Variational to Deterministic Autoencoders",
  arXiv:1903.12436.

An autoencoder has no prior: what it samples is as much the density's doing as the decoder's. The
density is a mixture of Gaussians with full covariances (one component is a single Gaussian).
"""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.blocks.convolutional import Decoder, Encoder
from pipeline.blocks.mixture import CodeMixture
from pipeline.blocks.nets import warm_cosine
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    TrainingImages,
    TrainingParams,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Section
from pipeline.core.seeds import ImageNoise

FITTED_IMAGES = 10_000
"""Training images drawn for the density; those drawn twice count once. A small data set is so
covered whole, a large one by as many codes as a few dozen Gaussians need."""
INTERPOLATIONS = 10


class AeNetwork(Section):
    """Size of the encoder, the decoder and the density of the codes."""

    latent: int = Field(32, ge=1, le=4096)
    channels: int = Field(32, ge=4, le=4096)
    components: int = Field(20, ge=1, le=10_000)


class AeTraining(TrainingParams):
    """Optimiser: AdamW with a warm-up, a cosine schedule and averaged weights; then the density.

    ``floor`` is added to the density's variances, as a fraction of the codes' mean variance.
    """

    weight_decay: float = Field(0.0, ge=0, le=1)
    ema: Decay = 0.99
    floor: float = Field(0.01, gt=0, le=10)


class Ae(Family):
    """Convolutional encoder and decoder, and a mixture of Gaussians over their codes."""

    Network: ClassVar = AeNetwork
    Training: ClassVar = AeTraining

    reconstruction_kind = "code"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        # Straight from feature maps to codes: one more dense layer on either side costs more time
        # than the convolutions and learns half as fast.
        size = {"channels": network.channels, "hidden": None}
        self.encoder = Encoder(spec, inputs=spec.channels, outputs=network.latent, **size)
        self.decoder = Decoder(spec, inputs=network.latent, outputs=spec.channels, **size)
        self.density = CodeMixture(1, network.components, network.latent)

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: each Gaussian of the density needs an image."""
        reason = super().unsupported(params, device, images)
        if reason or images is None or params.network is None or params.training is None:
            return reason
        # `finish` sees an epoch, whose tail is dropped.
        seen = min(FITTED_IMAGES, images.count - images.count % params.training.batch)
        if params.network.components > seen:
            return (
                f"network.components = {params.network.components}: so many Gaussians are fitted "
                f"to the codes of {seen:,} training images; lower it"
            )
        return None

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        return {
            "model": Group(
                list(self.parameters()),
                lambda p: torch.optim.AdamW(
                    p, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
                ),
                schedule=warm_cosine(0.02),
                ema=training.ema,
            )
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the squared error, a mean over pixels on the scale where white is 1."""
        images = to_signed(batch.images)
        loss = F.mse_loss(self.decoder(self.encoder(images)).float(), images) / 4
        update("model", loss)
        return {"model/loss": loss.detach()}

    @torch.no_grad()
    def finish(self, batches: Iterator[Batch], rng: torch.Generator) -> None:
        """Fit the density to codes by expectation maximisation from one k-means start.

        Raises:
            PipelineError: if there are fewer images than components.
        """
        drawn, count = [], 0
        for batch in batches:
            drawn.append(batch.images.cpu().numpy())
            count += len(batch.images)
            if count >= FITTED_IMAGES:
                break
        images = torch.from_numpy(np.unique(np.concatenate(drawn)[:FITTED_IMAGES], axis=0))
        codes = torch.cat([self._encode(each.to(self.device)) for each in images.split(250)])
        self.density.fit([codes.cpu().numpy()], self.params.training.floor, self.params.name)

    def facts(self) -> dict[str, str]:
        """The density that samples are drawn from."""
        return {"latent_density": str(self.density)}

    def _encode(self, images: Tensor) -> Tensor:
        """Codes, float32 [B, latent], of uint8 images."""
        return self.encoder(to_signed(images)).float()

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Decode draws from the density; see `core.contract.Samples`.

        Raises:
            PipelineError: if no density was fitted.
        """
        if not self.density.fitted:
            raise PipelineError(
                f"{self.params.name}: an autoencoder samples from a density of its codes, and none "
                "was fitted: training did not end"
            )
        codes = self.density.draw(ImageNoise(seeds, self.device))
        return to_uint8(self.decoder(codes))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Decode the codes; see `core.contract.Reconstructs`."""
        return to_uint8(self.decoder(self._encode(images)))

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """Straight lines between the codes of pairs of images, which stand at their ends."""
        start, end = batch.images, batch.images.roll(-1, dims=0)
        along = torch.linspace(0, 1, INTERPOLATIONS, device=self.device)[None, :, None]
        codes = torch.lerp(self._encode(start)[:, None], self._encode(end)[:, None], along)
        between = to_uint8(self.decoder(codes.flatten(0, 1))).unflatten(0, codes.shape[:2])
        return {"interpolations": torch.cat([start[:, None], between, end[:, None]], dim=1)}


FAMILY = Ae
