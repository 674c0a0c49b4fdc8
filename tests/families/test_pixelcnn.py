"""What is its own; what it shares with its like is in test_autoregressive.py."""

import itertools

import pytest
import torch
from builders import MODELS, some_images, tiny_model

from pipeline.blocks.autoregressive import REACH
from pipeline.core.contract import to_signed
from pipeline.core.images import ImageSpec
from pipeline.orchestration import preset

GREY = ImageSpec(1, 7, 6, 10)
COLOUR = ImageSpec(3, 5, 4, 10)
WIDE = ImageSpec(1, 9, 15, 10)
ASIDE = " and 7 columns to either side there"


def visible(spec, layers, inits=4):
    """Sum of |d context / d x| over initial weights, inputs and channels: [H*W, H*W]."""
    total = torch.zeros(spec.height * spec.width, spec.height * spec.width, dtype=torch.float64)
    for seed in range(inits):
        network = {"layers": layers, "channels": 8}
        model = tiny_model("pixelcnn", spec, seed=seed, network=network).double()
        x = to_signed(some_images(1, spec, seed)).double()
        jacobian = torch.autograd.functional.jacobian(model.context, x, vectorize=True)
        pixels = jacobian[0, :, :, :, 0].abs().sum(dim=(0, 3))
        total += pixels.flatten(0, 1).flatten(1)
    return total


def receptive_field(spec, layers):
    """Which pixels the context of a pixel is to see, bool [H*W, H*W], from the layers' shapes."""
    model = tiny_model("pixelcnn", spec, network={"layers": layers})
    further = sum(layer.dilation for layer in model.layers)
    places = list(itertools.product(range(spec.height), range(spec.width)))
    field = [
        [
            (i == r and 1 <= c - j <= REACH + 1 + further)
            or (1 <= r - i <= REACH + 1 + further and abs(j - c) <= REACH + further)
            for i, j in places
        ]
        for r, c in places
    ]
    return torch.tensor(field)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("spec", [GREY, COLOUR, WIDE], ids=["grey", "colour", "wide"])
def test_context_sees_all_that_is_before_it_and_nothing_else(spec, layers):
    """No blind spot: zero for j >= i, not zero for every j < i in the receptive field."""
    seen = visible(spec, layers)
    n = len(seen)
    before = torch.ones(n, n).tril(-1).bool()
    assert (seen[~before] == 0).all()
    assert torch.equal(seen > 0, receptive_field(spec, layers))
    # So few layers do not reach all of the wide images.
    assert torch.equal(seen > 0, before) == (spec != WIDE or layers > 1)


@pytest.mark.parametrize(("layers", "side"), [(1, 8), (2, 12), (3, 16), (3, 19), (4, 40)])
def test_what_is_said_of_a_pixel_is_what_it_sees(layers, side):
    """By the gradient of the pixels in the lower corners, in squares and in half of one."""
    for spec in (ImageSpec(1, side, side, 2), ImageSpec(1, side // 2, side, 2)):
        found, model = corners(spec, layers)
        all_of_it = found[0][:-1].all() and found[1].flatten()[:-1].all()
        assert (model.facts()["sees"] == "every earlier pixel") == all_of_it


@pytest.mark.parametrize(
    ("layers", "shape", "said"),
    [
        (6, (28, 28), "every earlier pixel"),
        (3, (19, 19), "every earlier pixel"),  # the columns to the right take one step more
        (1, (64, 64), f"the 8 rows above{ASIDE}, and the 8 pixels to the left"),
        (1, (9, 64), f"all rows above{ASIDE}, and the 8 pixels to the left"),
        (1, (64, 8), "the 8 rows above, and the row so far"),
        (1, (64, 9), f"the 8 rows above{ASIDE}, and the row so far"),
    ],
)
def test_what_a_pixel_sees_is_named(layers, shape, said):
    model = tiny_model("pixelcnn", ImageSpec(1, *shape, 2), network={"layers": layers})
    assert model.facts() == {"sees": said}


def corners(spec, layers):
    """Which pixels the last row's first and last pixel see, bool [2, H, W], and one model."""
    found = torch.zeros(2, spec.height, spec.width, dtype=torch.float64)
    for seed in range(4):
        network = {"layers": layers, "channels": 8}
        model = tiny_model("pixelcnn", spec, seed=seed, network=network).double()
        x = to_signed(some_images(1, spec, seed)).double().requires_grad_()
        last_row = model.context(x)[0, :, -1]
        for corner, context in zip(found, (last_row[:, 0], last_row[:, -1]), strict=True):
            [gradient] = torch.autograd.grad(context.abs().sum(), x, retain_graph=True)
            corner += gradient.abs().sum(dim=(0, 1))
    return found > 0, model


@pytest.mark.parametrize("name", preset.names())
def test_the_layers_of_the_presets_see_every_earlier_pixel(name):
    """From the corners, to which all others are nearer."""
    chosen = preset.values(name, {"models": MODELS})
    layers = chosen.get("models.pixelcnn.network.layers", MODELS["pixelcnn"]["network"]["layers"])
    spec = ImageSpec(3, int(name), int(name), 2)
    (first, last), model = corners(spec, layers)
    assert first[:-1].all() and not first[-1].any()
    assert last.flatten()[:-1].all() and not last[-1, -1]
    assert model.facts() == {"sees": "every earlier pixel"}
