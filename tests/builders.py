"""Small models and images for tests."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import families
from pipeline.blocks import muon
from pipeline.core import params
from pipeline.core.contract import Batch, Family, Group, Likelihood, TrainingParams
from pipeline.core.images import ImageSpec
from pipeline.models import weights
from pipeline.training.trainer import Trainer

MODELS = params.model_blocks(params.read(Path(__file__).parents[1] / "params.yaml"))
"""The models of params.yaml, unvalidated."""

SMALL = ImageSpec(channels=1, height=8, width=8, classes=10)
COLOUR = ImageSpec(channels=3, height=8, width=8, classes=10)

muon.SMALLEST = 4
"""Tiny networks have matrices too, which are made orthogonal."""

FACTS = {"family": "some", "parameters": 1, "images_seen": 0}
"""What the description of a trained model must have."""

TINY: dict[str, dict[str, Any]] = {
    "vae": {"latent": 3, "channels": 4, "hidden": 8, "mixtures": 2},
    "ae": {"latent": 3, "channels": 4, "components": 2},
    "began": {"latent": 4, "channels": 4},
    "gan": {"latent": 4, "channels": 4},
    "cyclegan": {"channels": 4, "blocks": 1, "critic_channels": 4, "pool": 12},
    "wgan": {"latent": 4, "channels": 4},
    "pixelcnn": {"channels": 4, "layers": 2, "hidden": 8},
    "lstm": {"channels": 4, "layers": 1, "hidden": 8, "state": 8},
    "gpt": {
        "channels": 4,
        "layers": 1,
        "hidden": 8,
        "width": 8,
        "blocks": 2,
        "attention_heads": 2,
    },
    "ddpm": {"channels": 8, "time_features": 8, "steps": 20},
    "flow_matching": {"channels": 8, "time_features": 8},
    "vqvae": {
        "codes": 12,
        "code_width": 3,
        "halvings": 1,
        "channels": 4,
        "residual": 1,
        "mixtures": 2,
        "width": 8,
        "blocks": 2,
        "attention_heads": 2,
    },
    "flow": {"channels": 4, "small_channels": 8, "layers": 1, "mixtures": 2},
    "vdm": {"channels": 8, "time_features": 8, "gaussians": 2, "head": 4},
}
"""Networks that train in milliseconds; a family that is not listed has its own defaults."""

TINY_TRAINING: dict[str, dict[str, Any]] = {
    "began": {"alone": 8},
    "vqvae": {"autoencoder": 8},
}
"""What a training of a few steps needs."""


def tiny_params(name: str, **blocks: dict[str, Any] | None) -> params.ModelParams:
    """Hyperparameters of a small model; ``network={...}`` and so on override single values.

    ``name`` is a family, or ``models.<model>`` for that model of params.yaml made small. A block
    given as None is absent, as for a stage that does not depend on it.
    """
    prefix, _, model = name.rpartition(".")
    entry = MODELS[model] if prefix else {"family": name}
    family = entry["family"]
    chosen = families.load(family)
    small: dict[str, dict[str, Any]] = {
        "network": TINY.get(family, {}),
        "training": {"images": 64, "batch": 8, **TINY_TRAINING.get(family, {})},
        "sampling": {},
        "scoring": {},
    }
    made = {
        block: None
        if block in blocks and blocks[block] is None
        else getattr(chosen, block.capitalize())(
            **{**entry.get(block, {}), **values, **(blocks.get(block) or {})}
        )
        for block, values in small.items()
    }
    return params.ModelParams(name=f"tiny_{model}", family=family, data=chosen.data, **made)


def tiny_model(
    name: str,
    spec: ImageSpec = SMALL,
    *,
    seed: int = 0,
    device: str = "cpu",
    **blocks: dict[str, Any] | None,
) -> Family:
    """A small model with initial weights; see `tiny_params` for its name and blocks."""
    return weights.build(tiny_params(name, **blocks), spec, seed, torch.device(device))


def skip_if_unsupported(name: str, device: str = "cpu", **blocks: dict[str, Any] | None) -> None:
    """Skip a test of a model that this device cannot train, for the reason that `check` gives."""
    chosen = tiny_params(name, **blocks)
    reason = families.load(chosen.family).unsupported(chosen, torch.device(device))
    if reason:
        pytest.skip(reason)


def some_images(n: int, spec: ImageSpec = SMALL, seed: int = 0) -> Tensor:
    """Random uint8 images [n, C, H, W]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, *spec.shape), generator=rng, dtype=torch.uint8)


