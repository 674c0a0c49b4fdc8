"""Vector-quantised autoencoders.

- vqvae: van den Oord et al. 2017, "Neural Discrete Representation Learning", arXiv:1711.00937, with
  codes that start anew where hardly anything is near to them, as in Dhariwal et al. 2020,
  "Jukebox", arXiv:2005.00341.

An image becomes a map of codes, each of which stands for a vector, and is decoded from these
vectors. Encoder, codebook and decoder are trained first, then a prior p(c) over their codes, both
in one training (``training.autoencoder``).

The decoder is a mixture of discretised logistics over the 256 levels (`blocks.distributions`), as
that of the VAEs, so log p(c) + log p(x|c) is the log-probability of the image as it is stored
together with its codes. It is below log p(x), since other codes can give the same image: that is
the ELBO of a posterior that is sure of one code. The vectors are running means, as in the paper's
appendix A.1. One departure: the prior is a Transformer (`blocks.code_prior`) and no PixelCNN.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.blocks import distributions, muon, nets, transformer
from pipeline.blocks.code_prior import CodePrior
from pipeline.blocks.convolutional import MapDecoder, MapEncoder
from pipeline.blocks.muon import MatrixTraining
from pipeline.blocks.quantisation import Codebook
from pipeline.core import paths, precision, ranks
from pipeline.core.contract import (
    Batch,
    Family,
    Group,
    Likelihood,
    TrainingImages,
    Update,
    to_signed,
    to_uint8,
)
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.params import Decay, ModelParams, Rate, Section
from pipeline.core.seeds import ImageNoise

WARM_UP = 0.05
"""Of either part of training, the share in which its learning rate rises."""
COMPLETIONS = 4
"""Pictures of how the codes of an upper half go on."""


class VqVaeNetwork(Section):
    """Size of the autoencoder, of its codebook and of the prior.

    The map of codes is the image halved ``halvings`` times: at 2, 7x7 codes of 28x28 pixels. A code
    stands for a vector of ``code_width`` numbers. ``width``, ``blocks`` and ``attention_heads`` are
    the prior's, which is given labels if ``conditional``.
    """

    codes: int = Field(128, ge=2, le=65_536)
    code_width: int = Field(16, ge=1, le=4096)
    halvings: int = Field(2, ge=1, le=10)
    channels: int = Field(32, ge=4, le=4096)
    residual: int = Field(2, ge=0, le=64)
    mixtures: int = Field(4, ge=1, le=256)
    width: int = Field(128, ge=4, le=65_536)
    blocks: int = Field(2, ge=1, le=256)
    attention_heads: int = Field(4, ge=1, le=1024)
    conditional: bool = False


class VqVaeTraining(MatrixTraining):
    """An optimiser for the autoencoder, then one with averaged weights for the prior.

    Each has a warm-up and a cosine schedule of its own. ``autoencoder`` counts the images that the
    autoencoder sees, before the prior starts, and is a share of them that ``train.budget`` does not
    change. ``commitment`` is the paper's beta; ``decay`` its gamma, of the codebook's running
    means; a code starts anew if fewer than ``restart`` times the average take it.
    """

    counts: ClassVar = ("autoencoder",)

    autoencoder: int = Field(16_000, ge=1, le=10**9)
    prior_learning_rate: Rate = 2e-3
    commitment: float = Field(0.25, gt=0, le=1e6)
    decay: Decay = 0.97
    restart: float = Field(0.1, ge=0, le=1)
    clip: float = Field(1.0, gt=0, le=1e6)
    ema: Decay = 0.99


class VqVaeSampling(Section):
    """What is drawn from p(x|c): its mean, or a sample with its pixel noise."""

    pixels: Literal["mean", "sample"] = "mean"


class VqVae(Family):
    """A convolutional autoencoder with a codebook in its middle, and a prior over the codes."""

    Network: ClassVar = VqVaeNetwork
    Training: ClassVar = VqVaeTraining
    Sampling: ClassVar = VqVaeSampling

    reconstruction_kind = "nearest codes"

    def __init__(self, spec: ImageSpec, params: ModelParams) -> None:
        super().__init__(spec, params)
        network = params.network
        transformer.check(params)
        if min(spec.height, spec.width) < 2**network.halvings:
            most = min(spec.height, spec.width).bit_length() - 1
            raise PipelineError(
                f"{paths.PARAMS}: models.{params.name}.network.halvings = {network.halvings}: "
                f"images of {spec.width}x{spec.height} pixels can be halved {most} times at most"
            )
        self.conditional = network.conditional
        self.code_count = network.codes
        self.grid = tuple(nets.halved(side, network.halvings) for side in (spec.height, spec.width))
        size = {
            "channels": network.channels,
            "halvings": network.halvings,
            "residual": network.residual,
        }
        self.encoder = MapEncoder(inputs=spec.channels, outputs=network.code_width, **size)
        self.codebook = Codebook(network.codes, network.code_width)
        self.decoder = MapDecoder(
            spec,
            inputs=network.code_width,
            outputs=distributions.PixelMixture.values(spec.channels, network.mixtures),
            **size,
        )
        self.prior = CodePrior(
            codes=network.codes,
            code_width=network.code_width,
            height=self.grid[0],
            width=self.grid[1],
            features=network.width,
            blocks=network.blocks,
            heads=network.attention_heads,
            classes=spec.classes if network.conditional else 0,
        )
        self.images_encoded = nets.HostCount(self, "seen")

    @classmethod
    def unsupported(
        cls, params: ModelParams, device: torch.device, images: TrainingImages | None = None
    ) -> str | None:
        """See `Family.unsupported`: the prior has to be trained, too."""
        training = params.training
        if training is not None and training.autoencoder > training.batch * (training.steps - 1):
            remedy = (
                "lower it, to about a half of them" if training.steps > 1 else "raise train.budget"
            )
            return (
                f"training.autoencoder: the autoencoder sees {training.autoencoder:,} of the "
                f"{training.images:,} training images (both times train.budget), so that the prior "
                f"is never trained; {remedy}"
            )
        return super().unsupported(params, device, images)

    def groups(self) -> dict[str, Group]:
        training = self.params.training
        # The fraction of all steps after which the prior starts.
        first = -(-training.autoencoder // training.batch) / training.steps
        return {
            # No average: the prior's codes would be those of other weights than the final ones.
            "autoencoder": Group(
                [*self.encoder.parameters(), *self.decoder.parameters()],
                muon.optimiser(self, training),
                schedule=_within(0.0, first),
                clip=training.clip,
            ),
            "prior": Group(
                list(self.prior.parameters()),
                muon.optimiser(self, training, training.prior_learning_rate, weight_decay=1e-4),
                schedule=_within(first, 1.0),
                clip=training.clip,
                ema=training.ema,
            ),
        }

    def training_step(
        self, batch: Batch, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step of autoencoder and codebook, or, once they are done, of the prior.

        Losses are logged in nats per image: -log p(x|c), and -log p(c).
        """
        if self.images_encoded.value < self.params.training.autoencoder:
            self.images_encoded.add(len(batch.images) * ranks.size())
            return self._autoencoder_step(batch.images, update, rng)
        codes = self.codes(batch.images, None)
        loss = -self._log_prior(codes, batch.labels if self.conditional else None).mean()
        update("prior", loss / codes[0].numel())
        return {"prior/loss": loss.detach()}

    def _autoencoder_step(
        self, images: Tensor, update: Update, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """One step on the paper's equation 3, whose second term is the codebook's running means."""
        training = self.params.training
        encoded = self.encode(images)
        with precision.autocast(self.device, "fp32"):
            points = encoded.detach().flatten(0, 2)
            restarted = self.codebook.revive(points, training.restart, rng)
            codes = self.codebook.nearest(points)
            vectors = self.codebook(codes).view_as(encoded)
        commitment = (encoded - vectors).square().mean()
        pixels = self._log_pixels(images, straight_through(encoded, vectors)).mean()
        loss = training.commitment * commitment - pixels / self.spec.dimensions
        update("autoencoder", loss)
        with precision.autocast(self.device, "fp32"):
            self.codebook.learn(points, codes, training.decay)
        return {
            "autoencoder/loss": -pixels.detach(),
            "autoencoder/commitment": commitment.detach(),
            "autoencoder/restarted": restarted.float(),
        }

    def encode(self, images: Tensor) -> Tensor:
        """What is rounded to codes, float32 [B, h, w, d], of uint8 [B, C, H, W]."""
        return self.encoder(to_signed(images)).float().movedim(1, 3)

    @torch.no_grad()
    def codes(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """int64 [B, h, w], which labels do not change; see `core.contract.Quantises`."""
        # Of one precision in training and after it: the prior is to know the same codes.
        with precision.autocast(self.device, "fp32"):
            return self.codebook.nearest(self.encode(images))

    def decode(self, vectors: Tensor) -> distributions.PixelMixture:
        """p(x|c), given the vectors [B, h, w, d] of codes."""
        values = self.decoder(vectors.movedim(3, 1))
        return distributions.PixelMixture.split(values, self.spec.channels)

    def _log_pixels(self, images: Tensor, vectors: Tensor) -> Tensor:
        """log p(x|c) in nats [B]."""
        return self.decode(vectors).log_prob(images).flatten(1).sum(1)

    def _log_prior(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """log p(c|y) in nats [B]."""
        return self.prior.log_prob(codes, self.codebook.vectors, labels).flatten(1).sum(1)

    def _pixels(self, codes: Tensor) -> Tensor:
        """The mean of p(x|c) as uint8 [B, C, H, W]."""
        return to_uint8(self.decode(self.codebook(codes)).mean())

    @property
    def network_evaluations(self) -> int:
        """One of the prior for each code, and one of the decoder."""
        return self.grid[0] * self.grid[1] + 1

    def facts(self) -> dict[str, str]:
        """What an image is encoded as."""
        return {"codes": f"{self.grid[0]}x{self.grid[1]} of {self.code_count}"}

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """c from the prior, then x as ``sampling.pixels`` says; see `core.contract.Samples`."""
        noise = ImageNoise(seeds, self.device)
        empty = torch.zeros(len(seeds), *self.grid, dtype=torch.int64, device=self.device)
        codes = self._fill(empty, noise.uniform(*self.grid), labels)
        if self.params.sampling.pixels == "mean":
            return self._pixels(codes)
        decoded = self.decode(self.codebook(codes))
        return decoded.sample(*noise.uniform(2, *self.spec.shape).unbind(dim=1))

    def _fill(
        self, codes: Tensor, uniform: Tensor, labels: Tensor | None, start_row: int = 0
    ) -> Tensor:
        """See `CodePrior.fill`."""
        return self.prior.fill(codes, self.codebook.vectors, uniform, labels, start_row)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Mean of p(x|c) at the codes of images; see `core.contract.Reconstructs`."""
        return self._pixels(self.codes(images, labels))

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Likelihood:
        """log p(x, c|y) at the codes c of the image, a bound without randomness.

        See `core.contract.HasLikelihood`.
        """
        codes = self.codes(images, labels)
        pixels = self._log_pixels(images, self.codebook(codes)).double()
        prior = self._log_prior(codes, labels).double()
        return Likelihood(
            nats=pixels + prior, bound="elbo", terms={"pixels": pixels, "codes": prior}
        )

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """What codes look like, and how they may go on; see `core.contract.Illustrates`.

        ``codes``: images, their maps of codes, and what these decode to. A code is the brighter the
        farther its vector is from that of the commonest one. ``completions``: images, the part of
        them whose codes are kept, and decoded draws from the prior given these.
        """
        codes = self.codes(batch.images, None)
        rows = codes.shape[1] // 2
        kept = batch.images.clone()
        kept[:, :, rows * 2**self.params.network.halvings :] = 0
        uniform = ImageNoise(seeds, self.device).uniform(COMPLETIONS, *self.grid)
        drawn = self._fill(
            codes.repeat(COMPLETIONS, 1, 1),
            uniform.transpose(0, 1).flatten(0, 1),
            batch.labels.repeat(COMPLETIONS) if self.conditional else None,
            start_row=rows,
        )
        completed = self._pixels(drawn).split(len(seeds))
        return {
            "codes": torch.stack([batch.images, self._shades(codes), self._pixels(codes)]),
            "completions": torch.stack([batch.images, kept, *completed]),
        }

    def _shades(self, codes: Tensor) -> Tensor:
        """Maps of codes as images, uint8 [B, C, H, W]: a square of one level for each code."""
        common = self.codebook(self.codebook.share.argmax())
        distances = (self.codebook.vectors - common).square().sum(dim=1).sqrt()
        levels = (distances * (255 / distances.max().clamp(min=1e-12))).round().to(torch.uint8)
        side = 2**self.params.network.halvings
        shown = levels[codes].repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        shown = shown[:, None, : self.spec.height, : self.spec.width]
        return shown.expand(-1, self.spec.channels, -1, -1)


def straight_through(points: Tensor, vectors: Tensor) -> Tensor:
    """The vectors, with a gradient that goes on to the points as if they were these (section 3.1).

    Both float [B, h, w, d].
    """
    return points + (vectors - points).detach()


def _within(start: float, end: float) -> Callable[[float], float]:
    """`blocks.nets.warm_cosine` over the part of training from ``start`` to ``end``."""
    factor = nets.warm_cosine(WARM_UP)
    return lambda done: factor((done - start) / (end - start))


FAMILY = VqVae
