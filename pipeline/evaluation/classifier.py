"""A judge that learns from labels: a classifier, whose last layer but one carries FID.

It sees what tells the classes apart, and whether an image shows the class that was asked for. What
does not matter for that, such as a little blur, it hardly sees.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import params, seeds
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.progress import Progress
from pipeline.evaluation.trunk import trunk

SHIFT = 2
"""Pixels by which views are moved at most."""
MAX_NOISE = 0.1
"""Standard deviation, where white is 1."""
WEIGHT_DECAY = 1e-2


class Classifier(nn.Module):
    """Convolutions with BatchNorm, a ReLU feature layer and a linear head."""

    def __init__(self, spec: ImageSpec, features: int) -> None:
        super().__init__()
        self.body, size = trunk(spec)
        self.embed = nn.Linear(size, features)
        self.head = nn.Linear(features, spec.classes)

    def features(self, images: Tensor) -> Tensor:
        """Unscaled features, float [B, d], of images in -1..1."""
        return F.relu(self.embed(self.body(images)))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [B, classes] of images in -1..1."""
        return self.head(self.features(images))


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift each image by up to 2 pixels, and add Gaussian noise to every second one.

    The noise (standard deviation uniform on 0 to 0.1, where white is 1) makes judges of different
    seeds agree on how bad noise is. Images are in -1..1; what is shifted in is the border.
    """
    n, _, height, width = images.shape
    padded = F.pad(images, [SHIFT] * 4, mode="replicate")
    offsets = torch.randint(2 * SHIFT + 1, (2, n), generator=rng)
    shifted = torch.stack(
        [
            image[:, y : y + height, x : x + width]
            for image, y, x in zip(padded, *offsets.tolist(), strict=True)
        ]
    )
    sigma = 2 * MAX_NOISE * torch.rand(n, generator=rng) * (torch.rand(n, generator=rng) < 0.5)
    noise = torch.randn(images.shape, generator=rng)
    return shifted + (sigma[:, None, None, None] * noise).to(images.device)


def train(
    images: Tensor,
    labels: Tensor,
    spec: ImageSpec,
    judge: params.Judge,
    seed: int,
    device: torch.device,
) -> Classifier:
    """Train one classifier by steps, whatever N is; in eval mode after.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        spec: of the images.
        judge: the section of params.yaml.
        seed: of the weights, the order of the images and their augmentation.
        device: where.

    Raises:
        PipelineError: if there are fewer images than one step takes.
    """
    section = judge.classifier
    if len(images) < judge.batch:
        raise PipelineError(
            f"judge.batch is {judge.batch}, but there are only {len(images)} training images"
        )
    torch.manual_seed(seeds.derive(seed, "judge"))
    net = Classifier(spec, judge.features).to(device=device, memory_format=torch.channels_last)
    images, labels = images.to(device), labels.to(device)
    per_epoch = len(images) // judge.batch
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=section.learning_rate, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=section.learning_rate, total_steps=section.steps
    )
    with Progress(f"judge {seed}", section.steps, unit_scale=judge.batch) as progress:
        for step in range(section.steps):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                rng = seeds.generator(seed, "judge", epoch)
                order = torch.randperm(len(images), generator=rng)
            index = order[place * judge.batch : (place + 1) * judge.batch]
            batch = augment(to_signed(images[index]), rng)
            loss = F.cross_entropy(net(batch), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress.advance()
    return net.eval()


def learnt(accuracy: float, labels: np.ndarray) -> bool:
    """Whether classifiers learnt the labels int64 [N] of images that they never saw.

    Their mean accuracy has to be above that of always naming the most frequent class, by a tenth
    of what is left to 1 and by four standard errors of as many such answers.
    """
    share = float(np.bincount(labels).max() / len(labels))
    stderr = np.sqrt(share * (1 - share) / len(labels))
    return bool(accuracy > share + max(0.1 * (1 - share), 4 * stderr))


RECIPE = (Classifier, augment, train)
CONSTANTS = ("SHIFT", "MAX_NOISE", "WEIGHT_DECAY")
"""The code and the numbers that decide what such a judge is; see `pipeline.evaluation.judge`."""
