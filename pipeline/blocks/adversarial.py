"""What families with a generator and an opponent share: networks, samples and pictures.

The convolutional networks are those of Radford et al. 2016, arXiv:1511.06434: from 4x4
positions (for 28x28 images 7x7) up to the images and down again, in as many steps as that takes
(`blocks.nets.halvings`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from pipeline.blocks import inversion
from pipeline.blocks.convolutional import maps
from pipeline.blocks.nets import doubled, great_circle, halvings, one_hot
from pipeline.core.contract import Batch, Family, to_uint8
from pipeline.core.images import PICTURED_CLASSES, ImageSpec
from pipeline.core.seeds import BatchNoise, ImageNoise

NORMALISATION_BATCHES = 50
"""How many training batches BatchNorm's statistics are measured on, once training is over."""

COLUMNS = 12
"""Of pictures at most; see `core.contract.Illustrates`."""


class Flatten(nn.Module):
    """[B, C, H, W] to [B, H W C]: no copy where the channels are innermost in memory."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1).flatten(1)


class Unflatten(nn.Module):
    """[B, H W C] to [B, C, H, W] with the channels innermost in memory."""

    def __init__(self, channels: int, height: int, breadth: int) -> None:
        super().__init__()
        self.shape = (height, breadth, channels)

    def forward(self, values: Tensor) -> Tensor:
        return values.unflatten(1, self.shape).permute(0, 3, 1, 2)


def init_dcgan(module: nn.Module) -> None:
    """Weights from N(0, 0.02) as in section 4 of the DCGAN paper; for `torch.nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


class ConvolutionalGenerator(nn.Module):
    """Values [B, inputs] to images in -1..1, [B, C, H, W]."""

    def __init__(self, spec: ImageSpec, *, inputs: int, channels: int) -> None:
        """A dense layer and transposed convolutions.

        Args:
            spec: the images.
            inputs: size of the noise and of what is laid beside it.
            channels: at half the images' height and width; doubled with each halving.
        """
        super().__init__()
        self.spec = spec
        widths, height, breadth = maps(spec, channels)
        layers: list[nn.Module] = [
            nn.Linear(inputs, widths[-1] * height * breadth, bias=False),
            Unflatten(widths[-1], height, breadth),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        ]
        for wide_in, wide_out in pairwise(reversed(widths)):
            layers += [
                nn.ConvTranspose2d(wide_in, wide_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide_out),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(
            *layers,
            nn.ConvTranspose2d(channels, spec.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        self.apply(init_dcgan)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)[:, :, : self.spec.height, : self.spec.width]


class ConvolutionalFeatures(nn.Sequential):
    """Images in -1..1, [B, C, H, W], to features [B, size]."""

    size: int

    def __init__(self, spec: ImageSpec, *, channels: int, normalise: bool) -> None:
        """Strided convolutions; what they end in is one map for a last convolution of its size.

        Args:
            spec: the images.
            channels: at half the images' height and width; doubled with each halving.
            normalise: put BatchNorm after each convolution but the first, as DCGAN does. Every
                image's features then depend on its batch, which a penalty on each image's own
                gradient does not allow.
        """
        count = halvings(spec.height, spec.width)
        widths = doubled(channels, count)
        layers: list[nn.Module] = [
            nn.Conv2d(spec.channels, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for wide_in, wide_out in pairwise(widths):
            layers.append(nn.Conv2d(wide_in, wide_out, 4, stride=2, padding=1, bias=not normalise))
            layers += [nn.BatchNorm2d(wide_out)] if normalise else []
            layers.append(nn.LeakyReLU(0.2))
        super().__init__(*layers, Flatten())
        # These convolutions round down, unlike `halved`.
        self.size = widths[-1] * (spec.height >> count) * (spec.width >> count)
        self.apply(init_dcgan)


class Opponent(nn.Module):
    """A discriminator or critic: images in -1..1, [B, C, H, W], to unbounded numbers [B].

    With labels it is the projection discriminator of Miyato & Koyama 2018, arXiv:1802.05637: each
    label adds a linear function of the features of its own.
    """

    def __init__(self, features: nn.Module, *, classes: int = 0) -> None:
        """Put a linear layer, DCGAN's last convolution, on top of ``features``.

        Args:
            features: images to features [B, features.size].
            classes: how many labels there are, or 0 for none.
        """
        super().__init__()
        self.features = features
        # No bias: a critic's would never have a gradient, and DCGAN's own code has none.
        self.head = nn.Linear(features.size, 1 + classes, bias=False)
        init_dcgan(self.head)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Float [B]; ``labels`` are one-hot, [B, classes]."""
        outputs = self.head(self.features(images))
        if labels is None:
            return outputs[:, 0]
        return outputs[:, 0] + (outputs[:, 1:] * labels).sum(dim=1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in eval mode; afterwards it is back in the mode that it had."""
    mode = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(mode)


class Adversarial(Family):
    """A generator of images from standard normal noise and, if conditional, labels.

    Families add the opponent, the groups and the training step. They set ``generator``, which maps
    noise [B, latent], followed by one-hot labels [B, classes] where the model is conditional, to
    images in -1..1. ``network.latent`` is the size of the noise.
    """

    generator: nn.Module
    inversion_kind = inversion.KIND

    def one_hot(self, labels: Tensor) -> Tensor | None:
        """float32 [B, classes] from int64 [B], or None where the model is not conditional."""
        if not self.conditional:
            return None
        return one_hot(labels, self.spec.classes)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """Standard normal float32 [n, latent]."""
        return BatchNoise(rng).normal(n, self.params.network.latent)

    def generate(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Images in -1..1, [B, C, H, W], from noise [B, latent] and one-hot labels."""
        return self.generator(noise if labels is None else torch.cat([noise, labels], dim=1))

    @torch.no_grad()
    def finish(self, batches: Iterator[Batch], rng: torch.Generator) -> None:
        """Measure BatchNorm's statistics for the averaged weights, which were never run before."""
        kinds = nn.BatchNorm1d | nn.BatchNorm2d
        norms = [each for each in self.generator.modules() if isinstance(each, kinds)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
        self.generator.train()
        for batch in islice(batches, NORMALISATION_BATCHES):
            self.generate(self.noise(len(batch.labels), rng), self.one_hot(batch.labels))
        self.generator.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @torch.no_grad()
    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """One noise vector per seed; see `core.contract.Samples`."""
        noise = ImageNoise(seeds, self.device).normal(self.params.network.latent)
        with evaluating(self.generator):
            given = None if labels is None else self.one_hot(labels)
            return to_uint8(self.generate(noise, given))

    def invert(self, images: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """A search among noise; see `core.contract.Inverts`."""
        noise = ImageNoise(seeds, self.device).normal(inversion.STARTS, self.params.network.latent)
        given = None if labels is None else self.one_hot(labels)
        with evaluating(self.generator):
            return inversion.nearest(
                lambda tried: self.generate(tried, given), noise.unbind(dim=1), images
            )

    @torch.no_grad()
    def illustrate(self, batch: Batch, seeds: Tensor) -> dict[str, Tensor]:
        """What lies between one noise vector and another; see `core.contract.Illustrates`.

        ``interpolations`` go along the great circle, a row for each pair of vectors; with labels
        a row keeps that of an image of ``batch``. ``classes``, of conditional models: each row has
        one noise vector, and each column one label.
        """
        latent = self.params.network.latent
        start, end = ImageNoise(seeds, self.device).normal(2, latent).unbind(dim=1)
        labels = batch.labels[:, None].expand(-1, COLUMNS)
        pictures = {"interpolations": self._picture(great_circle(start, end, COLUMNS), labels)}
        if self.conditional:
            classes = torch.arange(min(self.spec.classes, PICTURED_CLASSES), device=self.device)
            start = start[: max(1, COLUMNS * len(start) // len(classes))]
            noise = start[:, None].expand(-1, len(classes), -1)
            pictures["classes"] = self._picture(noise, classes.expand(len(start), -1))
        return pictures

    def _picture(self, noise: Tensor, labels: Tensor) -> Tensor:
        """uint8 [rows, columns, C, H, W] from [rows, columns, latent] and [rows, columns]."""
        with evaluating(self.generator):
            images = self.generate(noise.flatten(0, 1), self.one_hot(labels.flatten()))
        return to_uint8(images).unflatten(0, noise.shape[:2])
