"""The judge: small classifiers whose features carry FID and whose labels judge conditioning.

Several are trained from different seeds, since the features of a single small network can flatter
one family by luck. They are scaled so that the trace of the covariance of the training images'
features is d, which puts FIDs of different judges and data sets on one scale.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import files, params, seeds, tensors
from pipeline.core.contract import in_batches, to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.core.progress import Progress
from pipeline.datasets.store import Split
from pipeline.evaluation.metrics import fid
from pipeline.evaluation.protocol import judge_facts

BATCH = 250
SHIFT = 2
MAX_NOISE = 0.1


class Classifier(nn.Module):
    """Three convolutions with BatchNorm, a ReLU feature layer and a linear head."""

    def __init__(self, spec: ImageSpec, features: int) -> None:
        super().__init__()
        widths = [spec.channels, 8, 16, 32]
        layers: list[nn.Module] = []
        for i, (wide_in, wide_out) in enumerate(pairwise(widths)):
            layers += [
                nn.Conv2d(wide_in, wide_out, 3, stride=1 if i == 0 else 2, padding=1),
                nn.BatchNorm2d(wide_out),
                nn.ReLU(),
            ]
        height, width = -(-spec.height // 4), -(-spec.width // 4)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.embed = nn.Linear(widths[-1] * height * width, features)
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


def train_classifier(
    images: Tensor,
    labels: Tensor,
    spec: ImageSpec,
    judge: params.Judge,
    seed: int,
    device: torch.device,
) -> Classifier:
    """Train one classifier on uint8 images [N, C, H, W] and labels [N]; in eval mode after."""
    if len(images) < judge.batch:
        raise PipelineError(
            f"judge.batch is {judge.batch}, but there are only {len(images)} training images"
        )
    torch.manual_seed(seeds.derive(seed, "judge"))
    net = Classifier(spec, judge.features).to(device=device, memory_format=torch.channels_last)
    images, labels = images.to(device), labels.to(device)
    per_epoch = len(images) // judge.batch
    optimiser = torch.optim.AdamW(net.parameters(), lr=judge.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=judge.learning_rate, total_steps=judge.epochs * per_epoch
    )
    with Progress(f"judge {seed}", judge.epochs * per_epoch, unit_scale=judge.batch) as progress:
        for epoch in range(judge.epochs):
            rng = seeds.generator(seed, "judge", epoch)
            order = torch.randperm(len(images), generator=rng)[: per_epoch * judge.batch]
            for index in order.split(judge.batch):
                batch = augment(to_signed(images[index]), rng)
                loss = F.cross_entropy(net(batch), labels[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                progress.advance()
    return net.eval()


@torch.no_grad()
def embed(
    net: Classifier, images: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Unscaled features float32 [N, d] and predicted labels int64 [N] of uint8 images."""
    features, predictions = [], []
    for index, real in in_batches(len(images), BATCH):
        batch = to_signed(torch.from_numpy(images[index.numpy()]).to(device))
        found = net.features(batch)
        features.append(found[:real].cpu())
        predictions.append(net.head(found)[:real].argmax(dim=1).cpu())
    return torch.cat(features).numpy(), torch.cat(predictions).numpy()


class Judge:
    """One trained classifier with its feature scale."""

    def __init__(self, net: Classifier, scale: float, device: torch.device) -> None:
        self.net, self.scale, self.device = net, scale, device


@dataclass(frozen=True)
class Seen:
    """What all judges see of a set of images; metrics are functions of these arrays.

    Attributes:
        images: uint8 [N, C, H, W].
        features: of each judge, float64 [N, d], scaled.
        predictions: of each judge, the class that it takes each image for, int64 [N].
    """

    images: np.ndarray
    features: tuple[np.ndarray, ...]
    predictions: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> "Seen":
        """The same of some of the images."""
        return Seen(
            np.asarray(self.images[index]),
            tuple(each[index] for each in self.features),
            tuple(each[index] for each in self.predictions),
        )


def see(judges: Sequence[Judge], images: np.ndarray) -> Seen:
    """Show uint8 images [N, C, H, W] to every judge, once, in batches of `BATCH`."""
    found = [embed(judge.net, images, judge.device) for judge in judges]
    return Seen(
        images,
        tuple(
            features.astype(np.float64) * judge.scale
            for judge, (features, _) in zip(judges, found, strict=True)
        ),
        tuple(predictions for _, predictions in found),
    )


def recipe(judge: params.Judge) -> str:
    """Hash of what makes the judges: the code of it and their parameters, not their weights.

    Weights differ between processors, which makes no other judges of them. Of the code the
    definitions count that decide what a judge is, wherever they stand, and the numbers that they
    take from this module.
    """
    made_by = (Classifier, augment, train_classifier, embed, facts)
    code = {each.__name__: inspect.getsource(each) for each in made_by}
    constants = {"SHIFT": SHIFT, "MAX_NOISE": MAX_NOISE}
    return files.sha256_of({"code": code, "constants": constants, "params": judge.model_dump()})


def facts(
    net: Classifier, seed: int, train: Split, test: Split, device: torch.device
) -> dict[str, Any]:
    """Seed, feature scale and test accuracy of one classifier.

    Raises:
        PipelineError: if the features do not vary, so that no scale exists.
    """
    features, _ = embed(net, train.images, device)
    spread = float(np.trace(fid.moments(features).covariance))
    if spread <= 0:
        raise PipelineError(f"judge {seed}: its features are constant; change judge.learning_rate")
    _, predictions = embed(net, test.images, device)
    return {
        "seed": seed,
        "scale": math.sqrt(features.shape[1] / spread),
        "accuracy": float((predictions == test.labels).mean()),
    }


def save(
    folder: Path, nets: dict[int, Classifier], judge: params.Judge, each: list[dict[str, Any]]
) -> None:
    """Write the classifiers by seed and ``judge.json``, whole or not at all."""
    with files.replacing_folder(folder) as temporary:
        for seed, net in nets.items():
            tensors.save(temporary / f"{seed}.safetensors", net.state_dict())
        files.write_json(
            temporary / "judge.json",
            {"recipe": recipe(judge), "features": judge.features, "judges": each},
        )


def load(folder: Path, spec: ImageSpec, device: torch.device) -> list[Judge]:
    """Load what `save` wrote.

    Raises:
        PipelineError: if something is missing, damaged, or made for other images.
    """
    found = judge_facts(folder)
    remedy = f"delete {folder}, and the next run restores it or trains again"
    judges = []
    for each in found["judges"]:
        file = folder / f"{each['seed']}.safetensors"
        net = Classifier(spec, found["features"])
        try:
            state, _ = tensors.load(file, remedy)
            net.load_state_dict(state)
        except FileNotFoundError:
            raise PipelineError(f"{file}: no such file; {remedy}") from None
        except RuntimeError:
            raise PipelineError(f"{file}: does not fit these images; {remedy}") from None
        net = net.eval().to(device=device, memory_format=torch.channels_last)
        judges.append(Judge(net, each["scale"], device))
    return judges
