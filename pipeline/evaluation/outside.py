"""FID and KID on the features of networks from outside, for those who ask for them.

Such a network was trained on other images than these, and is the same for every data set: an
opinion that the judges have no part in. Its columns bear its name and are never mixed with the
judges'. There are two:

- Inception (`pipeline.evaluation.inception`), of which everybody else's FIDs are, for those who
  have its weights;
- EfficientNet-Lite0 (`pipeline.evaluation.imagenet`), whose weights a pip package brings.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from pipeline.core import arrays, files, params, paths
from pipeline.core.progress import Progress
from pipeline.evaluation.imagenet import Lite0
from pipeline.evaluation.inception import Inception
from pipeline.evaluation.metrics import fid, kid

BATCH = 50
GREY = "grey images, of which {} never saw any"
FEW = "fewer images than features, so FID is far too high"


class Network(Protocol):
    """A network from outside.

    Attributes:
        name: begins its columns.
        title: what people call it.
        size: how many features it has.
        sha256: of its weights.
    """

    name: str
    title: str
    size: int
    sha256: str

    def check(self) -> None:
        """Refuse what `network` would refuse for its place or hash alone.

        Raises:
            PipelineError: if the weights are not there, or are others.
        """
        ...

    def network(self) -> nn.Module:
        """From uint8 images [N, 3, H, W] to features float32 [N, size].

        Raises:
            PipelineError: as `check`, or if it cannot be built of them.
        """
        ...


def asked_for(section: params.Evaluate) -> list[Network]:
    """The networks that the parameters want."""
    found: list[Network] = []
    if section.inception.weights:
        found.append(Inception(section.inception))
    if section.imagenet:
        found.append(Lite0())
    return found


def keys(name: str) -> tuple[str, ...]:
    """What `measure` reports of the network of that name.

    - ``<name>_fid``, not clamped, and ``<name>_kid``, over all pairs;
    - ``<name>_fid_real`` and ``<name>_kid_real``: what as many training images have;
    - ``<name>_sha256``: of the weights;
    - ``<name>_warnings``: why the numbers mislead, if they do.
    """
    measured = ("fid", "fid_real", "kid", "kid_real", "sha256", "warnings")
    return tuple(f"{name}_{each}" for each in measured)


def measure(
    section: params.Evaluate,
    samples: np.ndarray | None,
    reference: np.ndarray,
    training: np.ndarray,
    device: torch.device,
) -> dict[str, Any]:
    """Samples against as many reference images on each network's features, by `keys`.

    Args:
        section: says which networks; without any, the answer is empty.
        samples: uint8 images [N, C, H, W], or None for a model that draws none.
        reference: as many real ones.
        training: real images for the floor.
        device: where the networks run.

    Raises:
        PipelineError: if weights are not there, not those that were pinned, or none.
    """
    if samples is None:
        return {}
    return dict(
        pair
        for network in asked_for(section)
        for pair in _measured(network, samples, reference, training, device)
    )


def _measured(
    network: Network,
    samples: np.ndarray,
    reference: np.ndarray,
    training: np.ndarray,
    device: torch.device,
) -> Iterator[tuple[str, Any]]:
    embed = Embedder(network, device)
    real = embed(reference)
    floor, drawn = embed(np.array(training[: len(reference)])), embed(samples)
    warnings = [GREY.format(network.title)] if samples.shape[1] == 1 else []
    if len(samples) <= network.size:
        warnings.append(FEW)
    values = (
        fid.frechet_distance(fid.moments(drawn), fid.moments(real)),
        fid.frechet_distance(fid.moments(floor), fid.moments(real)),
        kid.kernel_distance(drawn, real),
        kid.kernel_distance(floor, real),
        network.sha256[:16],
        "; ".join(warnings) or None,
    )
    yield from zip(keys(network.name), values, strict=True)


class Embedder:
    """uint8 images [N, 1 or 3, H, W] to features float64 [N, size], remembered below work/."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.device = network, device
        self._net: nn.Module | None = None
        network.check()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        content = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
        name = files.sha256_of([self.network.sha256, list(images.shape), content])
        folder = paths.FEATURES / name[:32]
        try:
            shape = (len(images), self.network.size)
            return np.array(arrays.load(folder, "features", "", shape))
        except files.Unreadable:  # nothing was remembered, or it is damaged
            found = self._features(images)
        with files.replacing_folder(folder) as temporary:
            arrays.save(temporary, {"features": found})
        return found

    @torch.no_grad()
    def _features(self, images: np.ndarray) -> np.ndarray:
        if self._net is None:
            self._net = self.network.network().to(self.device)
        colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
        found = []
        with Progress(self.network.title, len(images)) as progress:
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(colour[start : start + BATCH].copy()).to(self.device)
                found.append(self._net(batch).double().cpu().numpy())
                progress.advance(len(batch))
        return np.concatenate(found)
