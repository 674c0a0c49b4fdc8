from itertools import pairwise

import pytest
import torch
from builders import COLOUR, SMALL
from torch import nn

from pipeline.blocks.convolutional import Decoder, Encoder
from pipeline.core.contract import count_parameters
from pipeline.core.images import ImageSpec

SHAPES = [SMALL, COLOUR, ImageSpec(1, 28, 28, 10), ImageSpec(3, 20, 24, 2), ImageSpec(1, 9, 23, 2)]
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
    maps = 2 * 4 * 2 * 2  # channels, height and width at a quarter of 8 x 8
    inputs, outputs = (maps, 5) if make is encoder else (5, maps)

    def widths(hidden):
        layers = [each for each in make(SMALL, hidden).modules() if isinstance(each, nn.Linear)]
        return [(each.in_features, each.out_features) for each in layers]

    assert widths(None) == [(inputs, outputs)]
    assert widths(6) == [(inputs, 6), (6, outputs)]


@pytest.mark.parametrize("make", [encoder, decoder])
@BOTH
def test_no_two_layers_could_be_one(make, hidden):
    """Between any two layers with weights stands something that is not linear."""
    kinds = [type(each) for each in make(SMALL, hidden).layers]
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
