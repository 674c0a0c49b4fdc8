import math
from itertools import pairwise

import pytest
import torch
from builders import COLOUR, SMALL
from torch import nn

from pipeline.blocks import convolutional
from pipeline.blocks.convolutional import (
    SILU_GAIN,
    Decoder,
    Encoder,
    MapDecoder,
    MapEncoder,
    Residual,
)
from pipeline.core.contract import count_parameters
from pipeline.core.images import ImageSpec

SHAPES = [
    SMALL,
    COLOUR,
    ImageSpec(1, 28, 28, 10),
    ImageSpec(3, 20, 24, 2),
    ImageSpec(1, 9, 23, 2),
    ImageSpec(3, 33, 50, 2),
]
EVERY = pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: "x".join(map(str, spec.shape)))
BOTH = pytest.mark.parametrize("hidden", [None, 6])


def encoder(spec, hidden=None, inputs=None):
    torch.manual_seed(0)
    return Encoder(spec, inputs=inputs or spec.channels, channels=4, hidden=hidden, outputs=5)


def decoder(spec, hidden=None, outputs=3):
    torch.manual_seed(0)
    return Decoder(spec, inputs=5, channels=4, hidden=hidden, outputs=outputs)


@EVERY
@BOTH
def test_shapes(spec, hidden):
    images, codes = torch.randn(2, *spec.shape), torch.randn(2, 5)
    assert encoder(spec, hidden)(images).shape == (2, 5)
    assert decoder(spec, hidden)(codes).shape == (2, 3, spec.height, spec.width)


def test_more_may_be_laid_beside_the_image():
    assert encoder(SMALL, inputs=11)(torch.randn(2, 11, 8, 8)).shape == (2, 5)


@EVERY
@BOTH
def test_a_code_depends_on_every_pixel(spec, hidden):
    image = torch.randn(1, *spec.shape, requires_grad=True)
    encoder(spec, hidden)(image)[0, 0].backward()
    assert (image.grad != 0).all()


@EVERY
@BOTH
def test_every_pixel_depends_on_the_code(spec, hidden):
    codes = torch.randn(1, 5)
    jacobian = torch.autograd.functional.jacobian(decoder(spec, hidden), codes)
    assert (jacobian.abs().amax(dim=-1) > 0).all()


@BOTH
def test_images_of_a_batch_do_not_meet(hidden):
    images, codes = torch.randn(3, *COLOUR.shape), torch.randn(3, 5)
    for network, given in ((encoder(COLOUR, hidden), images), (decoder(COLOUR, hidden), codes)):
        alone = torch.cat([network(each) for each in given.split(1)])
        torch.testing.assert_close(network(given), alone)
        assert torch.equal(network(given), network.eval()(given))


@pytest.mark.parametrize("make", [encoder, decoder])
def test_hidden_is_the_width_between_the_dense_layers(make):
    maps = 4 * 4 * 4  # channels, height and width at half of 8 x 8
    inputs, outputs = (maps, 5) if make is encoder else (5, maps)

    def widths(hidden):
        layers = [each for each in make(SMALL, hidden).modules() if isinstance(each, nn.Linear)]
        return [(each.in_features, each.out_features) for each in layers]

    assert widths(None) == [(inputs, outputs)]
    assert widths(6) == [(inputs, 6), (6, outputs)]


@pytest.mark.parametrize("make", [encoder, decoder])
@BOTH
@pytest.mark.parametrize("spec", [SMALL, ImageSpec(1, 64, 64, 2)], ids=["small", "large"])
def test_no_two_layers_could_be_one(make, hidden, spec):
    """Between any two layers with weights stands something that is not linear."""
    kinds = [type(each) for each in make(spec, hidden).layers]
    weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    learned = [i for i, kind in enumerate(kinds) if issubclass(kind, weighted)]
    for one, other in pairwise(learned):
        assert nn.SiLU in kinds[one:other]
    assert kinds[-1] is not nn.SiLU


def test_sizes_grow_as_said():
    """Convolutions of 3 x 3 and of 4 x 4 upwards; the last makes four pixels of a position."""

    def conv(inputs, outputs, side):
        return outputs * (inputs * side * side + 1)

    def dense(inputs, outputs):
        return outputs * (inputs + 1)

    maps = 8 * 7 * 7
    spec = ImageSpec(1, 28, 28, 10)
    assert count_parameters(encoder(spec)) == conv(1, 4, 3) + conv(4, 8, 3) + dense(maps, 5)
    upwards = 8 * 4 * 16 + 4  # a transposed convolution has one bias per output channel
    assert count_parameters(decoder(spec)) == dense(5, maps) + upwards + conv(4, 4 * 3, 3)