def some_labels(n: int, spec: ImageSpec = SMALL) -> Tensor:
    """Labels int64 [n] that take every class in turn."""
    return torch.arange(n) % spec.classes


def some_batch(family: Family, n: int = 8) -> Batch:
    """Random images and labels as ``family`` is trained on."""
    others = some_images(n, family.spec, seed=1) if family.data == "domains" else None
    return Batch(some_images(n, family.spec), some_labels(n, family.spec), others)


def trainer(family: Family, *, steps: int, n: int = 32, **options: Any) -> Trainer:
    """A trainer of ``family`` on n random images, seed 0."""
    batch = some_batch(family, n)
    return Trainer(
        family, batch.images, batch.labels, others=batch.others, seed=0, steps=steps, **options
    )


def trained(family: Family, steps: int = 3) -> Family:
    """``family`` after a few steps, in eval mode."""
    trainer(family, steps=steps).run()
    return family


def sampled(family: Family, seeds: Tensor) -> Tensor:
    """A sample for each seed; a conditional family draws the classes by the seeds' last digits."""
    return family.sample(seeds, _told(family, seeds))


def scored(family: Family, images: Tensor, seeds: Tensor) -> Likelihood:
    """Likelihoods of images; a conditional family is given labels as `sampled` does."""
    return family.log_likelihood(images, _told(family, seeds), seeds)


def _told(family: Family, seeds: Tensor) -> Tensor | None:
    return (seeds % family.spec.classes).to(family.device) if family.conditional else None


class Mute(Family):
    """A family that can do nothing."""

    def __init__(self) -> None:
        super().__init__(SMALL, None)
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = []

    def groups(self) -> dict[str, Group]:
        return {}

    def training_step(self, batch, update, rng) -> dict[str, Tensor]:
        return {}


class Painting(Mute):
    """Images of the colour of their seed."""

    def sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        self.calls.append(len(seeds))
        return (seeds % 256).to(torch.uint8)[:, None, None, None].expand(-1, *SMALL.shape)


class Stub(Family):
    """A weight vector whose loss each test chooses."""

    def __init__(self, *, precision="fp32", loss=None, terms=None, **group) -> None:
        chosen = tiny_params("vae", network=None)
        block = TrainingParams(images=64, batch=8, precision=precision)
        super().__init__(SMALL, chosen.model_copy(update={"training": block}))
        self.weight = nn.Parameter(torch.ones(4))
        self.loss = loss or (lambda weight: weight.sum())
        self.terms = terms or {}
        self.group = group
        self.seen = []

    def groups(self) -> dict[str, Group]:
        return {"model": Group([self.weight], lambda p: torch.optim.SGD(p, lr=1.0), **self.group)}

    def training_step(self, batch, update, rng) -> dict[str, Tensor]:
        self.seen.append((batch, torch.rand(1, generator=rng).item(), torch.rand(1).item()))
        update("model", self.loss(self.weight))
        return {"model/loss": torch.zeros(()), **self.terms}


def assert_same_training(one: Trainer, other: Trainer) -> None:
    """Two trainings left the same, to the last bit: weights, averages, curve and facts."""
    assert one.step == other.step
    assert one.facts() == other.facts()
    assert one.history.to_csv() == other.history.to_csv()
    first, second = _left(one), _left(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def _left(trained: Trainer) -> dict[str, Tensor]:
    found = dict(trained.family.state_dict())
    for name, average in trained.averages.items():
        found |= {f"{name}/{i}": shadow for i, shadow in enumerate(average.shadow)}
    return found
