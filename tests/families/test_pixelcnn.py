"""What is its own; what it shares with its like is in test_autoregressive.py."""

import itertools

import pytest
import torch
from builders import some_images, tiny_model

from pipeline.blocks.autoregressive import DILATIONS, REACH
from pipeline.core.contract import to_signed
from pipeline.core.images import ImageSpec

GREY = ImageSpec(1, 7, 6, 10)
COLOUR = ImageSpec(3, 5, 4, 10)
WIDE = ImageSpec(1, 9, 15, 10)


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
    further = sum(DILATIONS[i % len(DILATIONS)] for i in range(layers))
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
    not_before = torch.ones(n, n).triu().bool()
    assert (seen[not_before] == 0).all()
    assert torch.equal(seen > 0, receptive_field(spec, layers))