@pytest.mark.parametrize(
    ("side", "last", "widths"),
    [
        (28, 7, [4, 8]),
        (32, 4, [4, 8, 16]),
        (64, 4, [4, 8, 16, 32]),
        (100, 7, [4, 8, 16, 32]),
        (128, 4, [4, 8, 16, 32, 32]),
    ],
)
def test_depth_follows_the_size_of_the_images(side, last, widths):
    """Each convolution halves the maps, the first and last of which stand next to the images."""
    maps, spec = [], ImageSpec(3, side, side, 2)

    def watched(network, kind):
        for layer in network.layers:
            if isinstance(layer, kind):
                layer.register_forward_hook(lambda _, args, out: maps.append((args[0], out)))
        return network

    watched(encoder(spec), nn.Conv2d)(torch.zeros(1, *spec.shape))
    assert [after.shape[1] for _, after in maps] == widths
    for before, after in maps:
        assert after.shape[2:] == tuple(math.ceil(n / 2) for n in before.shape[2:])
    assert maps[-1][1].shape[2:] == (last, last)

    maps.clear()
    network = watched(decoder(spec), nn.Conv2d | nn.ConvTranspose2d)
    network(torch.zeros(1, 5))
    assert [before.shape[1] for before, _ in maps] == widths[::-1]
    assert [before.shape[2] for before, _ in maps] == [last * 2**i for i in range(len(widths))]
    assert maps[-1][1].shape[1:] == (4 * 3, maps[-1][0].shape[2], maps[-1][0].shape[3])


def spreads(network, given):
    """Standard deviations of what each layer with weights makes of a batch."""
    found = []
    for layer in network.layers:
        given = layer(given)
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            found.append(given.std().item())
    return found


def deep(make, side, hidden):
    torch.manual_seed(0)
    spec = ImageSpec(3, side, side, 2)
    if make is Encoder:
        return Encoder(spec, inputs=3, channels=16, hidden=hidden, outputs=64)
    return Decoder(spec, inputs=64, channels=16, hidden=hidden, outputs=64)


MAKERS = pytest.mark.parametrize("make", [Encoder, Decoder])


@MAKERS
@pytest.mark.parametrize("hidden", [None, 128])
@pytest.mark.parametrize("side", [32, 64, 128])
@torch.no_grad()
def test_deep_networks_keep_the_variance_of_what_passes(make, side, hidden):
    """From one layer to the next, but for the borders, and so from one end to the other."""
    rng = torch.Generator().manual_seed(0)
    given = torch.randn(4, *((3, side, side) if make is Encoder else (64,)), generator=rng)
    found = spreads(deep(make, side, hidden), given)
    assert all(0.8 < after / before < 1.15 for before, after in pairwise([1.0, *found])), found
    assert 0.5 < found[-1] < 2


@MAKERS
@pytest.mark.parametrize(("side", "as_torch"), [(8, True), (28, True), (32, False)])
def test_shallow_networks_begin_as_torch_has_it(make, side, as_torch, monkeypatch):
    found = deep(make, side, None).state_dict()
    monkeypatch.setattr(convolutional, "init_deep", lambda *_: None)
    torchs_own = deep(make, side, None).state_dict()
    assert all(torch.equal(value, torchs_own[key]) for key, value in found.items()) == as_torch


def test_the_gain_is_that_of_silu():
    """By quadrature over a standard normal variate."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    mean_square = (nn.functional.silu(x).square() * density).sum() * (x[1] - x[0])
    assert mean_square.item() ** -0.5 == pytest.approx(SILU_GAIN, rel=5e-3)


def map_networks(spec, halvings=2, residual=1):
    torch.manual_seed(0)
    size = {"channels": 4, "halvings": halvings, "residual": residual}
    return (
        MapEncoder(inputs=spec.channels, outputs=5, **size),
        MapDecoder(spec, inputs=5, outputs=3, **size),
    )


@EVERY
@pytest.mark.parametrize("halvings", [1, 2, 3])
@torch.no_grad()
def test_maps_are_as_much_smaller_as_said_and_back(spec, halvings):
    encode, decode = map_networks(spec, halvings)
    rows, columns = (math.ceil(side / 2**halvings) for side in (spec.height, spec.width))
    maps = encode(torch.randn(2, *spec.shape))
    assert maps.shape == (2, 5, rows, columns)
    assert decode(maps).shape == (2, 3, spec.height, spec.width)


@pytest.mark.parametrize("residual", [0, 2])
def test_every_pixel_and_every_position_of_a_map_counts(residual):
    encode, decode = map_networks(COLOUR, residual=residual)
    image = torch.randn(1, *COLOUR.shape, requires_grad=True)
    maps = encode(image)
    maps.square().sum().backward()
    assert (image.grad != 0).all()
    given = maps.detach().requires_grad_()
    decode(given).square().sum().backward()
    assert (given.grad != 0).all()


def test_between_layers_of_maps_stands_something_that_is_not_linear():
    learned = nn.Conv2d | nn.ConvTranspose2d
    for network in map_networks(COLOUR, residual=2):
        kinds = [type(each) for each in network.modules() if not list(each.children())]
        places = [i for i, kind in enumerate(kinds) if issubclass(kind, learned)]
        assert all(nn.SiLU in kinds[one:other] for one, other in pairwise(places))


def test_a_residual_layer_adds_to_what_it_was_given():
    layer, x = Residual(4), torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(layer(x) - x, layer.layers(x))
