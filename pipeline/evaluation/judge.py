"""The judges: small networks whose features carry FID.

There are two kinds. Classifiers (`pipeline.evaluation.classifier`) learn their features from
labels, and judge conditioning, too; the others (`pipeline.evaluation.label_free`) learn from the
images alone. They are blind to different things. Where there are labels that can be learnt, both
kinds judge: one carries the headline, and the other gives a second opinion.

Several of each kind are trained from different seeds, since the features of a single small network
can flatter one family by luck. They are scaled so that the trace of the covariance of the training
images' features is d, which puts FIDs of different judges and data sets on one scale.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pipeline.core import files, params, tensors
from pipeline.core.batches import in_batches
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split
from pipeline.evaluation import classifier, label_free, trunk
from pipeline.evaluation.metrics import fid
from pipeline.evaluation.protocol import Kind, judge_facts

BATCH = 250
"""Images that are looked at together, with a padded tail: their number decides the last bits."""
NETWORKS: dict[Kind, type[classifier.Classifier | label_free.Encoder]] = {
    "classifier": classifier.Classifier,
    "label_free": label_free.Encoder,
}
MADE_BY: dict[Kind, ModuleType] = {"classifier": classifier, "label_free": label_free}
Net = classifier.Classifier | label_free.Encoder


@torch.no_grad()
def embed(
    net: Net, images: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray | None]:
    """Unscaled features float32 [N, d] of uint8 images [N, C, H, W], and their labels int64 [N].

    There are no labels from a network that knows none.
    """
    features, predictions = [], []
    for index, real in in_batches(len(images), BATCH):
        batch = to_signed(torch.from_numpy(images[index.numpy()]).to(device))
        found = net.features(batch)
        features.append(found[:real].cpu())
        if isinstance(net, classifier.Classifier):
            predictions.append(net.head(found)[:real].argmax(dim=1).cpu())
    return torch.cat(features).numpy(), torch.cat(predictions).numpy() if predictions else None


class Judge:
    """One trained network with its feature scale."""

    def __init__(self, net: Net, scale: float, device: torch.device) -> None:
        self.net, self.scale, self.device = net, scale, device

    def look(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Scaled features float64 [N, d] and the predicted labels int64 [N], if it knows labels."""
        features, predictions = embed(self.net, images, self.device)
        return features.astype(np.float64) * self.scale, predictions


@dataclass(frozen=True)
class Judges:
    """All judges of a data set.

    Attributes:
        headline: whose features carry FID, and all that is measured on features.
        second: those of the other kind, for a second opinion; none where one kind is all there is.
    """

    headline: Sequence[Judge]
    second: Sequence[Judge] = ()


@dataclass(frozen=True)
class Seen:
    """What all judges see of a set of images; metrics are functions of these arrays.

    Attributes:
        images: uint8 [N, C, H, W].
        features: of each judge that carries the headline, float64 [N, d], scaled.
        predictions: of each judge that knows labels, the class that it takes each image for, int64
            [N]; none if none does.
        second: features of each judge of the other kind, if there are such.
    """

    images: np.ndarray
    features: tuple[np.ndarray, ...]
    predictions: tuple[np.ndarray, ...]
    second: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> "Seen":
        """The same of some of the images."""
        return Seen(
            np.asarray(self.images[index]),
            tuple(each[index] for each in self.features),
            tuple(each[index] for each in self.predictions),
            tuple(each[index] for each in self.second),
        )

    def by_second(self) -> "Seen":
        """The same with the judges of the other kind in place of those of the headline."""
        return replace(self, features=self.second, second=())


def see(judges: Judges, images: np.ndarray) -> Seen:
    """Show uint8 images [N, C, H, W] to every judge, once, in batches of `BATCH`."""
    first, other = (
        [each.look(images) for each in kind] for kind in (judges.headline, judges.second)
    )
    return Seen(
        images,
        tuple(features for features, _ in first),
        tuple(predictions for _, predictions in (*first, *other) if predictions is not None),
        tuple(features for features, _ in other),
    )


