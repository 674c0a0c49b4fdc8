"""A judge that needs no labels: features learnt from the images alone.

VICReg (Bardes, Ponce & LeCun 2022, arXiv:2105.04906) trains a network so that two distorted views
of an image have the same embedding (invariance), while every number of the embedding varies over
the images (variance) and no two numbers say the same (covariance). It needs neither labels nor
pairs of different images, and batches may be small.

What the distortions change is what the features come to overlook. So nothing is among them that a
judge has to see: they are small turns, shifts, shears and changes of size, and as much noise as the
judges with labels see. There is no blur, no mirror, no change of colour and no large crop.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import params, seeds
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.progress import Progress
from pipeline.evaluation.trunk import trunk

EXPANDED = 256
"""Width of the layers behind the features, on whose output the loss is; they are thrown away."""
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""Weights of the three terms, as published."""
EPSILON = 1e-4
"""Added to variances under the root, as published."""
TURN, SHEAR, SHIFT, SCALE = math.radians(15), 0.1, 0.08, 1.15
"""The largest of each distortion: an angle, a slope, a share of the side, a factor."""
MAX_NOISE = 0.1
"""Standard deviation, where white is 1."""
WEIGHT_DECAY = 1e-2


class Encoder(nn.Module):
    """Convolutions with BatchNorm and a dense layer."""

    def __init__(self, spec: ImageSpec, features: int) -> None:
        super().__init__()
        self.body, size = trunk(spec)
        self.embed = nn.Linear(size, features)

    def features(self, images: Tensor) -> Tensor:
        """Unscaled features, float [B, d], of images in -1..1."""
        return self.embed(self.body(images))


def distort(images: Tensor, rng: torch.Generator) -> Tensor:
    """One view of each image, in -1..1 [B, C, H, W]: moved a little, every second one with noise.

    Angles, slopes, shifts and the logarithm of the factor are uniform between plus and minus their
    largest; pixels are taken between neighbours, and the border is repeated beyond itself. The
    noise's standard deviation is uniform on 0 to `MAX_NOISE`.
    """
    n = len(images)

    def uniform(largest: float) -> Tensor:
        return largest * (2 * torch.rand(n, generator=rng) - 1)

    angle, slope, size = uniform(TURN), uniform(SHEAR), uniform(math.log(SCALE)).exp()
    across, down = uniform(2 * SHIFT), uniform(2 * SHIFT)  # of -1..1, which is two sides long
    cos, sin = angle.cos() * size, angle.sin() * size
    rows = [torch.stack([cos, slope * size - sin, across], 1), torch.stack([sin, cos, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    sigma = 2 * MAX_NOISE * torch.rand(n, generator=rng) * (torch.rand(n, generator=rng) < 0.5)
    noise = sigma[:, None, None, None] * torch.randn(images.shape, generator=rng)
    moved = F.grid_sample(
        images, grid.to(images.device), padding_mode="border", align_corners=False
    )
    return moved + noise.to(images.device)


def vicreg(one: Tensor, other: Tensor) -> Tensor:
    """The loss of embeddings float [B >= 2, D] of two views of the same images (equations 1 to 6).

    The covariance term is the sum over both views of the squared covariances of different numbers,
    divided by D; the variance term the mean over both of max(0, 1 - standard deviation).
    """
    invariance = F.mse_loss(one, other)
    variance = covariance = 0.0
    for each in (one, other):
        variance = variance + F.relu(1 - (each.var(dim=0) + EPSILON).sqrt()).mean() / 2
        centred = each - each.mean(dim=0)
        matrix = centred.T @ centred / (len(each) - 1)
        apart = matrix.square().sum() - matrix.diagonal().square().sum()
        covariance = covariance + apart / each.shape[1]
    return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance


def train(
    images: Tensor, spec: ImageSpec, judge: params.Judge, seed: int, device: torch.device
) -> Encoder:
    """Train one encoder on uint8 images [N, C, H, W], by steps whatever N is; in eval mode after.

    Raises:
        PipelineError: if there are fewer images than one step takes.
    """
    section = judge.label_free
    if len(images) < judge.batch:
        raise PipelineError(
            f"judge.batch is {judge.batch}, but there are only {len(images)} training images"
        )
    torch.manual_seed(seeds.derive(seed, "judge", "label-free"))
    encoder = Encoder(spec, judge.features).to(device=device, memory_format=torch.channels_last)
    expander = nn.Sequential(
        nn.Linear(judge.features, EXPANDED),
        nn.BatchNorm1d(EXPANDED),
        nn.ReLU(),
        nn.Linear(EXPANDED, EXPANDED),
        nn.BatchNorm1d(EXPANDED),
        nn.ReLU(),
        nn.Linear(EXPANDED, EXPANDED, bias=False),
    ).to(device)
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *expander.parameters()],
        lr=section.learning_rate,
        weight_decay=WEIGHT_DECAY,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=section.learning_rate, total_steps=section.steps
    )
    images = images.to(device)
    rng = seeds.generator(seed, "judge", "label-free")
    order = torch.empty(0, dtype=torch.int64)
    with Progress(f"judge {seed}", section.steps, unit_scale=judge.batch) as progress:
        for _ in range(section.steps):
            if len(order) < judge.batch:
                order = torch.randperm(len(images), generator=rng)
            index, order = order[: judge.batch], order[judge.batch :]
            batch = to_signed(images[index])
            views = torch.cat([distort(batch, rng), distort(batch, rng)])
            one, other = expander(encoder.features(views)).chunk(2)
            loss = vicreg(one, other)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress.advance()
    return encoder.eval()


RECIPE = (Encoder, distort, vicreg, train)
CONSTANTS = (
    *("EXPANDED", "INVARIANCE", "VARIANCE", "COVARIANCE", "EPSILON"),
    *("TURN", "SHEAR", "SHIFT", "SCALE", "MAX_NOISE", "WEIGHT_DECAY"),
)
"""The code and the numbers that decide what such a judge is; see `pipeline.evaluation.judge`."""
