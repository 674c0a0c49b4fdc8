"""Small models and images for tests."""

from typing import Any

import torch
from torch import Tensor

from pipeline import families, params, weights
from pipeline.family import Family, ImageSpec
from pipeline.training import Trainer

SMALL = ImageSpec(channels=1, height=8, width=8, classes=10)
COLOUR = ImageSpec(channels=3, height=8, width=8, classes=10)

TINY: dict[str, dict[str, Any]] = {
    "vae": {"latent": 3, "channels": 4, "hidden": 8, "mixtures": 2},
    "gan": {"latent": 4, "channels": 4},
    "pixelcnn": {"channels": 4, "layers": 2, "hidden": 8},
    "ddpm": {"channels": 8, "time_features": 8, "steps": 20},
}
"""Networks that train in milliseconds; a family that is not listed has its own defaults."""


def tiny_params(family: str, **blocks: dict[str, Any] | None) -> params.ModelParams:
    """Hyperparameters of a small model; ``network={...}`` and so on override single values.

    A block given as None is absent, as for a stage that does not depend on it.
    """
    chosen = families.load(family)
    defaults: dict[str, dict[str, Any]] = {
        "network": TINY.get(family, {}),
        "training": {"images": 64, "batch": 8},
        "sampling": {},
        "scoring": {},
    }
    made = {
        name: None
        if name in blocks and blocks[name] is None
        else getattr(chosen, name.capitalize())(**{**values, **(blocks.get(name) or {})})
        for name, values in defaults.items()
    }
    return params.ModelParams(name=f"tiny_{family}", family=family, **made)


def tiny_model(
    family: str,
    spec: ImageSpec = SMALL,
    *,
    seed: int = 0,
    device: str = "cpu",
    **blocks: dict[str, Any] | None,
) -> Family:
    """A small model with initial weights; see `tiny_params` for the blocks."""
    return weights.build(tiny_params(family, **blocks), spec, seed, torch.device(device))


def some_images(n: int, spec: ImageSpec = SMALL, seed: int = 0) -> Tensor:
    """Random uint8 images [n, C, H, W]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, *spec.shape), generator=rng, dtype=torch.uint8)


def some_labels(n: int, spec: ImageSpec = SMALL) -> Tensor:
    """Labels int64 [n] that take every class in turn."""
    return torch.arange(n) % spec.classes


def trainer(family: Family, *, steps: int, n: int = 32, **options: Any) -> Trainer:
    """A trainer of ``family`` on n random images, seed 0."""
    images, labels = some_images(n, family.spec), some_labels(n, family.spec)
    return Trainer(family, images, labels, seed=0, steps=steps, **options)


def trained(family: Family, steps: int = 3) -> Family:
    """``family`` after a few steps, in eval mode."""
    trainer(family, steps=steps).run()
    return family