def recipe(judge: params.Judge, kind: Kind) -> str:
    """Hash of what makes the judges: the code of it and their parameters, not their weights.

    Weights differ between processors, which makes no other judges of them. Of the code the
    definitions count that decide what a judge is, and the numbers that they take from their
    modules; and of the parameters, those of this kind.
    """
    modules = (trunk, MADE_BY[kind])
    made_by = [each for module in modules for each in module.RECIPE]
    code = {each.__name__: inspect.getsource(each) for each in (*made_by, embed, facts)}
    constants = {name: getattr(module, name) for module in modules for name in module.CONSTANTS}
    parameters = judge.model_dump(include={"seeds", "batch", "features", kind})
    return files.sha256_of({"code": code, "constants": constants, "params": parameters})


def facts(
    net: Net, kind: Kind, seed: int, train: Split, test: Split, device: torch.device
) -> dict[str, Any]:
    """Seed, feature scale and accuracy of one judge.

    The accuracy is the share of the test images whose label it names, or, of a judge without
    labels, a linear probe on its features; None if there is but one class.

    Raises:
        PipelineError: if the features do not vary, so that no scale exists.
    """
    features, _ = embed(net, train.images, device)
    spread = float(np.trace(fid.moments(features).covariance))
    if spread <= 0:
        raise PipelineError(
            f"judge {seed}: its features are constant; change judge.{kind}.learning_rate"
        )
    found, predictions = embed(net, test.images, device)
    if predictions is None and len(np.unique(train.labels)) > 1:
        predictions = _probe(features, train.labels, found)
    right = None if predictions is None else float((predictions == test.labels).mean())
    return {"seed": seed, "scale": math.sqrt(features.shape[1] / spread), "accuracy": right}


def _probe(features: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """What a logistic regression on some features takes unseen ones for."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return model.fit(features, labels).predict(unseen)


@dataclass(frozen=True)
class Trained:
    """Judges of one kind, as they come from training.

    Attributes:
        kind: which.
        nets: the networks, by seed.
        facts: what `facts` says of each.
    """

    kind: Kind
    nets: Mapping[int, Net]
    facts: Sequence[dict[str, Any]]


def save(folder: Path, kinds: Sequence[Trained], judge: params.Judge, why: str = "") -> None:
    """Write the networks and ``judge.json``, whole or not at all.

    Args:
        folder: where.
        kinds: one or two, that of the headline first.
        judge: the section of params.yaml.
        why: in words, why that one carries the headline.
    """
    with files.replacing_folder(folder) as temporary:
        for each in kinds:
            for seed, net in each.nets.items():
                tensors.save(temporary / _name(each.kind, seed), net.state_dict())
        content = [
            {"kind": each.kind, "recipe": recipe(judge, each.kind), "judges": list(each.facts)}
            for each in kinds
        ]
        files.write_json(
            temporary / "judge.json", {"features": judge.features, "why": why, "kinds": content}
        )


def _name(kind: Kind, seed: int) -> str:
    return f"{kind}-{seed}.safetensors"


def load(folder: Path, spec: ImageSpec, device: torch.device) -> Judges:
    """Load what `save` wrote.

    Raises:
        PipelineError: if something is missing, damaged, or made for other images.
    """
    found = judge_facts(folder)
    remedy = f"delete {folder}, and the next run restores it or trains again"

    def judges(kind: Kind, each: dict[str, Any]) -> Judge:
        file = folder / _name(kind, each["seed"])
        net = NETWORKS[kind](spec, found["features"])
        try:
            state, _ = tensors.load(file, remedy)
            net.load_state_dict(state)
        except FileNotFoundError:
            raise PipelineError(f"{file}: no such file; {remedy}") from None
        except RuntimeError:
            raise PipelineError(f"{file}: does not fit these images; {remedy}") from None
        net = net.eval().to(device=device, memory_format=torch.channels_last)
        return Judge(net, each["scale"], device)

    return Judges(
        *(
            tuple(judges(of_kind["kind"], each) for each in of_kind["judges"])
            for of_kind in found["kinds"]
        )
    )
