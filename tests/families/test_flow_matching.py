import math

import numpy as np
import pytest
import torch
from builders import COLOUR, SMALL, some_batch, some_images, some_labels, tiny_model
from torch import nn

from pipeline.blocks import ode
from pipeline.core import seeds
from pipeline.core.contract import Batch, to_signed, to_uint8
from pipeline.core.images import ImageSpec
from pipeline.families.flow_matching import LAST, LATEST, MIDDLE, PLACES, SPREAD

CONDITIONAL = {"conditional": True}
TINIEST = ImageSpec(1, 4, 4, 10)


def model_with(spec=SMALL, **blocks):
    return tiny_model("flow_matching", spec, **blocks)


def lively(spec=SMALL, **blocks):
    """A model whose output is not zero."""
    model = model_with(spec, **blocks).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return model


def oracle(mean, spread, spec=SMALL, **blocks):
    """The best there could be where values are independent and N(mean, spread^2).

    x_t is N(t mean, t^2 spread^2 + (1 - t)^2), and given it the mean of x_1 - x_0 is linear in it.
    """
    model = model_with(spec, **blocks)

    def predicted(x, t, labels=None, guidance=0.0):
        t = t.double()[:, None, None, None]
        shift = (x - t * mean) / (t**2 * spread**2 + (1 - t) ** 2)
        return (mean + t * spread**2 * shift - (1 - t) * shift).to(x.dtype)

    model._predicted = predicted
    return model


def score(model, images, name="score", labels=None):
    return model.log_likelihood(images, labels, seeds.image_seeds(len(images), 0, name))


def mean_of(values):
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


# Training


