import math

import pytest
import torch
from builders import SMALL, some_images, tiny_model
from torch import nn

from pipeline import likelihoods, seeds
from pipeline.family import ImageSpec, to_signed

LINE = ImageSpec(1, 4, 4, 10)


class Constant(nn.Module):
    """A network whose output ignores its input."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.ParameterList(outputs)

    def forward(self, x):
        found = tuple(each.expand(len(x), *each.shape[1:]) for each in self.outputs)
        return found if len(found) > 1 else found[0]


def score(model, images, name="score"):
    return model.log_likelihood(images, None, seeds.image_seeds(len(images), 0, name))


def test_terms_add_up_to_the_bound():
    found = score(tiny_model("vae"), some_images(5))
    assert found.bound == "elbo"
    assert found.terms.keys() == {"reconstruction", "kl"}
    torch.testing.assert_close(sum(found.terms.values()), found.nats)
    assert (found.terms["kl"] <= 0).all()


def test_bound_is_exact_where_the_code_says_nothing():
    model, images = tiny_model("vae"), some_images(5)
    params = torch.randn(1, 6, *SMALL.shape, generator=torch.Generator().manual_seed(0))
    model.encoder = Constant(torch.zeros(1, 3), torch.zeros(1, 3))
    model.decoder = Constant(params)
    found = score(model, images)
    exact = likelihoods.logistic_mixture_log_prob(images, params.expand(5, -1, -1, -1, -1))
    torch.testing.assert_close(found.nats, exact.double().flatten(1).sum(1), rtol=1e-5, atol=0)
    assert (found.terms["kl"] == 0).all()


def test_kl_term_is_that_of_the_posterior_to_a_standard_normal():
    model, images = tiny_model("vae"), some_images(5)
    mean, log_var = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.3, -1.0, 2.0]])
    model.encoder = Constant(mean, log_var)
    posterior = torch.distributions.Normal(mean, (log_var / 2).exp())
    exact = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(score(model, images).terms["kl"], -exact.sum().double().expand(5))


def test_bound_equals_quadrature_and_stays_below_the_evidence():
    network = {"latent": 1, "hidden": 64, "channels": 8}
    model = tiny_model("vae", LINE, network=network, scoring={"posterior_samples": 64})
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    image = some_images(1, LINE)
    grid = torch.linspace(-8, 8, 4001)[:, None]
    step = 16 / 4000
    with torch.no_grad():
        params = model.decoder(grid)
        given = likelihoods.logistic_mixture_log_prob(image.expand(4001, -1, -1, -1), params)
        given = given.double().flatten(1).sum(1)
        mean, log_var = (each.double() for each in model.encoder(image))
    prior = likelihoods.gaussian_log_density(grid.double(), 0.0, 0.0)[:, 0]
    posterior = likelihoods.gaussian_log_density(grid.double(), mean, log_var)[:, 0]
    evidence = torch.logsumexp(given + prior, dim=0) + math.log(step)
    bound = (posterior.exp() * (given + prior - posterior)).sum() * step
    found = score(model, image.expand(200, -1, -1, -1)).nats
    stderr = found.std() / math.sqrt(200)
    assert abs(found.mean() - bound) < 4 * stderr + 1e-3
    assert bound < evidence
    assert found.mean() < evidence


def test_more_draws_reduce_the_variance():
    image = some_images(1).expand(300, -1, -1, -1)
    spreads = [
        score(tiny_model("vae", scoring={"posterior_samples": draws}), image).nats.var()
        for draws in (1, 16)
    ]
    assert spreads[0] / spreads[1] == pytest.approx(16, rel=0.5)


def test_decoder_is_called_once_for_each_draw():
    model, calls = tiny_model("vae", scoring={"posterior_samples": 5}), []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    score(model, some_images(4))
    assert len(calls) == 5


def test_training_minimises_the_same_bound():
    """The training loss at one draw is, on average, minus the reported bound."""
    model, images = tiny_model("vae"), some_images(4)
    rng = torch.Generator().manual_seed(0)
    batch = type("Batch", (), {"images": images})
    losses = [
        model.training_step(batch, lambda *_: None, rng)["model/loss"].double() for _ in range(300)
    ]
    losses = torch.stack(losses)
    tolerance = 4 * losses.std() / math.sqrt(300) + 0.02
    assert abs(losses.mean() + score(model, images).nats.mean()) < tolerance + 0.05


def test_reconstruction_is_deterministic_and_the_decoders_mean():
    model, images = tiny_model("vae"), some_images(4)
    found = model.reconstruct(images, None)
    assert torch.equal(found, model.reconstruct(images, None))
    params = torch.tensor([0.0, 0.0, 0.25, 0.25, -5.0, -5.0])[None, :, None, None, None]
    model.decoder = Constant(params.expand(1, 6, *SMALL.shape))
    assert (model.reconstruct(images, None) == round(1.25 * 127.5)).all()


def test_sampling_pixels_have_the_noise_that_their_mean_lacks():
    every = seeds.image_seeds(64, 0, "sample")
    mean = tiny_model("vae", sampling={"pixels": "mean"}).sample(every, None)
    drawn = tiny_model("vae", sampling={"pixels": "sample"}).sample(every, None)
    assert to_signed(drawn).var() > 10 * to_signed(mean).var()
    average = to_signed(drawn).mean(dim=0) - to_signed(mean).mean(dim=0)
    assert average.abs().mean() < 0.2
