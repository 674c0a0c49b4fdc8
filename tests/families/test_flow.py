"""A bijection, its Jacobian, and a distribution: against autograd and sums over all images."""

import math

import pytest
import torch
from builders import COLOUR, SMALL, scored, some_batch, some_images, some_labels, tiny_model

from pipeline.core import seeds
from pipeline.core.contract import Inverts, Reconstructs
from pipeline.core.images import ImageSpec

SPECS = {
    "grey": SMALL,
    "colour": COLOUR,
    "odd": ImageSpec(1, 7, 5, 10),
    "wide": ImageSpec(3, 3, 11, 10),
    "high": ImageSpec(2, 9, 1, 10),
    "pixel": ImageSpec(1, 1, 1, 10),
}
SHAPES = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def lively(spec, seed=0, **network):
    """A flow whose couplings all depend on what they see, and far from evenly."""
    model = tiny_model("flow", spec, seed=seed, network=network).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.3 * torch.randn(each.shape, generator=rng))
    return model


def told(model, n):
    return some_labels(n, model.spec) if model.conditional else None


def inside(n, spec, seed=0):
    """Places within levels, float64 [n, C, H, W]."""
    rng = torch.Generator().manual_seed(seed)
    return 0.02 + 0.96 * torch.rand(n, *spec.shape, generator=rng, dtype=torch.float64)


def noise(model, every):
    """What images are drawn from."""
    return torch.logit(model._uniform(seeds.ImageNoise(every)))


def logistic(z):
    """Log-density of the base, summed over each image."""
    return (-z - 2 * torch.nn.functional.softplus(-z)).flatten(1).sum(1)


def all_images(spec):
    """Every image of two values, or of one: uint8 [256^D, C, H, W]."""
    levels = [torch.arange(256)] * spec.dimensions
    return torch.cartesian_prod(*levels).reshape(-1, *spec.shape).to(torch.uint8)


@SHAPES
@pytest.mark.parametrize(
    "network", [{}, {"conditional": True}, {"parts": 1}, {"small": 0}], ids=str
)
@torch.no_grad()
def test_images_come_back_from_noise(spec, network):
    model, images = lively(spec, **network), some_images(6, spec)
    images[0], images[1] = 0, 255
    within = inside(6, spec)
    z, _ = model.encode(images, within, told(model, 6))
    assert z.shape == images.shape
    found, places = model.decode(z, told(model, 6))
    assert torch.equal(found, images)
    torch.testing.assert_close(places, within, rtol=0, atol=1e-5)


@SHAPES
@torch.no_grad()
def test_noise_comes_back_from_images(spec):
    model, rng = lively(spec), torch.Generator().manual_seed(1)
    z = torch.logit(torch.rand(6, *spec.shape, generator=rng, dtype=torch.float64))
    images, within = model.decode(z, None)
    torch.testing.assert_close(model.encode(images, within, None)[0], z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", [ImageSpec(1, 3, 2, 2), ImageSpec(3, 1, 2, 2)], ids=str)
def test_the_determinant_is_that_of_autograd(spec):
    model = lively(spec)
    images, within = some_images(4, spec), inside(4, spec)
    _, log_det = model.encode(images, within, None)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda r, i=i: model.encode(images[i : i + 1], r, None)[0], within[i : i + 1]
        )
        whole = jacobian.reshape(spec.dimensions, spec.dimensions)
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(whole).logabsdet)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)], ids=str)
@torch.no_grad()
def test_probabilities_of_all_images_add_up_to_1(shape, conditional):
    spec = ImageSpec(*shape, 3)
    images = all_images(spec)
    for seed in range(3):
        model = lively(spec, seed, conditional=conditional)
        labels = torch.full((len(images),), 1) if conditional else None
        nats = model.log_likelihood(images, labels, torch.arange(len(images))).nats
        assert nats.exp().sum().item() == pytest.approx(1, abs=1e-3)


