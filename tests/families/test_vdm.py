import math

import numpy as np
import pytest
import torch
from builders import SMALL, some_images, some_labels, tiny_model
from pydantic import ValidationError
from torch import nn

from pipeline.core import seeds
from pipeline.core.contract import Batch, to_signed
from pipeline.core.images import ImageSpec
from pipeline.families.vdm import Schedule, VdmNetwork

DECODERS = pytest.mark.parametrize("decoder", ["posterior", "softmax"])


def lively(spec=SMALL, **blocks):
    """A model whose output is not what it was drawn with, and whose gamma is not straight."""
    model = tiny_model("vdm", spec, **blocks)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
        model.schedule.logits.add_(torch.randn(model.schedule.logits.shape, generator=rng))
    return model.eval()


def score(model, images, name="score"):
    return model.log_likelihood(images, None, seeds.image_seeds(len(images), 0, name))


def agree(one, other, deviations=4.5):
    """Whether two samples [n] have the same mean, by their standard errors."""
    stderr = math.sqrt(one.var() / len(one) + other.var() / len(other))
    return abs(one.mean() - other.mean()) < deviations * stderr


def bent(pieces=7):
    schedule = Schedule(VdmNetwork(gamma_min=-4.0, gamma_max=3.0, pieces=pieces))
    rng = torch.Generator().manual_seed(0)
    nn.init.normal_(schedule.logits, std=1.5, generator=rng)
    return schedule


def test_gamma_rises_from_one_end_to_the_other():
    t = torch.linspace(0, 1, 10_001)
    gamma, slope = bent()(t)
    assert (gamma.diff() > 0).all() and (slope > 0).all()
    assert gamma[0].item() == pytest.approx(-4.0)
    assert gamma[-1].item() == pytest.approx(3.0, abs=1e-4)


def test_its_slope_is_its_derivative_and_one_over_the_density():
    schedule = bent()
    t = torch.rand(500, generator=torch.Generator().manual_seed(1))
    gamma, slope = schedule(t)
    later = schedule(t + 2e-4)[0]
    rise, smooth = (later - gamma) / 2e-4, later.floor() == gamma.floor()  # no corner between
    assert smooth.float().mean() > 0.9
    np.testing.assert_allclose(rise[smooth], slope[smooth], rtol=0.02)
    np.testing.assert_allclose(schedule.log_density(gamma).detach(), -slope.log(), atol=1e-4)
    grid = torch.linspace(-4, 3, 70_001)[:-1] + 5e-5
    assert schedule.log_density(grid).exp().mean().item() * 7 == pytest.approx(1, abs=1e-3)


def test_gamma_learns_the_density_of_least_variance():
    """That is proportional to the root of the mean square of the error at gamma.

    Without chance every draw would then be the integral itself. Here the error at gamma is chance
    in the first pieces, 0 or twice its mean.
    """
    schedule, rng = bent(), torch.Generator().manual_seed(0)
    nn.init.zeros_(schedule.logits)
    error = torch.tensor([0.5, 1.0, 2.0, 4.0, 3.0, 1.0, 0.2])
    optimiser = torch.optim.Adam(schedule.parameters(), lr=0.05)
    for _ in range(500):
        gamma, slope = schedule((torch.rand(1, generator=rng) + torch.arange(64) / 64) % 1)
        piece = (gamma + 4).long().clamp(0, 6)
        chance = torch.where(piece < 4, 2.0 * torch.randint(2, (64,), generator=rng), 1.0)
        estimate = slope * error[piece] * chance
        optimiser.zero_grad()
        schedule.loss(gamma, estimate).backward()
        optimiser.step()
    share = schedule.logits.detach().softmax(0)
    error[:4] *= math.sqrt(2)
    np.testing.assert_allclose(share, error / error.sum(), atol=0.03)


def of_independent_pixels(weights, n, seed):
    """Images whose levels are drawn by these weights, float64 [256]."""
    rng = torch.Generator().manual_seed(seed)
    found = torch.multinomial(weights, n * SMALL.dimensions, replacement=True, generator=rng)
    return found.view(n, *SMALL.shape).to(torch.uint8)


