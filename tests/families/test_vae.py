import math

import pytest
import torch
from builders import COLOUR, some_images, some_labels, tiny_model, trainer
from torch import nn

from pipeline.blocks import distributions
from pipeline.core import seeds
from pipeline.core.contract import Batch, to_signed
from pipeline.core.images import ImageSpec

LINE = ImageSpec(1, 4, 4, 10)
TWO = ImageSpec(1, 8, 8, 2)
CONDITIONAL = {"conditional": True}
WITH_PRIOR = {"conditional": True, "prior": "label"}


class Constant(nn.Module):
    """A network whose output ignores its input."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.ParameterList(outputs)

    def forward(self, x):
        return torch.cat([each.expand(len(x), *each.shape[1:]) for each in self.outputs], dim=1)


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
    params = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    model.encoder = Constant(torch.zeros(1, 3), torch.zeros(1, 3))
    model.decoder = Constant(params)
    found = score(model, images)
    exact = distributions.logistic_mixture_log_prob(images, params[:, :, None].expand(5, *[-1] * 4))
    torch.testing.assert_close(found.nats, exact.double().flatten(1).sum(1), rtol=1e-5, atol=0)
    assert (found.terms["kl"] == 0).all()
    torch.testing.assert_close(found.iwae, found.nats, rtol=1e-6, atol=0)


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
        given = model.decode(grid, None).log_prob(image.expand(4001, -1, -1, -1))
        given = given.double().flatten(1).sum(1)
        mean, log_var = (each.double() for each in model.encode(image, None))
    prior = distributions.gaussian_log_density(grid.double(), 0.0, 0.0)[:, 0]
    posterior = distributions.gaussian_log_density(grid.double(), mean, log_var)[:, 0]
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
    batch = Batch(images, torch.zeros(4, dtype=torch.long))
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
    params = torch.tensor([0.0, 0.0, 0.25, 0.25, -5.0, -5.0])[None, :, None, None]
    model.decoder = Constant(params.expand(1, 6, 8, 8))
    assert (model.reconstruct(images, None) == round(1.25 * 127.5)).all()


def test_sampling_pixels_have_the_noise_that_their_mean_lacks():
    every = seeds.image_seeds(64, 0, "sample")
    mean = tiny_model("vae", sampling={"pixels": "mean"}).sample(every, None)
    drawn = tiny_model("vae", sampling={"pixels": "sample"}).sample(every, None)
    assert to_signed(drawn).var() > 10 * to_signed(mean).var()
    average = to_signed(drawn).mean(dim=0) - to_signed(mean).mean(dim=0)
    assert average.abs().mean() < 0.2


@pytest.mark.parametrize(("hidden", "layers"), [(0, 1), (8, 2)])
def test_hidden_0_leaves_the_layer_between_out(hidden, layers):
    model = tiny_model("vae", network={"hidden": hidden})
    for network in (model.encoder, model.decoder):
        assert sum(isinstance(each, nn.Linear) for each in network.modules()) == layers


def test_colours_of_a_pixel_follow_one_another():
    """Which log-probabilities move, given the code, when one channel of the pixel (2, 1) does."""
    model = tiny_model("vae", COLOUR)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
        decoded = model.decode(torch.randn(1, 3, generator=torch.Generator().manual_seed(0)), None)
        images = some_images(1, COLOUR)
        before = decoded.log_prob(images)
        for channel in range(3):
            others = images.clone()
            others[:, channel, 2, 1] += 100
            moved = (decoded.log_prob(others) != before)[0]
            assert moved[:, 2, 1].tolist() == [False] * channel + [True] * (3 - channel)
            assert moved.sum() == 3 - channel


def test_samples_in_colour_are_drawn_channel_by_channel_from_what_was_decoded():
    every = seeds.image_seeds(6, 0, "sample")
    model = tiny_model("vae", COLOUR, sampling={"pixels": "sample"})
    found, decoded, drawn = model.sample(every, None), [], seeds.ImageNoise(every)
    model.decode = lambda codes, labels: decoded.append((codes, labels)) or mixture
    codes = drawn.normal(model.params.network.latent)
    mixture = type(model).decode(model, codes, None)
    choice, position = drawn.uniform(2, *COLOUR.shape).unbind(dim=1)
    assert torch.equal(found, mixture.sample(choice, position))
    assert torch.equal(model.sample(every, None), found)
    torch.testing.assert_close(decoded[0][0], codes)


def test_it_learns_that_green_is_red():
    """Of noise that all three channels share: the first costs what noise does, others hardly."""
    rng = torch.Generator().manual_seed(0)
    grey = torch.randint(256, (256, 1, 8, 8), generator=rng, dtype=torch.uint8)
    model = tiny_model("vae", COLOUR, training={"batch": 32, "learning_rate": 0.02})
    made = trainer(model, steps=200)
    made.images, made.labels = grey.expand(-1, 3, -1, -1), torch.zeros(256).long()
    made.run()
    with torch.no_grad():
        decoded = model.decode(torch.zeros(32, 3), None)
        bits = -decoded.log_prob(made.images[:32]).mean(dim=(0, 2, 3)) / math.log(2)
    red, green, blue = bits.tolist()
    assert red == pytest.approx(8, abs=0.5)
    assert green < 6.5 and blue < 6.5, bits


def test_the_bounds_of_one_gaussian_pixel_are_the_closed_forms(monkeypatch):
    """x = 1, z ~ N(0, 1), x given z ~ N(z, 1), and the prior for q."""
    draws = 4000
    model = tiny_model("vae", LINE, network={"latent": 1}, scoring={"posterior_samples": draws})
    zero = torch.zeros(40, 1)
    monkeypatch.setattr(model, "encode", lambda *_: (zero, zero))
    monkeypatch.setattr(
        model,
        "_reconstruction",
        lambda images, codes, labels: distributions.gaussian_log_density(
            torch.ones(()), codes, 0.0
        ).sum(1),
    )
    found = score(model, some_images(1, LINE).expand(40, -1, -1, -1))
    log_p = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(torch.ones(()))
    assert log_p.item() == pytest.approx(-1.515512, abs=1e-6)
    assert found.nats.mean().item() == pytest.approx(-1.918939, abs=0.01)
    assert found.iwae.mean().item() == pytest.approx(-1.515512, abs=0.005)


def test_importance_weights_of_a_linear_gaussian_model_are_the_evidence(monkeypatch):
    """With the true posterior as q every weight is p(x), so the bound is exact at any K."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 2, generator=rng) * 0.4
    variance = 0.05
    model = tiny_model(
        "vae", LINE, network={"latent": 2, "mixtures": 1}, scoring={"posterior_samples": 3}
    )
    images = some_images(6, LINE)
    x = to_signed(images).flatten(1).double()
    wide = weight.double()
    posterior = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + wide.T @ wide / variance)
    # Rotated so that the posterior's covariance is diagonal, as the family's q is.
    values, vectors = torch.linalg.eigh(posterior)
    wide = wide @ vectors
    mean = x @ wide / variance * values
    monkeypatch.setattr(
        model, "encode", lambda *_: (mean.float(), values.log().expand(6, 2).float())
    )

    def gaussian(images, codes, labels):
        means = codes.double() @ wide.T
        return distributions.gaussian_log_density(x, means, math.log(variance)).sum(1)

    monkeypatch.setattr(model, "_reconstruction", gaussian)
    covariance = wide @ wide.T + variance * torch.eye(16, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(16, dtype=torch.float64), covariance
    ).log_prob(x)
    found = score(model, images)
    torch.testing.assert_close(found.iwae, evidence, rtol=1e-5, atol=1e-3)
    assert (found.nats - evidence).mean().abs() < (found.nats - evidence).std() * 3 + 1e-3


