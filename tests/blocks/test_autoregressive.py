"""What every family with an exact autoregressive likelihood must do."""

import itertools
import time

import pytest
import torch
from builders import MODELS, some_images, some_labels, tiny_model
from scipy import stats

from pipeline import families
from pipeline.blocks import autoregressive
from pipeline.blocks import rows as row_tokens
from pipeline.blocks.autoregressive import (
    REACH,
    Autoregressive,
    Canvas,
    Head,
    dilations,
    features,
    places,
)
from pipeline.blocks.rows import RowTokens
from pipeline.core import cost, seeds
from pipeline.core.contract import Batch, to_signed
from pipeline.core.images import ImageSpec
from pipeline.families import pixelcnn
from pipeline.orchestration import preset

GREY = ImageSpec(1, 7, 6, 10)
COLOUR = ImageSpec(3, 5, 4, 10)
AUTOREGRESSIVE = [n for n in families.names() if issubclass(families.load(n), Autoregressive)]
BY_ROWS = [n for n in AUTOREGRESSIVE if issubclass(families.load(n), RowTokens)]
EACH = pytest.mark.parametrize("name", AUTOREGRESSIVE)
SHAPES = pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])


def lively(name, spec, seed=0, **network):
    """A model whose outputs depend visibly on their inputs."""
    model = tiny_model(name, spec, seed=seed, network={"layers": 3, **network}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def heads(model):
    return [module for module in model.modules() if isinstance(module, Head)]


def some_uniform(n, spec, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, spec.channels, 2, spec.height, spec.width, generator=rng)


def all_images_of_two_values(shape):
    """uint8 [65536, *shape]."""
    values = torch.arange(65536)
    pairs = torch.stack([values.div(256, rounding_mode="floor"), values % 256], dim=1)
    return pairs.to(torch.uint8).view(-1, *shape)


@EACH
@SHAPES
def test_what_one_pixel_of_a_row_costs_tells_what_all_do(name, spec):
    """Where costs alone are wanted, so few are drawn."""
    model = lively(name, spec)
    with cost.Counter() as whole, torch.no_grad():
        drawn = model.sample(torch.arange(2), None)
    with cost.shortened() as counter, torch.no_grad():
        model.sample(torch.arange(2), None)
    assert counter.flops == whole.flops > 0
    torch.testing.assert_close(model.sample(torch.arange(2), None), drawn, rtol=0, atol=0)


def test_there_are_such_families():
    assert {"pixelcnn", "lstm", "gpt"} <= set(AUTOREGRESSIVE)
    assert {"lstm", "gpt"} <= set(BY_ROWS)


def visible(name, spec, layers):
    """Sum of |d context_i / d x_j| over initial weights, inputs and channels of i: [HW, HW, C]."""
    n = spec.height * spec.width
    total = torch.zeros(n, n, spec.channels, dtype=torch.float64)
    for seed in range(4):
        model = lively(name, spec, seed, layers=layers).double()
        x = to_signed(some_images(1, spec, seed)).double()
        jacobian = torch.autograd.functional.jacobian(model.context, x)[0, :, :, :, 0]
        total += jacobian.abs().sum(dim=0).movedim(2, -1).flatten(0, 1).flatten(1, 2)
    return total


@EACH
@SHAPES
def test_no_pixel_knows_itself_or_what_follows(name, spec):
    """d context_i / d x_j is 0 for j >= i, and not 0 for those before it that all families see."""
    seen = visible(name, spec, layers=3)
    not_before = torch.ones(seen.shape[:2]).triu().bool()
    assert (seen[not_before] == 0).all()
    for i in range(1, len(seen)):
        near = [i - 1] if i % spec.width else []
        near += [i - spec.width] if i >= spec.width else []
        assert (seen[i, near] > 0).all()


@pytest.mark.parametrize("name", BY_ROWS)
@pytest.mark.parametrize("layers", [0, 1, 3])
@SHAPES
def test_readers_of_rows_see_all_rows_above_and_what_is_near_in_their_own(name, spec, layers):
    """No blind spot: not 0 for every j < i in the receptive field, and 0 for all others."""
    reach = REACH + 1 + sum(dilations(layers, spec.width))
    pixels = list(itertools.product(range(spec.height), range(spec.width)))
    field = [[i < r or (i == r and 1 <= c - j <= reach) for i, j in pixels] for r, c in pixels]
    expected = torch.tensor(field)[:, :, None].expand(-1, -1, spec.channels)
    assert torch.equal(visible(name, spec, layers) > 0, expected)


def reached(offsets, further):
    """Where a layer sees that is given what stands at ``offsets`` and sees one such step back."""
    for step in further:
        offsets = offsets | {each + step for each in offsets}
    return offsets


@pytest.mark.parametrize("layers", range(8))
@pytest.mark.parametrize("extent", [1, 2, 5, 6, 7, 19, 20, 28, 32, 33, 64, 65, 100, 128, 129, 300])
def test_layers_see_without_gaps_and_as_far_as_they_are_to(layers, extent):
    found = dilations(layers, extent)
    assert len(found) == layers
    seen = reached(set(range(1, REACH + 2)), found)
    assert seen == set(range(1, REACH + 2 + sum(found)))
    # Where images are larger than that, no other choice without gaps would see further.
    most = reached(set(range(1, REACH + 2)), [2 ** (i + 2) for i in range(layers)])
    assert max(seen) >= extent - 1 or seen == most
    # Powers of 2 from small to large, and no larger than they have to be.
    assert found == sorted(found) and all(each & (each - 1) == 0 for each in found)
    if layers and found[-1] > 1:
        assert max(seen) - found[-1] < extent - 1


@pytest.mark.parametrize("family", BY_ROWS)
@pytest.mark.parametrize("name", preset.names())
def test_rows_by_the_presets_see_every_earlier_pixel(family, name):
    """The row so far by layers; the rows above are tokens, whatever the layers."""
    of_family = [each for each, entry in MODELS.items() if entry["family"] == family]
    side, chosen = int(name), preset.values(name, {"models": MODELS})
    for each in of_family:
        layers = chosen.get(f"models.{each}.network.layers", MODELS[each]["network"]["layers"])
        model = tiny_model(family, ImageSpec(3, side, side, 2), network={"layers": layers})
        found = [layer.dilation for layer in model.decoder.layers]
        assert reached(set(range(1, REACH + 2)), found) >= set(range(1, side))
        assert model.facts()["sees"].endswith("and the row so far")


@pytest.mark.parametrize("name", BY_ROWS)
def test_what_a_pixel_of_a_row_sees_is_named(name):
    for layers, left in ((0, "the 4 pixels to the left"), (3, "the row so far")):
        model = tiny_model(name, ImageSpec(1, 28, 28, 2), network={"layers": layers})
        assert model.facts() == {
            "sees": f"all rows above as tokens, the 4 nearest also pixel by pixel, and {left}"
        }


@EACH
@pytest.mark.parametrize(
    ("layers", "width", "whole"), [(1, 9, True), (1, 10, False), (3, 33, True), (3, 34, False)]
)
def test_what_is_said_of_the_row_is_what_is_seen_of_it(name, layers, width, whole):
    """By the gradient of its last pixel, at the edge of what so many layers can see."""
    spec, seen = ImageSpec(1, 2, width, 2), 0.0
    for seed in range(6):
        model = lively(name, spec, seed, layers=layers, channels=8).double()
        x = to_signed(some_images(1, spec, seed)).double().requires_grad_()
        model.context(x)[0, :, -1, -1].abs().sum().backward()
        seen += x.grad[0, 0, -1, :-1].abs()
    assert (seen > 0).all() == whole
    said = model.facts()["sees"]
    assert (said.endswith(("the row so far", "every earlier pixel"))) == whole


@EACH
@SHAPES
def test_each_value_is_given_all_before_it_in_the_order_of_channels(name, spec, monkeypatch):
    """d log p(value) / d x: of later pixels, of the pixel's later channels, and of its own, 0."""
    jacobian = 0.0
    for seed in range(4):
        model, images = lively(name, spec, seed).double(), some_images(1, spec, seed)

        def log_prob(x, model=model, images=images):
            for module in (pixelcnn, row_tokens):
                monkeypatch.setattr(module, "to_signed", lambda _: x)
            return model.log_prob(images)

        x = to_signed(images).double()
        found = torch.autograd.functional.jacobian(log_prob, x)[0, :, :, :, 0]
        # Rows and columns in the order in which values are drawn: channels innermost.
        jacobian += found.abs().movedim((0, 3), (2, 5)).flatten(3).flatten(0, 2)
    order = torch.ones(jacobian.shape).tril(-1).bool()
    assert torch.equal(jacobian > 0, order)


@EACH
@torch.no_grad()
def test_the_first_pixel_does_not_depend_on_the_image(name):
    model = lively(name, COLOUR)
    context = model.context(to_signed(some_images(2, COLOUR)))
    assert torch.equal(*context[:, :, 0, 0])
    assert not torch.equal(*context[:, :, 0, 1])


@EACH
@pytest.mark.parametrize(("old", "new"), [(10, 100), (150, 250), (0, 255)])
@pytest.mark.parametrize("channel", range(3))
@torch.no_grad()
def test_a_channel_is_seen_by_later_channels_of_its_pixel_only(name, channel, old, new):
    """Which log-probabilities move when one channel of the pixel (2, 1) does."""
    images = some_images(1, COLOUR).repeat(2, 1, 1, 1)
    images[0, channel, 2, 1], images[1, channel, 2, 1] = old, new
    before, after = lively(name, COLOUR).log_prob(images)
    moved = before != after
    assert moved[:, 2, 1].tolist() == [False] * channel + [True] * (3 - channel)
    assert not moved.flatten(1)[:, : 2 * COLOUR.width + 1].any()
    assert moved[:, 2, 2].all() and moved[:, 3, 1].all()


@EACH
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1), (2, 1, 1)])
def test_probabilities_of_all_images_sum_to_one(name, shape):
    model = lively(name, ImageSpec(*shape, classes=10))
    images = all_images_of_two_values(shape)
    found = model.log_likelihood(images, None, seeds.image_seeds(65536, 0))
    assert found.bound == "exact"
    assert found.nats.exp().sum() == pytest.approx(1, abs=1e-5)
    assert found.nats.std() > 0.1


