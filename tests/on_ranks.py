"""What tests have several ranks do (`ranked`), and one process alone."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import COLOUR, MODELS, some_images, some_labels, tiny_model, trainer
from torch import Tensor, nn

from pipeline.blocks import global_batch
from pipeline.core import collectives, ranks, startup
from pipeline.core.images import ImageSpec
from pipeline.evaluation import likelihood, reconstruction
from pipeline.sampling import drawing
from pipeline.training import checkpoints
from pipeline.training.trainer import Trainer

SPEC = ImageSpec(channels=1, height=16, width=16, classes=10)
"""Large enough for discriminators to have BatchNorm."""
STEPS = 5
KINDS = (
    *("ae", "cvae", "gpt", "ddpm", "vdm", "gan", "dcgan", "wgan_gp", "began", "cyclegan", "vqvae"),
)
"""A model of each kind: a fit after training, labels, no noise, a range of times, two kinds of row,
dropout, BatchNorm in both players, a penalty on gradients, a buffer steered by errors, pools of
images, a codebook that starts anew at points of the batch."""
CHANGES: dict[str, Any] = {"augment": "colour,translation,cutout"}
AUGMENTED: dict[str, Any] = {
    "dcgan": {**CHANGES, "augment_target": 0.6, "augment_images": 100},
    "cyclegan": CHANGES,
}
"""Models whose discriminators are shown changed images as well."""
DRAWN, BATCH = 11, 4
"""Images, in three batches of which the last one is padded."""


CLOSE = 1e-11
"""In float64, between sums in another order."""


def float64() -> None:
    """Have this process compute in float64, in which orders of summation hardly matter."""
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)


def trainings(device: torch.device, models: tuple[str, ...] = KINDS) -> dict[str, dict]:
    """Models after a few steps in float64: all that a checkpoint holds, and what is told."""
    float64()
    found = {}
    for name in models:
        made = _made(name, device=str(device))
        made.run()
        state, scalars = checkpoints.take(made)
        found[name] = {"state": state, "rows": scalars["rows"], "facts": made.facts()}
    return found


def all_trainings(device: torch.device) -> dict[str, dict]:
    """`trainings` of every model of params.yaml, and of those in `AUGMENTED`."""
    return trainings(device, (*MODELS, *(f"{name}-augmented" for name in AUGMENTED)))


def resumed(device: torch.device) -> dict[str, dict[str, dict]]:
    """What trainings leave: whole ones, and others that went on from a checkpoint of rank 0's.

    ``damaged`` found one that nobody can read; ``alone`` is what one process reads in the other.
    """
    found = {}
    for name in ("vae", "dcgan", "began", "cyclegan", "vqvae"):
        path = Path(f"{os.environ[startup.LAUNCHED]}-{name}.ckpt")
        made = {"whole": _made(name)}
        made["whole"].run()
        first = _made(name)
        first.run(stop_at=STEPS - 2)
        for kind in ("resumed", "damaged"):
            if ranks.first() and kind == "resumed":
                first.save(path)
            elif ranks.first():
                path.write_bytes(path.read_bytes()[:-1])
            collectives.told(0)  # it is there now
            made[kind] = _made(name, checkpoint=path, checkpoint_seconds=1e9)
            if kind == "resumed":
                with ranks.alone():
                    made["alone"] = _made(name)
                    made["alone"].load(path)
                assert torch.equal(*(_weights(each) for each in (made["alone"], first)))
            made[kind].run()
        found[name] = {key: checkpoints.take(each)[0] for key, each in made.items()}
        found[name]["steps"] = {key: each.step for key, each in made.items()}
    return found


def _made(name: str, *, device: str = "cpu", **options: Any) -> Trainer:
    """A training of a model, or of one that sees changed images: its name and ``-augmented``."""
    model, _, changed = name.partition("-")
    blocks: dict[str, Any] = {"training": AUGMENTED[model]} if changed else {}
    family = tiny_model(f"models.{model}", SPEC, device=device, **blocks)
    return trainer(family, steps=STEPS, flips=bool(changed), **options)


def _weights(made: Trainer) -> Tensor:
    return torch.cat([each.detach().flatten() for each in made.family.parameters()])


def inverted(device: torch.device) -> dict:
    """What a model without an encoder finds, which takes seconds."""
    model = tiny_model("models.dcgan", COLOUR, device=str(device)).eval()
    images, labels = some_images(DRAWN, COLOUR).numpy(), some_labels(DRAWN, COLOUR).numpy()
    return reconstruction.invert(model, images, labels, seed=0, batch=BATCH)


def used(device: torch.device) -> dict[str, dict]:
    """What each model draws, translates and scores, in float32."""
    found = {}
    for name in MODELS:
        model = tiny_model(f"models.{name}", COLOUR, device=str(device))
        _fit(model)
        found[name] = _used(model.eval())
    return found


def _fit(model: nn.Module) -> None:
    """Leave weights as training would: none is 0, and densities of codes are there."""
    rng = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        parameter.data += 0.05 * noise.to(parameter.device)
    for module in model.modules():
        if hasattr(module, "fitted"):
            module.fitted.fill_(True)


def _used(model: nn.Module) -> dict:
    images, labels = some_images(DRAWN, COLOUR).numpy(), some_labels(DRAWN, COLOUR).numpy()
    shares = np.full(COLOUR.classes, 1 / COLOUR.classes)
    if model.data == "domains":
        return {
            direction: torch.from_numpy(drawing.translate(model, images, direction, BATCH))
            for direction in ("ab", "ba")
        }
    told = labels if model.conditional else None
    drawn = drawing.draw(model, DRAWN, seed=0, batch=BATCH, labels=told)
    found: dict = {"samples": torch.from_numpy(drawn)}
    scored, nats = likelihood.measure(model, images, labels, shares, seed=0, batch=BATCH)
    found |= {"scored": scored, "own": reconstruction.own_errors(model, images, labels, BATCH)}
    found["usage"] = reconstruction.code_usage(model, images, labels, BATCH)
    found["nats"] = None if nats is None else torch.from_numpy(nats)
    found["decoded"] = reconstruction.measure(model, images, labels, BATCH)
    return found


def normalised(device: torch.device) -> dict[str, Tensor]:
    """BatchNorm in float64: results, running statistics, gradients, and gradients of gradients.

    Of this rank's rows; gradients of weights are sums over them.
    """
    float64()
    found = {}
    for name, shape, layer in (
        ("1d", (12, 3), nn.BatchNorm1d(3)),
        ("2d", (12, 3, 5, 4), nn.BatchNorm2d(3, momentum=None)),
        ("2d, plain", (12, 3, 5, 4), nn.BatchNorm2d(3, affine=False)),
    ):
        if ranks.size() > 1:
            global_batch.share(layer)
        rng = torch.Generator().manual_seed(0)
        x, wanted = (torch.randn(shape, generator=rng).to(device) for _ in range(2))
        x = ranks.rows(3 + x * torch.arange(1.0, 13, device=device).view(-1, *[1] * x[0].dim()))
        x.requires_grad_()
        layer.to(device)
        for _ in range(2):
            y = layer(x)
        (first,) = torch.autograd.grad((y * ranks.rows(wanted)).sum(), x, create_graph=True)
        given = [x, *layer.parameters()]
        second = torch.autograd.grad(first.square().sum(), given, allow_unused=True)
        found[name] = {"y": y, "first": first, "second": second[0]}
        found[name] |= {f"second {i}": g for i, g in enumerate(second[1:]) if g is not None}
        found[name] |= dict(layer.named_buffers())
        found[name] = {key: value.detach().cpu() for key, value in found[name].items()}
    return found


def assert_same_trainings(model: str, found: list[list[dict]]) -> None:
    """`trainings` of a model by several ranks are that of one process, which comes first."""
    ((alone,), *several) = [[each[model] for each in processes] for processes in found]
    for every in several:
        first = every[0]
        for other in every[1:]:
            assert other["rows"] == first["rows"] and other["facts"] == first["facts"]
            for name, value in first["state"].items():
                assert torch.equal(value, other["state"][name]), f"{name} differs between ranks"
        assert first["facts"] == alone["facts"]
        assert first["facts"]["images_seen"] == 8 * STEPS
        assert first["state"].keys() == alone["state"].keys()
        for name, value in alone["state"].items():
            close = torch.allclose(first["state"][name], value, rtol=CLOSE, atol=CLOSE)
            assert close, f"{name} differs"
        for row, expected in zip(first["rows"], alone["rows"], strict=True):
            assert row == pytest.approx(expected, rel=CLOSE, abs=CLOSE)
