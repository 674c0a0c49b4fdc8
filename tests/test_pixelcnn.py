import itertools
import time

import pytest
import torch
from builders import some_images, tiny_model
from scipy import stats

from pipeline import seeds
from pipeline.families.pixelcnn import DILATIONS, REACH
from pipeline.family import ImageSpec, to_signed

GREY = ImageSpec(1, 7, 6, 10)
COLOUR = ImageSpec(3, 5, 4, 10)
WIDE = ImageSpec(1, 9, 15, 10)


def lively(spec, layers=4, seed=0):
    """A model whose outputs depend visibly on their inputs."""
    model = tiny_model("pixelcnn", spec, seed=seed, network={"layers": layers, "channels": 8})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def visible(spec, layers, inits=4):
    """Sum of |d context / d x| over initial weights, inputs and channels: [H*W, H*W]."""
    total = torch.zeros(spec.height * spec.width, spec.height * spec.width, dtype=torch.float64)
    for seed in range(inits):
        model = lively(spec, layers, seed).double()
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
    seen = visible(spec, layers)
    n = len(seen)
    not_before = torch.ones(n, n).triu().bool()
    assert (seen[not_before] == 0).all()
    assert torch.equal(seen > 0, receptive_field(spec, layers))


def test_first_pixel_does_not_depend_on_the_image():
    model = lively(COLOUR)
    first = model.context(to_signed(some_images(2, COLOUR)))[:, :, 0, 0]
    assert torch.equal(first[0], first[1])


def changed_by(model, channel, old, new):
    """Which of log P [C, H, W] move when one channel of the pixel (2, 1) goes from old to new."""
    images = some_images(1, model.spec).repeat(2, 1, 1, 1)
    images[0, channel, 2, 1], images[1, channel, 2, 1] = old, new
    with torch.no_grad():
        before, after = model.log_prob(images)
    return before != after


@pytest.mark.parametrize(("old", "new"), [(10, 100), (150, 250), (0, 255)])
@pytest.mark.parametrize("channel", range(3))
def test_a_channel_is_seen_by_later_channels_of_its_pixel_only(channel, old, new):
    moved = changed_by(lively(COLOUR), channel, old, new)
    own = moved[:, 2, 1]
    assert own.tolist() == [False] * channel + [True] * (3 - channel)
    before = moved.flatten(1)[:, : 2 * COLOUR.width + 1]
    assert not before.any()
    assert moved[:, 2, 2].all()


@pytest.mark.parametrize("channel", range(3))
def test_256_probabilities_sum_to_one(channel):
    model = lively(COLOUR)
    x = to_signed(some_images(1, COLOUR))
    context, earlier = model.context(x), x[:, :channel]
    levels = torch.arange(256)[:, None, None].expand(-1, *COLOUR.shape[1:])
    with torch.no_grad():
        log_probs = model.heads[channel].log_prob(
            context.expand(256, -1, -1, -1), earlier.expand(256, -1, -1, -1), levels
        )
    total = log_probs.double().exp().sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1), (2, 1, 1)])
def test_probabilities_of_all_images_sum_to_one(shape):
    model = lively(ImageSpec(*shape, classes=10))
    first, second = torch.arange(65536).div(256, rounding_mode="floor"), torch.arange(65536) % 256
    images = torch.stack([first, second], dim=1).to(torch.uint8).view(-1, *shape)
    found = model.log_likelihood(images, None, seeds.image_seeds(65536, 0))
    assert found.bound == "exact"
    assert found.nats.exp().sum() == pytest.approx(1, abs=1e-5)
    assert found.nats.std() > 0.1


def test_likelihood_is_the_sum_over_pixels_and_channels():
    model, images = lively(COLOUR), some_images(3, COLOUR)
    with torch.no_grad():
        expected = model.log_prob(images).double().sum(dim=(1, 2, 3))
    found = model.log_likelihood(images, None, seeds.image_seeds(3, 0))
    torch.testing.assert_close(found.nats, expected)