def with_oracle(model, weights):
    """The best network there could be for such images, by brute force over what they have."""
    support = weights.nonzero().flatten()
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)[support][:, None, None, None]

    def posterior(z, gamma):
        alpha = torch.sigmoid(-gamma.double()).sqrt()[:, None, None, None, None]
        sigma = torch.sigmoid(gamma.double()).sqrt()[:, None, None, None, None]
        likely = -0.5 * ((z.double()[:, None] - alpha * levels) / sigma) ** 2
        return (likely + weights[support].log()[:, None, None, None]).log_softmax(1)

    def log_prob(images, z, _):
        start = torch.full((len(z),), model.schedule.low)
        place = torch.searchsorted(support, images.long())[:, None]
        return posterior(z, start).gather(1, place).flatten(1).sum(1)

    model._seen = lambda z, *_: z
    model._x_hat = lambda z, gamma, _: (posterior(z, gamma).exp() * levels).sum(1)
    model._log_prob = log_prob
    return model


@pytest.mark.parametrize("low", [-3.0, -1.0])
def test_with_the_best_network_the_bound_is_the_entropy_whatever_the_ends(low):
    """The integral of mean squared errors is information (Guo et al. 2005), exactly."""
    weights = torch.zeros(256, dtype=torch.float64)
    weights[[20, 60, 128, 195, 236]] = torch.tensor([0.3, 0.1, 0.2, 0.15, 0.25]).double()
    ends = {"gamma_min": low, "gamma_max": 6.0}
    model = with_oracle(lively(network=ends, scoring={"times": 20}), weights)
    nn.init.zeros_(model.schedule.logits)
    images = of_independent_pixels(weights, 2500, 0)
    exact = -(weights / weights.sum()).log()[images.long()].flatten(1).sum(1)
    found = -score(model, images).nats
    # The same images: what is left is the randomness of the estimate.
    difference = found - exact
    stderr = difference.std().item() / math.sqrt(len(difference))
    entropy = exact.mean().item()
    assert abs(difference.mean().item()) < 4.5 * stderr + 0.002 * entropy
    assert stderr < 0.005 * entropy


def test_terms_add_up_and_the_prior_is_in_closed_form():
    model, images = lively(), some_images(4)
    found = score(model, images)
    assert found.bound == "vlb"
    assert found.terms.keys() == {"reconstruction", "diffusion", "prior"}
    torch.testing.assert_close(sum(found.terms.values()), found.nats, rtol=0, atol=1e-9)
    alpha2 = 1 / (1 + math.exp(5.0))
    last = torch.distributions.Normal(
        math.sqrt(alpha2) * to_signed(images).double(), math.sqrt(1 - alpha2)
    )
    standard = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    exact = torch.distributions.kl_divergence(last, standard).flatten(1).sum(1)
    torch.testing.assert_close(found.terms["prior"], -exact, rtol=1e-4, atol=1e-6)


@DECODERS
def test_the_training_loss_is_the_bound(decoder):
    """In nats per dimension, but for the prior term, which nothing can change."""
    ends = {"gamma_min": -3.0, "gamma_max": 4.0}
    model = lively(network={"decoder": decoder, **ends}, scoring={"times": 4})
    image = some_images(1)
    batch = Batch(image.expand(16, -1, -1, -1), some_labels(16))
    losses = {"diffusion": [], "reconstruction": []}
    given = []
    with torch.no_grad():
        for step in range(60):
            rng = torch.Generator().manual_seed(step)
            terms = model.training_step(batch, lambda name, loss: given.append((name, loss)), rng)
            assert sum(terms[f"model/{key}"] for key in losses) == pytest.approx(
                terms["model/loss"].item(), rel=1e-5
            )
            assert given[-2][0] == "model" and given[-2][1] == terms["model/loss"]
            for key, values in losses.items():
                values.append(terms[f"model/{key}"].item())
    found = score(model, image.expand(300, -1, -1, -1)).terms
    for key, values in losses.items():
        assert agree(torch.tensor(values), -found[key] / SMALL.dimensions), key


def test_the_bound_does_not_depend_on_gamma_between_its_ends():
    one, other = lively(scoring={"times": 3}), lively(scoring={"times": 3})
    nn.init.zeros_(other.schedule.logits)
    image = some_images(1).expand(500, -1, -1, -1)
    first, second = score(one, image).terms, score(other, image, "other").terms
    assert agree(first["diffusion"], second["diffusion"])


def test_more_times_are_less_variance_and_strata_less_than_chance():
    """Of the times alone: the error is known at each."""
    image = some_images(1).expand(400, -1, -1, -1)

    def variance(times):
        model = lively(scoring={"times": times})
        nn.init.zeros_(model.schedule.logits)
        model._error = lambda x, z, gamma, seen: torch.exp(-gamma / 3)
        return score(model, image).terms["diffusion"].var().item()

    assert variance(8) < variance(1) / 16


