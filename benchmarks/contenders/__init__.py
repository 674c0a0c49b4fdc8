"""Who is compared by `benchmarks.peers`: what people would otherwise use, and models of ours.

Each is a module here whose class ``Training`` is a `Training`. A peer is trained and sampled as its
own documentation does it, by its own code; batches come from a plain loader over images that are
floats in memory already, which costs it less than reading and converting them would.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Protocol

import numpy as np

KINDS = ("VAE", "GAN", "diffusion and flows")
"""What is compared with what."""
DRAWN_AT_ONCE = 25
"""Samples that peers draw together, at most: more of them take longer each."""
EVALUATIONS = 20
"""Of a peer's network for one sample, where it denoises or integrates."""


class Training(Protocol):
    """One training of a contender; it begins at the first call of `train`.

    Made of images uint8 [N, C, H, W], a seed, the name of the contender, and how many images it
    will see: only those need to know whose schedule ends with the training, and others go on for
    ever.
    """

    parameters: int
    """Trained ones, of all networks."""
    network_evaluations: int
    """For one sample, one after the other."""

    def train(self, stepped: Callable[[float], None]) -> None:
        """Train to the end, or until ``stepped`` raises.

        It is told after each step how many images that saw, and may `draw`.
        """
        ...

    def draw(self, n: int) -> np.ndarray:
        """n samples, uint8 [n, C, H, W]."""
        ...


@dataclass(frozen=True)
class Contender:
    """What is known of a contender without its package.

    Attributes:
        name: what it is called in results.
        title: what it is called for people.
        kind: of `KINDS`.
        module: in this folder.
        settings: what it was trained with, and who says so.
        package: whose code it is, if not torch's or ours.
        ours: whether it is a model of params.yaml.
        scheduled: whether its learning rate, or what follows the last step, depends on how long
            it is trained: it is trained once for each length, where others are interrupted.
    """

    name: str
    title: str
    kind: str
    module: str
    settings: str
    package: str | None = None
    ours: bool = False
    scheduled: bool = False

    @property
    def version(self) -> str | None:
        """Of its package, if that is installed."""
        try:
            return metadata.version(self.package) if self.package else None
        except metadata.PackageNotFoundError:
            return None

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and self.version is None

    def load(self) -> type[Training]:
        """Its class; this imports its package."""
        return importlib.import_module(f"{__name__}.{self.module}").Training


def _ours(name: str, kind: str) -> Contender:
    return Contender(name, f"ours: {name}", kind, "ours", "params.yaml", ours=True, scheduled=True)


KNOWN = {
    each.name: each
    for each in (
        _ours("vae", "VAE"),
        Contender(
            "pythae-vae",
            "pythae: VAE",
            "VAE",
            "pythae_vae",
            "the networks and the trainer that it takes by default and the 16 latent dimensions of "
            "its scripts for MNIST, at 0.002, twice their rate, which came further in 15 seconds",
            package="pythae",
        ),
        _ours("dcgan", "GAN"),
        Contender(
            "dcgan-loop",
            "DCGAN, a plain loop",
            "GAN",
            "dcgan_loop",
            "batches and noise of PyTorch's example, whose networks begin at 7x7 for these images; "
            "half its width and five times its rate, 0.001, came further in 20 seconds",
        ),
        _ours("ddpm", "diffusion and flows"),
        Contender(
            "denoising-diffusion",
            "denoising-diffusion-pytorch",
            "diffusion and flows",
            "denoising_diffusion",
            "the optimiser, average and batch of its trainer, without mirrored images; a width of "
            "16 came further in 20 seconds than 32, and 0.002, which stands for its rate, 0.0001, "
            "than 0.001",
            package="denoising-diffusion-pytorch",
        ),
        Contender(
            "diffusers-unet",
            "diffusers: UNet2D + DDIM",
            "diffusion and flows",
            "diffusers_unet",
            "the blocks and the rate, 0.001, of Hugging Face's course for MNIST; half its widths "
            "came further in 20 seconds, and so do batches of 16 in place of 128",
            package="diffusers",
        ),
        Contender(
            "torchcfm-unet",
            "torchcfm: OT flow",
            "diffusion and flows",
            "torchcfm_unet",
            "the U-Net, matcher and optimiser of its example on MNIST, in batches of 16 in place "
            "of 128, at 0.002, twice its rate, which came further in 20 seconds; Euler steps",
            package="torchcfm",
        ),
    )
}
"""All of them, by name."""