class Answer(nn.Module):
    """A network that says the same velocity everywhere, and notes what it was shown."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.as_tensor(value))
        self.seen = []

    def forward(self, x, place, labels=None):
        self.seen.append((x, place, labels))
        return self.value.expand_as(x)


def test_the_path_is_straight_and_its_velocity_is_the_target():
    model, images = model_with(), some_images(3).clamp(1, 254)
    x1, x0 = to_signed(images), torch.randn(3, *SMALL.shape)
    t = torch.tensor([0.0, 0.3, 0.9])
    model.net = Answer(x1 - x0)
    assert model.loss(x0, x1, t).item() == 0
    x_t, place, _ = model.net.seen[0]
    for i, at in enumerate(t.tolist()):
        torch.testing.assert_close(x_t[i], at * x1[i] + (1 - at) * x0[i])
    assert (place[1:] - place[:-1] > 0).all()
    model.net = Answer(x1 - x0 + 0.5)
    assert model.loss(x0, x1, t).item() == pytest.approx(0.25)


def test_beyond_black_and_white_a_prediction_is_right_and_elsewhere_it_is_not():
    """By hand, pixel by pixel: the error counts unless the line ends where the image is."""
    levels = torch.tensor([0, 0, 255, 255, 128, 0], dtype=torch.uint8)
    x1 = to_signed(levels).view(6, 1, 1, 1)
    error = torch.tensor([-3.0, 3.0, 3.0, -3.0, -3.0, 0.0]).view(6, 1, 1, 1)
    model, x0 = model_with(), torch.randn(6, 1, 1, 1)
    answer = (x1 - x0 + error).requires_grad_()
    model.net.forward = lambda *_: answer
    model.loss(x0, x1, torch.full((6,), 0.5)).backward()
    expected = 2 / 6 * error * torch.tensor([0.0, 1, 0, 1, 1, 0]).view(6, 1, 1, 1)
    torch.testing.assert_close(answer.grad, expected, atol=1e-6, rtol=1e-6)


def test_a_step_is_on_the_loss_with_even_times():
    model = model_with(training={"times": "uniform"})
    model.net = Answer(0.1)
    model.training_step(some_batch(model, 64), lambda *_: None, torch.Generator().manual_seed(0))
    places = model.net.seen[0][1].sort().values
    times = torch.sigmoid((places - MIDDLE) / PLACES)
    known = times[times < 0.94]
    assert len(known) >= 60
    np.testing.assert_allclose(known.diff(), LAST / 64, atol=1e-4)
    # All later ones are one time to the network.
    np.testing.assert_allclose(times[times > LATEST - 1e-4], LATEST, atol=1e-5)


def test_logit_normal_times_are():
    model = model_with(training={"times": "logit_normal"})
    times = model._training_times((torch.arange(10_000) + 0.5) / 10_000)
    log_odds = torch.logit(times.double())
    assert log_odds.mean().abs() < 1e-3
    assert log_odds.std().item() == pytest.approx(1, abs=5e-3)
    assert model._training_times(torch.zeros(1)).item() == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_training_leaves_out_that_share_of_the_labels(share):
    model = model_with(network=CONDITIONAL, training={"label_dropout": share})
    model.net = Answer()
    batch = Batch(some_images(400), some_labels(400))
    model.training_step(batch, lambda *_: None, torch.Generator().manual_seed(0))
    told = model.net.seen[0][2]
    lost = told == SMALL.classes
    assert torch.equal(told[~lost], batch.labels[~lost])
    assert lost.float().mean().item() == pytest.approx(share, abs=0.08)


# Samples


def test_an_oracles_samples_have_the_moments_of_the_data():
    model = oracle(0.2, 0.15, ImageSpec(1, 100, 100, 10), sampling={"steps": 100})
    found = to_signed(model.sample(torch.tensor([1, 2]), None))
    assert found.mean().item() == pytest.approx(0.2, abs=0.005)
    assert found.std().item() == pytest.approx(0.15, abs=0.005)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "adams"])
@pytest.mark.parametrize(
    ("conditional", "guidance"), [(False, 0.0), (True, 0.0), (True, 1.5)], ids=str
)
def test_evaluations_are_the_calls_of_the_network(solver, conditional, guidance):
    model = model_with(
        network={"conditional": conditional},
        sampling={"solver": solver, "steps": 5, "guidance": guidance},
    )
    model.net = Answer()
    model.sample(torch.arange(2), torch.arange(2) if conditional else None)
    assert len(model.net.seen) == model.network_evaluations


def test_guidance_mixes_the_velocities_with_the_label_and_without():
    """By hand (arXiv:2207.12598, equation 6)."""
    model = model_with(network=CONDITIONAL)
    model.net.forward = lambda x, t, labels: (labels / 100)[:, None, None, None].expand_as(x)
    x, label = torch.zeros(1, *SMALL.shape), torch.tensor([3])
    found = model.velocity(x, 0.5, label, guidance=2.0)
    torch.testing.assert_close(found, torch.full_like(x, 3 * 0.03 - 2 * 0.10))


def test_the_picture_goes_from_the_noise_to_the_sample():
    model = lively(sampling={"steps": 12})
    every = seeds.image_seeds(10, 0, "sample")
    picture = model.illustrate(some_batch(model, 10), every)["flow"]
    assert picture.shape == (10, 10, *SMALL.shape)
    assert torch.equal(picture[:, 0], to_uint8(seeds.ImageNoise(every).normal(*SMALL.shape)))
    assert torch.equal(picture[:, -1], model.sample(every, None))


@pytest.mark.parametrize("spec", [SMALL, COLOUR], ids=["grey", "colour"])
def test_an_oracle_comes_back_to_the_image_that_it_left(spec):
    rng = torch.Generator().manual_seed(0)
    images = to_uint8(0.25 * torch.randn(6, *spec.shape, generator=rng))
    found = oracle(0.0, 0.25, spec).invert(images, None, seeds.image_seeds(6, 0, "inversion"))
    assert (to_signed(found) - to_signed(images)).square().mean().sqrt() < 0.01


# Likelihoods


def exact_log_density(x, mean, spread):
    """Of x at the time `LAST` in nats, float64 [B], in closed form."""
    deviation = math.sqrt(LAST**2 * spread**2 + (1 - LAST) ** 2)
    normal = torch.distributions.Normal(LAST * mean, deviation)
    return normal.log_prob(x.double()).flatten(1).sum(1)


@pytest.mark.parametrize("spread", [0.5, 0.2, 0.02])
def test_an_oracles_log_density_is_the_closed_form(spread):
    """Its Jacobian is diagonal, so that the estimate of the trace has no variance."""
    rng = torch.Generator().manual_seed(0)
    x = LAST * (0.1 + spread * torch.randn(4, *SMALL.shape, generator=rng))
    errors = []
    for steps in (12, 24, 48):
        model = oracle(0.1, spread, scoring={"steps": steps})
        model.denoised = unclipped(model)
        found = model.log_density(x, None, seeds.ImageNoise(seeds.image_seeds(4, 0, "density")))
        errors.append((found - exact_log_density(x, 0.1, spread)).abs().max().item())
    assert errors[0] / SMALL.dimensions < 0.1
    assert errors[1] < errors[0] / 5
    # What is left then are the digits of float32.
    assert errors[2] / SMALL.dimensions < 1e-3


def jacobian_trace(model, x, t):
    """The exact trace, float64 [B], by autograd's Jacobian of each image."""
    return torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda one: model.denoised(one[None], t)[0].flatten(), image
            )
            .flatten(1)
            .trace()
            .double()
            for image in x
        ]
    )