def test_importance_bound_rises_with_the_draws_from_the_elbo_to_the_evidence():
    network = {"latent": 1, "hidden": 64, "channels": 8}
    image = some_images(1, LINE).expand(400, -1, -1, -1)
    found = {}
    for draws in (1, 4, 64):
        model = tiny_model("vae", LINE, network=network, scoring={"posterior_samples": draws})
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter.mul_(5)
        found[draws] = score(model, image)
    means = {draws: each.iwae.mean().item() for draws, each in found.items()}
    stderr = found[1].iwae.std().item() / 20
    assert abs(means[1] - found[64].nats.mean().item()) < 4 * stderr
    assert means[1] < means[4] < means[64]
    grid = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        given = model.decode(grid, None).log_prob(image[:1].expand(4001, -1, -1, -1))
    prior = distributions.gaussian_log_density(grid.double(), 0.0, 0.0)[:, 0]
    log_joint = given.double().flatten(1).sum(1) + prior
    evidence = (torch.logsumexp(log_joint, dim=0) + math.log(16 / 4000)).item()
    assert means[64] < evidence + 4 * found[64].iwae.std().item() / 20
    assert found[64].iwae_samples == 64


def test_beta_changes_the_objective_and_not_the_metric():
    images, labels = some_images(4), some_labels(4)
    scored, losses = [], []
    for beta in (1.0, 4.0):
        model = tiny_model("vae", training={"beta": beta})
        scored.append(score(model, images))
        terms = model.training_step(
            Batch(images, labels), lambda *_: None, torch.Generator().manual_seed(0)
        )
        losses.append(terms)
    assert torch.equal(scored[0].nats, scored[1].nats)
    assert torch.equal(scored[0].iwae, scored[1].iwae)
    kl, reconstruction = losses[0]["model/kl"], losses[0]["model/reconstruction"]
    torch.testing.assert_close(losses[0]["model/loss"], reconstruction + kl)
    torch.testing.assert_close(losses[1]["model/loss"], reconstruction + 4 * kl)