def slowly(model, uniform):
    """Ancestral sampling by a full forward pass for each value."""
    channels, height, width = model.spec.shape
    canvas = torch.zeros(len(uniform), channels, height, width, dtype=torch.uint8)
    for row, column, channel in itertools.product(range(height), range(width), range(channels)):
        x = to_signed(canvas)
        levels = model.heads[channel].sample(model.context(x), x[:, :channel], uniform[:, channel])
        canvas[:, channel, row, column] = levels[:, row, column].to(torch.uint8)
    return canvas


@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
@torch.no_grad()
def test_cached_sampling_equals_full_passes_whatever_the_canvas_held(spec):
    model = lively(spec, layers=len(DILATIONS))
    uniform = torch.rand(
        8, spec.channels, 2, spec.height, spec.width, generator=torch.Generator().manual_seed(0)
    )
    expected = slowly(model, uniform)
    blank = torch.zeros(8, *spec.shape, dtype=torch.uint8)
    assert torch.equal(model.fill(blank, uniform), expected)
    assert torch.equal(model.fill(some_images(8, spec), uniform), expected)


def plausible(counts, expected):
    """Whether a chi-square test of the cells that are expected often enough finds no fault."""
    often = expected >= 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    return often.sum() > 20 and stats.chi2.sf(chi_square.item(), often.sum().item()) > 1e-4


@torch.no_grad()
def test_samples_have_the_probabilities():
    """Frequencies of the upper bits of two pixels against the sum over all images."""
    spec = ImageSpec(1, 1, 2, 10)
    model, n = lively(spec), 20_000
    uniform = torch.rand(n, 1, 2, 1, 2, generator=torch.Generator().manual_seed(0))
    drawn = model.fill(torch.zeros(n, *spec.shape, dtype=torch.uint8), uniform).long().flatten(1)
    first, second = torch.arange(65536).div(256, rounding_mode="floor"), torch.arange(65536) % 256
    images = torch.stack([first, second], dim=1).to(torch.uint8).view(-1, *spec.shape)
    probabilities = model.log_prob(images).double().sum(dim=(1, 2, 3)).exp()
    cells = 16 * first.div(16, rounding_mode="floor") + second.div(16, rounding_mode="floor")
    expected = n * torch.zeros(256, dtype=torch.float64).index_add_(0, cells, probabilities)
    found = torch.bincount(16 * (drawn[:, 0] // 16) + drawn[:, 1] // 16, minlength=256)
    assert plausible(found, expected)


@torch.no_grad()
def test_samples_of_one_pixel_have_its_256_probabilities():
    model, n = lively(ImageSpec(1, 1, 1, 10)), 100_000
    uniform = torch.rand(n, 1, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    drawn = model.fill(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), uniform).flatten()
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None]
    expected = n * model.log_prob(levels).double().exp().flatten()
    assert plausible(torch.bincount(drawn, minlength=256), expected)


@torch.no_grad()
def test_the_lower_bits_depend_on_the_upper_ones():
    model = lively(ImageSpec(1, 1, 1, 10))
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None]
    joint = model.log_prob(levels).view(16, 16)
    given_upper = joint - joint.logsumexp(dim=1, keepdim=True)
    assert (given_upper[0] - given_upper[1]).abs().max() > 0.01


@torch.no_grad()
def test_what_is_known_depends_on_the_place():
    model = lively(WIDE)
    context = model.context(torch.zeros(1, *WIDE.shape))[0].flatten(1)
    assert torch.cdist(context.T, context.T).fill_diagonal_(1).min() > 1e-4


@pytest.mark.slow
def test_a_thousand_digits_take_less_than_a_minute():
    defaults = {"channels": 32, "layers": 6, "hidden": 64}
    model = tiny_model("pixelcnn", ImageSpec(1, 28, 28, 10), network=defaults)
    began = time.process_time()
    for each in seeds.image_seeds(1000, 0, "sample").split(250):
        model.sample(each, None)
    assert time.process_time() - began < 60
