"""FID and KID on the features of Inception, for those who have its weights.

Everybody else's FIDs are of these features, so here are figures to set beside them, under keys of
their own: they are never mixed with the judges'. The network is torch-fidelity's, which is bit for
bit the one of TensorFlow that the papers used. Its weights are no part of any package: the file is
named, and pinned by its hash, in params.yaml.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.core import arrays, files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.progress import Progress
from pipeline.evaluation.metrics import fid, kid

KEY = "evaluate.inception.weights"
FEATURES = "2048"
BATCH = 50
GREY = "grey images, of which Inception never saw any"
FEW = "fewer images than features, so FID is far too high"


def measure(
    inception: params.Inception,
    samples: np.ndarray | None,
    reference: np.ndarray,
    training: np.ndarray,
    device: torch.device,
) -> dict[str, Any]:
    """Samples against as many reference images on Inception's features; empty without a file.

    - ``inception_fid``, not clamped, and ``inception_kid``, over all pairs;
    - ``inception_fid_real`` and ``inception_kid_real``: what as many training images have;
    - ``inception_sha256``: of the weights;
    - ``inception_warnings``: why the numbers mislead, if they do.

    Args:
        inception: the file and its hash.
        samples: uint8 images [N, C, H, W], or None for a model that draws none.
        reference: as many real ones.
        training: real images for the floor.
        device: where the network runs.

    Raises:
        PipelineError: if the file is not there, not the one that was pinned, or no such weights.
    """
    if not inception.weights or samples is None:
        return {}
    embed = Embedder(inception, device)
    real = embed(reference)
    floor, drawn = embed(np.array(training[: len(reference)])), embed(samples)
    warnings = [GREY] if samples.shape[1] == 1 else []
    if len(samples) <= int(FEATURES):
        warnings.append(FEW)
    return {
        "inception_fid": fid.frechet_distance(fid.moments(drawn), fid.moments(real)),
        "inception_fid_real": fid.frechet_distance(fid.moments(floor), fid.moments(real)),
        "inception_kid": kid.kernel_distance(drawn, real),
        "inception_kid_real": kid.kernel_distance(floor, real),
        "inception_sha256": inception.sha256[:16],
        "inception_warnings": "; ".join(warnings) or None,
    }


class Embedder:
    """uint8 images [N, 1 or 3, H, W] to features float64 [N, 2048], remembered below work/."""

    def __init__(self, inception: params.Inception, device: torch.device) -> None:
        self.inception, self.device = inception, device
        self._net: nn.Module | None = None
        _check(inception)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        content = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
        name = files.sha256_of([self.inception.sha256, list(images.shape), content])
        folder = paths.INCEPTION / name[:32]
        try:
            return np.array(arrays.load(folder, "features", "", (len(images), int(FEATURES))))
        except files.Unreadable:  # nothing was remembered, or it is damaged
            found = self._features(images)
        with files.replacing_folder(folder) as temporary:
            arrays.save(temporary, {"features": found})
        return found

    @torch.no_grad()
    def _features(self, images: np.ndarray) -> np.ndarray:
        if self._net is None:
            self._net = network(Path(self.inception.weights)).to(self.device)
        colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
        found = []
        with Progress("Inception", len(images)) as progress:
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(colour[start : start + BATCH].copy()).to(self.device)
                found.append(self._net(batch)[0].double().cpu().numpy())
                progress.advance(len(batch))
        return np.concatenate(found)


def network(weights: Path) -> nn.Module:
    """torch-fidelity's Inception with the weights of a file, which is read without pickle.

    Raises:
        PipelineError: if torch-fidelity is missing, or the file holds anything else.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise PipelineError(
            f"{paths.PARAMS}: {KEY}: needs a package that is not installed; "
            "pip install torch-fidelity"
        ) from None
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(f"{weights}: not a file of weights ({reason})") from None
    # The class unpickles without restraint, so it is given what was read with restraint.
    with tempfile.TemporaryDirectory() as folder:
        safe = Path(folder) / "weights.pth"
        torch.save(state, safe)
        try:
            net = FeatureExtractorInceptionV3(
                "inception", [FEATURES], feature_extractor_weights_path=str(safe)
            )
        except (RuntimeError, AttributeError, TypeError):
            raise PipelineError(
                f"{weights}: not the weights of torch-fidelity's Inception "
                "(weights-inception-2015-12-05-*.pth)"
            ) from None
    return net.eval()


def _check(inception: params.Inception) -> None:
    path = Path(inception.weights)
    if not path.is_file():
        raise PipelineError(f"{paths.PARAMS}: {KEY} = {inception.weights!r}: no such file")
    found = files.sha256(path)
    if found != inception.sha256:
        raise PipelineError(
            f"{paths.PARAMS}: evaluate.inception.sha256 is {inception.sha256[:16]}..., but "
            f"{path} has {found}"
        )
