"""The features of Inception, for `pipeline.evaluation.outside`, for those who have its weights.

Everybody else's FIDs are of these features, so here are figures to set beside them. The network is
torch-fidelity's, which is bit for bit the one of TensorFlow that the papers used. Its weights are
no part of any package: the file is named, and pinned by its hash, in params.yaml.
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError

KEY = "evaluate.inception.weights"
FEATURES = "2048"


class Inception:
    """What `pipeline.evaluation.outside` asks of a network."""

    name = "inception"
    title = "Inception"
    size = int(FEATURES)

    def __init__(self, section: params.Inception) -> None:
        self.path, self.sha256 = Path(section.weights), section.sha256

    def check(self) -> None:
        """See `outside.Network.check`."""
        named = f"{paths.PARAMS}: {KEY} = {params.shown(str(self.path))}"
        try:
            found = files.sha256(self.path) if self.path.is_file() else None
        except (OSError, ValueError) as error:
            raise PipelineError(f"{named}: cannot be read ({error})") from None
        if found is None:
            raise PipelineError(f"{named}: no such file")
        if found != self.sha256:
            raise PipelineError(
                f"{paths.PARAMS}: evaluate.inception.sha256 is {self.sha256[:16]}..., but "
                f"{self.path} has {found}"
            )

    def network(self) -> nn.Module:
        """See `outside.Network.network`."""
        return Features(load(self.path))


class Features(nn.Module):
    """torch-fidelity's network without what it wraps its answer in."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] to float32 [N, 2048]."""
        return self.net(images)[0]


def load(weights: Path) -> nn.Module:
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
