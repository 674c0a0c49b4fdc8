"""The judges: small networks whose features carry FID.

There are two kinds. Classifiers learn their features from labels, and judge conditioning, too;
where there are no labels, or none that can be learnt, `pipeline.evaluation.label_free` has judges
that learn from the images alone.

Several are trained from different seeds, since the features of a single small network can flatter
one family by luck. They are scaled so that the trace of the covariance of the training images'
features is d, which puts FIDs of different judges and data sets on one scale.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

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
from pipeline.evaluation import label_free
from pipeline.evaluation.metrics import fid
from pipeline.evaluation.protocol import judge_facts

Kind = Literal["classifier", "label_free"]
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
    """One trained network with its feature scale."""

    def __init__(
        self, net: Classifier | label_free.Encoder, scale: float, device: torch.device
    ) -> None:
        self.net, self.scale, self.device = net, scale, device

    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Scaled features float64 [N, d] and the predicted labels int64 [N], if it knows labels."""
        if isinstance(self.net, label_free.Encoder):
            features, predictions = label_free.embed(self.net, images, self.device), None
        else:
            features, predictions = embed(self.net, images, self.device)
        return features.astype(np.float64) * self.scale, predictions


@dataclass(frozen=True)
class Seen:
    """What all judges see of a set of images; metrics are functions of these arrays.

    Attributes:
        images: uint8 [N, C, H, W].
        features: of each judge, float64 [N, d], scaled.
        predictions: of each judge, the class that it takes each image for, int64 [N]; none of
            judges that know no labels.
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
    found = [judge.look(images) for judge in judges]
    return Seen(
        images,
        tuple(features for features, _ in found),
        tuple(predictions for _, predictions in found if predictions is not None),
    )


def recipe(judge: params.Judge, kind: Kind = "classifier") -> str:
    """Hash of what makes the judges: the code of it and their parameters, not their weights.

    Weights differ between processors, which makes no other judges of them. Of the code the
    definitions count that decide what a judge is, wherever they stand, and the numbers that they
    take from this module; and of the parameters, those of this kind.
    """
    if kind == "label_free":
        made_by = (*label_free.RECIPE, label_free_facts)
        constants = {name: getattr(label_free, name) for name in label_free.CONSTANTS}
        parameters = judge.model_dump(include={"seeds", "batch", "features", "label_free"})
    else:
        made_by = (Classifier, augment, train_classifier, embed, facts)
        constants = {"SHIFT": SHIFT, "MAX_NOISE": MAX_NOISE}
        parameters = judge.model_dump(exclude={"kind", "label_free"})
    code = {each.__name__: inspect.getsource(each) for each in made_by}
    return files.sha256_of({"code": code, "constants": constants, "params": parameters})


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


def label_free_facts(
    net: label_free.Encoder, seed: int, train: np.ndarray, device: torch.device
) -> dict[str, Any]:
    """Seed and feature scale of one judge without labels, by the uint8 training images.

    Raises:
        PipelineError: if the features do not vary, so that no scale exists.
    """
    features = label_free.embed(net, train, device)
    spread = float(np.trace(fid.moments(features).covariance))
    if spread <= 0:
        raise PipelineError(
            f"judge {seed}: its features are constant; change judge.label_free.learning_rate"
        )
    return {"seed": seed, "scale": math.sqrt(features.shape[1] / spread), "accuracy": None}


def learnt(accuracy: float, labels: np.ndarray) -> bool:
    """Whether classifiers learnt the labels int64 [N] of images that they never saw.

    Their mean accuracy has to be above that of always naming the most frequent class, by a tenth
    of what is left to 1 and by four standard errors of as many such answers.
    """
    share = float(np.bincount(labels).max() / len(labels))
    stderr = math.sqrt(share * (1 - share) / len(labels))
    return accuracy > share + max(0.1 * (1 - share), 4 * stderr)


def save(
    folder: Path,
    nets: Mapping[int, Classifier | label_free.Encoder],
    judge: params.Judge,
    each: list[dict[str, Any]],
    *,
    kind: Kind = "classifier",
    why: str = "",
) -> None:
    """Write the networks by seed and ``judge.json``, whole or not at all.

    Args:
        folder: where.
        nets: all of one ``kind``.
        judge: the section of params.yaml.
        each: what `facts` or `label_free_facts` says of each.
        kind: which of the two.
        why: in words, why it is this kind.
    """
    with files.replacing_folder(folder) as temporary:
        for seed, net in nets.items():
            tensors.save(temporary / f"{seed}.safetensors", net.state_dict())
        files.write_json(
            temporary / "judge.json",
            {
                "recipe": recipe(judge, kind),
                "kind": kind,
                "why": why,
                "features": judge.features,
                "judges": each,
            },
        )


def load(folder: Path, spec: ImageSpec, device: torch.device) -> list[Judge]:
    """Load what `save` wrote.

    Raises:
        PipelineError: if something is missing, damaged, or made for other images.
    """
    found = judge_facts(folder)
    network = label_free.Encoder if found["kind"] == "label_free" else Classifier
    remedy = f"delete {folder}, and the next run restores it or trains again"
    judges = []
    for each in found["judges"]:
        file = folder / f"{each['seed']}.safetensors"
        net = network(spec, found["features"])
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