def test_log_density_is_the_one_by_exact_traces_on_average():
    """The whole of it again at 1x4x4, with autograd's Jacobian in place of directions."""
    model = lively(TINIEST, scoring={"steps": 6})
    rng = torch.Generator().manual_seed(1)
    image = 0.5 * torch.randn(1, *TINIEST.shape, generator=rng)
    times = ode.even_depths(LAST, 0.0, 6)
    told = []

    def denoise(x, t):
        told.append(TINIEST.dimensions - jacobian_trace(model, x, t))
        return model.denoised(x, t)

    with torch.no_grad():
        *_, (x0, _) = ode.solve_by_depth(denoise, image, times)
    weights = [3 / 8, 7 / 6, 23 / 24, 1.0, 23 / 24, 7 / 6, 3 / 8]
    change = -math.log(1 - LAST) / 6 * sum(w * one for w, one in zip(weights, told, strict=True))
    expected = torch.distributions.Normal(0, 1).log_prob(x0).sum() + change
    n = 2000
    noise = seeds.ImageNoise(seeds.image_seeds(n, 0, "traces"))
    mean, error = mean_of(model.log_density(image.expand(n, -1, -1, -1), None, noise))
    assert 0 < error < 0.2
    assert abs(mean - expected.item()) < 4 * error


@pytest.mark.parametrize(
    ("mean", "spread", "levels"),
    [
        (0.1, 0.2, [100, 128, 140, 200]),
        (-0.9, 0.1, [0, 1, 2, 13]),
        (-1.0, 0.002, [0, 0, 0, 1]),
        (0.9, 0.1, [255, 254, 253, 240]),
    ],
)
@pytest.mark.parametrize("kind", ["narrow", "uniform"])
def test_a_bound_is_below_the_discrete_log_probability(kind, mean, spread, levels):
    """Levels of a Gaussian have probabilities in closed form; the outermost own the tails."""
    model = oracle(mean, spread, TINIEST, scoring={"steps": 40, "dequantisation": kind})
    model.denoised = unclipped(model)
    image = torch.tensor(levels, dtype=torch.uint8).repeat(4).view(1, 1, 4, 4)
    # With the noise that is left at the last time.
    deviation = math.hypot(spread, (1 - LAST) / LAST)
    edges = [(to_signed(image).double() + side / 255 - mean) / deviation for side in (-1, 1)]
    edges[0][image == 0], edges[1][image == 255] = -math.inf, math.inf
    below, above = (torch.special.ndtr(edge) for edge in edges)
    exact = (above - below).log().sum().item()
    bound, error = mean_of(score(model, image.expand(200, -1, -1, -1)).nats)
    assert bound < exact + 4 * error + 0.01
    if levels[0] == 100:  # where the density is flat in each level, next to nothing is lost
        assert bound > exact - 4 * error - 0.05


def unclipped(model):
    """The oracle's own mean of x_1, which a normal distribution does not keep in -1..1."""

    def denoised(x, t, labels=None, guidance=0.0):
        return x + (1 - t) * model._predicted(x, torch.full((len(x),), t), labels, guidance)

    return denoised


def test_terms_and_kind_of_bound():
    found = score(lively(), some_images(4))
    assert found.bound == "elbo"
    assert found.terms.keys() == {"log_density", "dequantisation"}
    torch.testing.assert_close(sum(found.terms.values()), found.nats, rtol=0, atol=1e-9)


def test_narrow_noise_costs_black_pixels_next_to_nothing_and_uniform_noise_much():
    """Of images that are all black, known for sure: what is lost is the dequantisation's share."""
    model = model_with(scoring={"steps": 20, "dequantisation": "narrow"})
    black = torch.zeros(50, *SMALL.shape, dtype=torch.uint8)
    model.net.forward = lambda x, *_: torch.full_like(x, -1e6)
    narrow = score(model, black).nats.mean().item() / SMALL.dimensions
    share = 0.5 * math.erfc(-0.5 / SPREAD / math.sqrt(2))
    assert narrow == pytest.approx(math.log(share), abs=2e-3)
    model.params.scoring.__dict__["dequantisation"] = "uniform"
    uniform = score(model, black).nats.mean().item() / SMALL.dimensions
    expected = -0.5 * math.log(2 * math.pi) - math.log(SPREAD) - 0.5 / 12 / SPREAD**2
    assert uniform == pytest.approx(expected, abs=0.1)


def test_a_likelihood_is_told_labels_and_never_guided():
    model = model_with(network=CONDITIONAL, sampling=None, scoring={"steps": 5})
    model.net = Answer()
    labels = torch.tensor([1, 7])
    model.net.forward = lambda x, t, told: (
        model.net.seen.append(told),
        model.net.value.expand_as(x) + 0 * x,
    )[1]
    score(model, some_images(2), labels=labels)
    assert len(model.net.seen) == 6
    assert all(torch.equal(told, labels) for told in model.net.seen)


def test_black_that_the_network_is_sure_of_is_told_exactly_from_noise():
    model = model_with()
    model.net.forward = lambda x, *_: torch.full_like(x, -50.0)
    for t in (0.0, 0.5, LAST):
        x = -t + (1 - t) * torch.randn(2, *SMALL.shape, generator=torch.Generator().manual_seed(0))
        assert (model.denoised(x, t) == -1).all()