def test_a_prior_by_label_needs_labels():
    with pytest.raises(ValueError, match="prior: label needs conditional: true"):
        tiny_model("vae", network={"prior": "label"})


def with_fitted_prior(**network):
    """A model whose prior is at known places, one mixture for each of two labels."""
    model = tiny_model("vae", TWO, network={**WITH_PRIOR, "components": 2, **network})
    rng = torch.Generator().manual_seed(3)
    prior = model.prior
    prior.weights.copy_(torch.tensor([[0.3, 0.7], [0.5, 0.5]]))
    prior.means.copy_(torch.randn(prior.means.shape, generator=rng))
    factors = torch.randn(prior.factors.shape, generator=rng).tril(-1)
    prior.factors.copy_(factors + torch.eye(3) * 0.5)
    prior.fitted.fill_(True)
    return model


def test_labels_reach_encoder_and_decoder():
    model = tiny_model("vae", network=CONDITIONAL)
    assert model.conditional
    one, other = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long)
    images, codes = some_images(2), torch.zeros(2, 3)
    assert not torch.equal(model.encode(images, one)[0], model.encode(images, other)[0])
    assert not torch.equal(model.decode(codes, one).params, model.decode(codes, other).params)


def test_elbo_and_importance_bound_use_the_prior_of_the_label():
    """Against importance sampling by hand with torch's distributions."""
    model, image = with_fitted_prior(), some_images(1, TWO)
    every = seeds.image_seeds(1, 0, "score")
    draws = model.params.scoring.posterior_samples
    normal = seeds.ImageNoise(every).normal(draws, 3)[0]
    for label in (0, 1):
        told = torch.tensor([label])
        mean, log_var = (each.detach() for each in model.encode(image, told))
        codes = mean + normal * (log_var / 2).exp()
        prior = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(model.prior.weights[label]),
            torch.distributions.MultivariateNormal(
                model.prior.means[label], scale_tril=model.prior.factors[label]
            ),
        )
        q = torch.distributions.Normal(mean, (log_var / 2).exp())
        with torch.no_grad():
            decoded = model.decode(codes, told.expand(draws))
            log_p = decoded.log_prob(image.expand(draws, -1, -1, -1))
        log_p = log_p.flatten(1).sum(1).double()
        difference = (q.log_prob(codes).sum(1) - prior.log_prob(codes)).double()
        found = model.log_likelihood(image, told, every)
        close = {"rtol": 1e-5, "atol": 1e-3}
        torch.testing.assert_close(found.terms["kl"][0], -difference.mean(), **close)
        torch.testing.assert_close(found.nats[0], (log_p - difference).mean(), **close)
        exact = torch.logsumexp(log_p - difference, 0) - math.log(draws)
        torch.testing.assert_close(found.iwae[0], exact, **close)


def test_samples_come_from_the_prior_of_their_label():
    model = with_fitted_prior()
    seen, nothing = [], distributions.PixelMixture(torch.zeros(2000, 6, 1, 8, 8), None)
    model.decode = lambda codes, labels: seen.append(codes) or nothing
    labels = torch.arange(2000) % 2
    model.sample(seeds.image_seeds(2000, 0, "sample"), labels)
    for label in (0, 1):
        expected = (model.prior.weights[label][:, None] * model.prior.means[label]).sum(0)
        found = seen[0][labels == label].mean(0)
        torch.testing.assert_close(found, expected, atol=0.15, rtol=0)