@EACH
@torch.no_grad()
def test_a_likelihood_is_the_sum_over_pixels_and_channels(name):
    model, images = lively(name, COLOUR), some_images(3, COLOUR)
    expected = model.log_prob(images).double().sum(dim=(1, 2, 3))
    found = model.log_likelihood(images, None, seeds.image_seeds(3, 0))
    torch.testing.assert_close(found.nats, expected)


@EACH
@torch.no_grad()
def test_nothing_in_a_reported_likelihood_is_random_or_of_the_batch(name):
    model, images = lively(name, COLOUR), some_images(3, COLOUR)
    model.train()
    in_training = model.log_prob(images)
    torch.rand(1)
    assert torch.equal(model.log_prob(images), in_training)
    torch.testing.assert_close(model.eval().log_prob(images), in_training, rtol=1e-5, atol=1e-5)
    alone = torch.cat([model.log_prob(each) for each in images.split(1)])
    torch.testing.assert_close(alone, in_training, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def slowly(model, uniform, labels=None, canvas=None, start_row=0):
    """Ancestral sampling by a full forward pass for each value."""
    channels, height, width = model.spec.shape
    if canvas is None:
        canvas = torch.zeros(len(uniform), channels, height, width, dtype=torch.uint8)
    places = itertools.product(range(start_row, height), range(width), range(channels))
    for row, column, channel in places:
        x = to_signed(canvas)
        context = model.context(x) if labels is None else model.context(x, labels)
        levels = heads(model)[channel].sample(context, x[:, :channel], uniform[:, channel])
        canvas[:, channel, row, column] = levels[:, row, column].to(torch.uint8)
    return canvas


@EACH
@SHAPES
@torch.no_grad()
def test_cached_sampling_equals_full_passes_whatever_the_canvas_held(name, spec):
    model, uniform = lively(name, spec), some_uniform(8, spec)
    expected = slowly(model, uniform)
    blank = torch.zeros(8, *spec.shape, dtype=torch.uint8)
    assert torch.equal(model.fill(blank, uniform), expected)
    assert torch.equal(model.fill(some_images(8, spec), uniform), expected)


@EACH
@SHAPES
@torch.no_grad()
def test_given_rows_stay_and_the_rest_follows_from_them(name, spec):
    model, uniform, given = lively(name, spec), some_uniform(8, spec), some_images(8, spec)
    expected = slowly(model, uniform, canvas=given.clone(), start_row=3)
    assert torch.equal(expected[:, :, :3], given[:, :, :3])
    assert not torch.equal(expected[:, :, 3:], slowly(model, uniform)[:, :, 3:])
    for held in (given, some_images(8, spec, seed=1)):
        canvas = torch.cat([given[:, :, :3], held[:, :, 3:]], dim=2)
        assert torch.equal(model.fill(canvas, uniform, start_row=3), expected)


def plausible(counts, expected):
    """Whether a chi-square test of the cells that are expected often enough finds no fault."""
    often = expected >= 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    return often.sum() > 20 and stats.chi2.sf(chi_square.item(), often.sum().item()) > 1e-4


@EACH
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 2, 1), (2, 1, 1)])
@torch.no_grad()
def test_samples_have_the_probabilities(name, shape):
    """Frequencies of the upper bits of two values against the sum over all images."""
    spec, n = ImageSpec(*shape, classes=10), 20_000
    model = lively(name, spec)
    blank = torch.zeros(n, *shape, dtype=torch.uint8)
    drawn = model.fill(blank, some_uniform(n, spec)).flatten(1).long() // 16
    images = all_images_of_two_values(shape)
    probabilities = model.log_prob(images).double().sum(dim=(1, 2, 3)).exp()
    cells = (images.flatten(1).long() // 16) @ torch.tensor([16, 1])
    expected = n * torch.zeros(256, dtype=torch.float64).index_add_(0, cells, probabilities)
    assert plausible(torch.bincount(drawn @ torch.tensor([16, 1]), minlength=256), expected)


@EACH
@torch.no_grad()
def test_samples_of_one_pixel_have_its_256_probabilities(name):
    spec, n = ImageSpec(1, 1, 1, 10), 100_000
    model = lively(name, spec)
    blank = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    drawn = model.fill(blank, some_uniform(n, spec)).flatten()
    levels = torch.arange(256, dtype=torch.uint8)[:, None, None, None]
    expected = n * model.log_prob(levels).double().exp().flatten()
    assert plausible(torch.bincount(drawn, minlength=256), expected)


@EACH
@torch.no_grad()
def test_what_is_known_depends_on_the_place(name):
    model = lively(name, ImageSpec(1, 9, 15, 10))
    context = model.context(torch.zeros(1, 1, 9, 15))[0].flatten(1)
    assert torch.cdist(context.T, context.T).fill_diagonal_(1).min() > 1e-4


@EACH
@SHAPES
def test_completions_keep_the_upper_half_and_draw_the_rest(name, spec):
    model = tiny_model(name, spec, training=None, scoring=None).eval()
    batch = Batch(some_images(10, spec), some_labels(10))
    every = seeds.image_seeds(10, 0, "illustrate")
    rows = model.illustrate(batch, every)["completions"]
    half = spec.height // 2
    assert rows.dtype == torch.uint8
    assert rows.shape == (2 + autoregressive.COMPLETIONS, 10, *spec.shape)
    assert torch.equal(rows[0], batch.images)
    assert all(torch.equal(row[:, :, :half], batch.images[:, :, :half]) for row in rows)
    assert (rows[1, :, :, half:] == 0).all()
    assert len({row[:, :, half:].numpy().tobytes() for row in rows}) == len(rows)
    assert torch.equal(model.illustrate(batch, every)["completions"], rows)


@torch.no_grad()
def a_head(earlier=2):
    torch.manual_seed(0)
    head = Head(5, earlier, 8)
    for parameter in head.parameters():
        parameter.mul_(2)
    return head, torch.randn(1, 5, 2, 3), torch.rand(1, earlier, 2, 3) * 2 - 1


@pytest.mark.parametrize("earlier", [0, 1, 2])
@torch.no_grad()
def test_256_probabilities_of_a_head_sum_to_one(earlier):
    head, context, before = a_head(earlier)
    levels = torch.arange(256)[:, None, None].expand(-1, 2, 3)
    every = [each.expand(256, -1, -1, -1) for each in (context, before)]
    total = head.log_prob(*every, levels).double().exp().sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_lower_bits_depend_on_the_upper_ones():
    head, context, before = a_head()
    levels = torch.arange(256)[:, None, None].expand(-1, 2, 3)
    every = [each.expand(256, -1, -1, -1) for each in (context, before)]
    joint = head.log_prob(*every, levels)[:, 0, 0].view(16, 16)
    given_upper = joint - joint.logsumexp(dim=1, keepdim=True)
    assert (given_upper[0] - given_upper[1]).abs().max() > 0.01


def test_features_are_levels_what_is_above_black_and_the_place():
    images = torch.tensor([[[[0, 1], [128, 255]]]], dtype=torch.uint8)
    found = features(to_signed(images), places(2, 2))
    assert found.shape == (1, 5, 2, 2)
    torch.testing.assert_close(found[0, 0], to_signed(images)[0, 0])
    torch.testing.assert_close(found[0, 1], torch.tensor([[0.0, 1], [1, 1]]))
    assert found[0, 2].tolist() == [[-1, -1], [1, 1]]
    assert found[0, 3].tolist() == [[-1, 1], [-1, 1]]
    assert (found[0, 4] == 1).all()


def test_a_canvas_shows_what_convolutions_with_margins_see():
    """Its windows, through the weights, are the pixels of the whole image's convolution."""
    reach = REACH
    images, place = some_images(2, GREY), places(GREY.height, GREY.width)
    canvas = Canvas(images, place)
    seen = features(to_signed(images), place)
    torch.manual_seed(0)
    above = torch.nn.Conv2d(5, 3, (reach + 1, 2 * reach + 1), padding=(reach + 1, reach))
    left = torch.nn.Conv2d(5, 3, (1, reach + 1), padding=(0, reach + 1))
    for row in range(GREY.height):
        expected = above(seen)[:, :, row : row + 1]
        found = torch.nn.functional.conv2d(canvas.above(row), above.weight, above.bias)
        torch.testing.assert_close(found, expected)
        assert (canvas.left(row, 0) == 0).all()
        canvas.keep_row(row)
        for column in range(GREY.width):
            flat = canvas.left(row, column) @ left.weight.flatten(1).T + left.bias
            torch.testing.assert_close(flat, left(seen)[:, :, row, column])


@pytest.mark.slow
@EACH
def test_a_thousand_digits_take_less_than_a_minute(name):
    model = tiny_model(
        name, ImageSpec(1, 28, 28, 10), network=families.load(name).Network().model_dump()
    )
    began = time.process_time()
    for each in seeds.image_seeds(1000, 0, "sample").split(250):
        model.sample(each, None)
    assert time.process_time() - began < 60