def test_probabilities_of_the_papers_decoder_sum_to_one():
    """Those of the other are in tests/blocks/test_level_posterior.py."""
    model = lively(network={"decoder": "softmax"})
    z = torch.full((256, *SMALL.shape), -0.9)
    every = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, *SMALL.shape)
    found = model._log_prob(every, z, z)
    assert (found / SMALL.dimensions).exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_the_papers_decoder_knows_the_image_where_there_is_no_noise():
    model = lively(network={"decoder": "softmax", "gamma_min": -13.3})
    terms = score(model, some_images(3)).terms
    assert (terms["reconstruction"] > -0.02 * SMALL.dimensions).all()


def test_every_image_of_a_batch_has_one_of_both_terms():
    model, seen = lively(training={"reconstructed": 3}), []
    model.net.register_forward_hook(lambda _, args, __: seen.append(args[1]))
    batch = Batch(some_images(8), some_labels(8))
    for seed in range(5):
        model.training_step(batch, lambda *_: None, torch.Generator().manual_seed(seed))
    for places in seen:
        assert (places == 0).nonzero().flatten().tolist() == [0, 3, 6]
    times = torch.stack(seen)[:, [1, 2, 4, 5, 7]]
    assert (times > 0).all() and (times < 1000).all()


@pytest.mark.parametrize("solver", ["ancestral", "ode"])
@pytest.mark.parametrize("pixels", ["mean", "sample"])
@DECODERS
def test_samples_are_what_the_oracle_knows(solver, pixels, decoder):
    ends = {"gamma_min": -13.3, "decoder": decoder}
    model = lively(network=ends, sampling={"solver": solver, "steps": 6, "pixels": pixels})
    images, calls = some_images(3), []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    model._x_hat = lambda *_: to_signed(images)
    found = model.sample(seeds.image_seeds(3, 0, "sample"), None)
    if decoder == "softmax":  # z tells the levels by itself
        assert (found.int() - images.int()).abs().max() <= 1
    assert len(calls) == model.network_evaluations == 6 + (decoder == "posterior")


@torch.no_grad()
def test_ancestral_steps_are_those_of_the_bound():
    """The posterior q(z_s|z_t, x) as in the paper's appendix A, by moments of many pixels."""
    spec = ImageSpec(1, 96, 96, 10)
    model = lively(spec, sampling={"solver": "ancestral", "steps": 3, "pixels": "mean"})
    model._x_hat = lambda z, *_: torch.full_like(z, 0.5)
    states = []
    model._decoded = lambda z, *_: states.append(z) or torch.zeros(z.shape, dtype=torch.uint8)
    model.sample(torch.tensor([1, 2]), None)
    alpha2 = 1 / (1 + math.exp(model.schedule.low))
    # From the prior on, all marginals are those of x = 0.5 but for the prior's small mean.
    start = math.sqrt(1 / (1 + math.exp(model.schedule.high)))
    assert states[0].mean().item() == pytest.approx(0.5 * math.sqrt(alpha2), abs=0.02 + start)
    assert states[0].std().item() == pytest.approx(math.sqrt(1 - alpha2), rel=0.03)


def test_denoising_goes_from_the_noise_to_the_sample():
    model = lively(sampling={"steps": 12})
    every = seeds.image_seeds(10, 0, "sample")
    picture = model.illustrate(Batch(some_images(10), some_labels(10)), every)["denoising"]
    assert picture.shape == (10, 10, *SMALL.shape)
    assert torch.equal(picture[:, -1], model.sample(every, None))


def test_the_network_sees_waves_of_the_input():
    model, seen = lively(network={"fourier": "0,3"}), []
    model.net.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    z = torch.randn(2, *SMALL.shape, generator=torch.Generator().manual_seed(0))
    model._seen(z, torch.zeros(2), None)
    expected = [z, (math.pi * z).sin(), (math.pi * z).cos()]
    expected += [(8 * math.pi * z).sin(), (8 * math.pi * z).cos()]
    torch.testing.assert_close(seen[0], torch.cat(expected, dim=1))


def test_a_conditional_model_is_told_the_labels():
    model = lively(network={"conditional": True})
    assert model.conditional
    z = torch.zeros(2, *SMALL.shape)
    one, other = (model._seen(z, torch.zeros(2), torch.full((2,), each)) for each in (1, 2))
    assert not torch.equal(one.means, other.means)


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match="gamma_min must be below gamma_max"):
        VdmNetwork(gamma_min=2.0, gamma_max=1.0)