ONE_GAUSSIAN = [
    ({**WITH_PRIOR, "components": 1}, "for each label a full-covariance Gaussian"),
    ({"prior": "mixture", "components": 1}, "full-covariance Gaussian"),
    ({"prior": "mixture", "components": 3}, "mixture of 3 full-covariance Gaussians"),
    ({"conditional": True, "prior": "mixture", "components": 1}, "full-covariance Gaussian"),
]


@pytest.mark.parametrize(("network", "told"), ONE_GAUSSIAN)
def test_fitting_the_prior_raises_the_bound_that_it_is_the_optimum_of(network, told):
    model = tiny_model("vae", TWO, network=network)
    images = some_images(64, TWO)
    labels = torch.arange(64) % 2
    images[labels == 1] //= 4
    every = seeds.image_seeds(64, 0, "score")
    with torch.no_grad():
        before = model.log_likelihood(images, labels, every)
        batch = Batch(images, labels)
        model.finish(iter([batch] * 8), torch.Generator().manual_seed(0))
        after = model.log_likelihood(images, labels, every)
    assert model.prior.fitted
    assert after.terms["kl"].mean() > before.terms["kl"].mean()
    assert model.facts() == {"prior": told}


def test_without_labels_a_fitted_prior_is_that_of_all_codes():
    """Codes of q are far from the standard normal, and what is drawn is where they are."""
    model = tiny_model("vae", network={"prior": "mixture", "components": 2})
    images = some_images(64)
    away = torch.tensor([3.0, -2.0, 5.0])
    signs = torch.arange(64) % 2 * 2.0 - 1
    model.encode = lambda given, labels: (signs[:, None] * away, torch.full((64, 3), -2.0))
    batch = Batch(images, some_labels(64))
    model.finish(iter([batch] * 8), torch.Generator().manual_seed(0))
    noise = seeds.ImageNoise(seeds.image_seeds(400, 0, "sample"))
    drawn = model._draw_codes(noise, None)
    sides = drawn @ away / (away @ away)
    assert sides.abs().min() > 0.5 and 0.4 < (sides > 0).float().mean() < 0.6
    every = seeds.image_seeds(64, 0, "score")
    found = model.log_likelihood(images, None, every).terms["kl"].mean()
    # That of two narrow Gaussians from an even mixture of the two is log 2, in either's middle.
    assert -found == pytest.approx(math.log(2), abs=0.05)


def test_wrong_labels_are_worse_than_the_right_ones():
    """A paired test on images whose top half tells the class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    images = torch.randint(0, 40, (256, 1, 8, 8), generator=rng)
    images[:, :, :4] += 200 * labels[:, None, None, None]
    images = images.to(torch.uint8)
    model = tiny_model(
        "vae", TWO, network={**CONDITIONAL, "latent": 1, "hidden": 32}, training={"batch": 32}
    )
    made = trainer(model, steps=150)
    made.images, made.labels = images, labels
    made.run()
    every = seeds.image_seeds(256, 0, "score")
    right = model.log_likelihood(images, labels, every).nats
    wrong = model.log_likelihood(images, 1 - labels, every).nats
    gain = right - wrong
    assert gain.mean() > 4 * gain.std() / 16
    assert gain.mean() > 1


def test_pictures_of_the_latent_space():
    batch = Batch(some_images(10), some_labels(10))
    every = seeds.image_seeds(10, 0, "illustrate")
    model = tiny_model("vae", training=None, scoring=None)
    found = model.illustrate(batch, every)
    assert found["traversals"].shape == (3, 10, 1, 8, 8)
    assert found["interpolations"].shape == (10, 10, 1, 8, 8)
    rebuilt = model.reconstruct(batch.images, None)
    assert torch.equal(found["interpolations"][:, 0], rebuilt)
    assert torch.equal(found["interpolations"][:, -1], rebuilt.roll(-1, dims=0))
    styles = tiny_model("vae", network=CONDITIONAL).illustrate(batch, every)["styles"]
    assert styles.shape == (10, 10, 1, 8, 8)
    many = tiny_model("vae", ImageSpec(1, 8, 8, 26), network=CONDITIONAL)
    assert many.illustrate(batch, every)["styles"].shape == (3, 26, 1, 8, 8)