@SHAPES
@torch.no_grad()
def test_the_density_of_y_is_the_probability_of_its_image_wherever_in_its_levels(spec):
    """So dequantisation costs nothing: the bound is the same for any draw, and exact."""
    model, images = lively(spec), some_images(6, spec)
    exact = scored(model, images, torch.arange(6))
    assert exact.bound == "exact"
    for seed in range(3):
        z, log_det = model.encode(images, inside(6, spec, seed), None)
        torch.testing.assert_close(logistic(z) + log_det, exact.nats, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_images_are_drawn_as_often_as_they_are_probable():
    """Of two values, by a grid of noise in place of draws."""
    spec, n = ImageSpec(1, 1, 2, 2), 300
    model = lively(spec)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    z = torch.logit(torch.cartesian_prod(grid, grid)).reshape(-1, *spec.shape)
    drawn = model.decode(z, None)[0].flatten(1).long() // 32
    found = torch.bincount(drawn @ torch.tensor([8, 1]), minlength=64) / n**2
    wanted = model.log_prob(all_images(spec), None).exp().reshape(8, 32, 8, 32).sum((1, 3))
    assert (found - wanted.flatten()).abs().sum() < 0.02


@SHAPES
@torch.no_grad()
def test_maps_are_sums_of_the_image(spec):
    model = lively(spec)
    z = noise(model, torch.arange(3))
    maps = [levels for levels, _ in model._maps(z, None)]
    image = maps[-1]
    assert (image >= 0).all() and (image <= 255).all() and image.shape[1:] == spec.shape
    for levels, largest in zip(maps, reversed(model.largest), strict=True):
        assert torch.equal(levels.sum((2, 3)), image.sum((2, 3)))
        assert (levels <= torch.from_numpy(largest)).all() and levels.shape[2:] == largest.shape
    height, width = spec.height // 2, spec.width // 2
    whole = [m for m in maps if m.shape[2:] == (-(-spec.height // 2), -(-spec.width // 2))]
    if whole and height and width:
        corner = image[:, :, : 2 * height, : 2 * width]
        blocks = corner.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5))
        assert torch.equal(whole[0][:, :, :height, :width], blocks)


def test_the_loss_is_the_negative_log_likelihood():
    model, batch = lively(COLOUR), some_batch(lively(COLOUR))
    losses = []
    terms = model.training_step(batch, lambda _, loss: losses.append(loss), torch.Generator())
    wanted = -scored(model, batch.images, torch.arange(8)).nats.mean()
    torch.testing.assert_close(terms["model/loss"].double(), wanted, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(losses[0] * COLOUR.dimensions, terms["model/loss"])


@torch.no_grad()
def test_a_label_changes_all_couplings():
    model, images = lively(SMALL, conditional=True), some_images(1).expand(10, -1, -1, -1)
    z, _ = model.encode(images, inside(1, SMALL).expand(10, -1, -1, -1), torch.arange(10))
    assert len(z.unique(dim=0)) == 10
    assert ((z - z[:1]).abs().flatten(1).amax(0) > 0).all()


@torch.no_grad()
def test_the_cooler_the_nearer_to_the_median():
    model = lively(SMALL)
    every = seeds.image_seeds(20, 0, "sample")
    z = noise(model, every)
    assert torch.equal(model.sample(every, None), model.decode(z, None)[0])
    cold = tiny_model("flow", sampling={"temperature": 1e-6}).eval()
    cold.load_state_dict(model.state_dict())
    assert torch.equal(cold.sample(every, None), cold.decode(0 * z, None)[0])


def test_noise_is_logistic_and_finite():
    """Its variance is pi^2 / 3."""
    model = tiny_model("flow", ImageSpec(1, 40, 40, 2))
    z = noise(model, torch.arange(40))
    assert torch.isfinite(z).all()
    assert z.mean().item() == pytest.approx(0, abs=0.05)
    assert z.var().item() == pytest.approx(math.pi**2 / 3, rel=0.05)


@pytest.mark.parametrize("name", ["grey", "colour", "odd", "pixel"])
def test_pictures(name):
    spec, n = SPECS[name], 10
    model = lively(spec, conditional=name == "colour")
    found = model.illustrate(some_batch(model, n), torch.arange(n))
    assert found.keys() == {"temperatures", "scales", "interpolations"}
    for picture in found.values():
        assert picture.dtype == torch.uint8 and picture.shape[2:] == spec.shape
        assert picture.shape[0] == n and picture.shape[1] <= 10
    assert torch.equal(found["scales"][:, -1], found["temperatures"][:, -1]), "the image itself"
    first = found["scales"][:, 0].flatten(2)
    assert (first == first[:, :, :1]).all(), "its mean"
    if name in ("grey", "colour"):  # whose sums are of equally many pixels
        means = found["scales"].double().mean(dim=(3, 4))
        assert (means - means[:, -1:]).abs().max() <= 0.5
    assert torch.equal(found["interpolations"][:, 0], some_images(n, spec))


def test_it_claims_no_reconstruction():
    """It would be perfect for any image, and so would say nothing."""
    model = tiny_model("flow")
    assert not isinstance(model, Reconstructs | Inverts)
