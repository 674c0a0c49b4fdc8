import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from builders import SMALL, some_images, some_labels, tiny_model, trained
from torch import nn

from pipeline.blocks.diffusion import Diffusion, stepped
from pipeline.core import seeds
from pipeline.core.contract import Batch, to_signed, to_uint8
from pipeline.core.images import ImageSpec
from pipeline.families import ddpm

SCHEDULES = pytest.mark.parametrize("schedule", ["cosine", "linear"])


def diffusion(steps=50, schedule="cosine"):
    return Diffusion(schedule, steps)


def model_with(steps=50, spec=SMALL, **blocks):
    return tiny_model("ddpm", spec, network={"steps": steps, **blocks.pop("network", {})}, **blocks)


def lively(**options):
    """A model whose output is not zero."""
    model = model_with(**options)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return model


def step(model, x, now, then, noise):
    """One step of DDIM."""
    bars = model.diffusion.alpha_bar[[now, then]].tolist()
    return stepped(*model._split(x, now, None, 0.0), *bars, model.params.sampling.eta, noise)


def score(model, images, name="score"):
    return model.log_likelihood(images, None, seeds.image_seeds(len(images), 0, name))


@SCHEDULES
def test_noisy_images_have_the_moments_of_single_steps(schedule):
    process = diffusion(50, schedule)
    mean, variance = 1.0, 0.0
    for t in range(1, 51):
        beta = process.beta[t].item()
        mean, variance = mean * math.sqrt(1 - beta), variance * (1 - beta) + beta
        times, one, zero = torch.tensor([t]), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        assert process.noisy(one, times, zero).item() == pytest.approx(mean, rel=1e-5)
        assert process.noisy(zero, times, one).item() ** 2 == pytest.approx(variance, rel=1e-5)


def test_tables_are_indexed_as_in_the_papers():
    process = diffusion(1000, "linear")
    assert len(process.beta) == len(process.alpha_bar) == 1001
    assert process.alpha_bar[0] == 1 and process.beta[0] == 0
    assert process.beta[1].item() == pytest.approx(1e-4)
    assert process.beta[1000].item() == pytest.approx(0.02)
    assert process.alpha_bar[1].item() == pytest.approx(1 - 1e-4)
    assert process.beta.dtype == torch.float64


def test_cosine_schedule_is_the_papers():
    process = diffusion(1000)
    t = np.arange(990)
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(process.alpha_bar[:990], f / f[0], rtol=1e-9)
    assert process.beta.max() <= 0.999


@SCHEDULES
@pytest.mark.parametrize("steps", [2, 10, 50, 1000])
def test_last_image_is_noise_for_any_number_of_steps(schedule, steps):
    assert diffusion(steps, schedule).alpha_bar[-1] < 2e-3


@SCHEDULES
def test_posterior_is_bayes_rule(schedule):
    process = diffusion(50, schedule)
    beta = process.beta.numpy()
    x0, x_t = 0.3, -1.2
    for t in range(2, 51):
        before = np.prod(1 - beta[1:t])
        precision = (1 - beta[t]) / beta[t] + 1 / (1 - before)
        mean = np.sqrt(1 - beta[t]) * x_t / beta[t] + np.sqrt(before) * x0 / (1 - before)
        times = torch.tensor([t])
        found = process.posterior_mean(
            torch.full((1, 1, 1, 1), x0), torch.full((1, 1, 1, 1), x_t), times
        )
        assert found.item() == pytest.approx(mean / precision, rel=1e-5, abs=1e-6)
        assert process.posterior_variance[t].item() == pytest.approx(1 / precision, rel=1e-9)


def test_at_the_first_step_the_posterior_is_the_image():
    process = diffusion()
    x0, x_1 = torch.rand(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    times = torch.ones(3, dtype=torch.long)
    torch.testing.assert_close(process.posterior_mean(x0, x_1, times), x0)
    assert process.posterior_variance[1] == 0
    assert process.model_variance(times, "posterior")[0] == process.posterior_variance[2]
    assert process.model_variance(times, "beta")[0] == process.beta[1]


class Answer(nn.Module):
    """A network that knows what was added to a given image."""

    def __init__(self, model, x0):
        super().__init__()
        self.process, self.x0 = model.diffusion, x0
        self.velocity = model.params.network.prediction == "velocity"

    def forward(self, x_t, t):
        alpha_bar = self.process.alpha_bar[t].float()[:, None, None, None]
        noise = (x_t - alpha_bar.sqrt() * self.x0) / (1 - alpha_bar).sqrt()
        if self.velocity:
            return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * self.x0
        return noise


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_training_target_and_prediction_are_inverse(prediction):
    model = model_with(network={"prediction": prediction})
    x0 = to_signed(some_images(30))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1, 31)
    target = model._target(x0, noise, t)
    x_t = model.diffusion.noisy(x0, t, noise)
    torch.testing.assert_close(Answer(model, x0)(x_t, t), target, rtol=1e-3, atol=1e-4)
    model.net.forward = lambda *_: target
    torch.testing.assert_close(model.predict_x0(x_t, t), x0, rtol=1e-3, atol=1e-4)


def test_training_draws_every_time_once_in_a_batch_of_that_size():
    model, seen = model_with(steps=8), []
    model.net.register_forward_hook(lambda _, args, __: seen.append(args[1]))
    batch = Batch(some_images(8), some_labels(8))
    for seed in range(5):
        model.training_step(batch, lambda *_: None, torch.Generator().manual_seed(seed))
    assert all(each.sort().values.tolist() == list(range(1, 9)) for each in seen)


def with_oracle(model, images):
    x0 = to_signed(images)
    model.predict_x0 = lambda x_t, t, *_: x0
    return model


def test_an_oracle_pays_nothing_for_the_chain():
    images = some_images(3)
    found = score(with_oracle(model_with(scoring={"times": 0}), images), images)
    assert (found.terms["diffusion"] == 0).all()


def test_an_oracle_with_the_other_variance_pays_for_the_variance_alone():
    images = some_images(3)
    model = with_oracle(model_with(scoring={"times": 0, "variance": "beta"}), images)
    process = model.diffusion
    ratio = (process.posterior_variance[2:] / process.beta[2:]).numpy()
    expected = SMALL.dimensions * 0.5 * (ratio - 1 - np.log(ratio)).sum()
    found = score(model, images).terms["diffusion"]
    np.testing.assert_allclose(found, -expected, rtol=1e-6)


def test_terms_add_up_to_the_bound():
    found = score(lively(), some_images(4))
    assert found.bound == "vlb"
    assert found.terms.keys() == {"decoder", "diffusion", "prior"}
    # The prior term is tiny beside the others, but it counts.
    torch.testing.assert_close(sum(found.terms.values()), found.nats, rtol=0, atol=1e-9)
    assert (found.terms["prior"] < -1e-7).all()
    assert (found.terms["diffusion"] < 0).all()


@SCHEDULES
@pytest.mark.parametrize("steps", [2, 50])
def test_prior_term_is_in_closed_form(schedule, steps):
    model, images = model_with(steps, network={"schedule": schedule}), some_images(3)
    alpha_bar = model.diffusion.alpha_bar[steps]
    last = torch.distributions.Normal(
        alpha_bar.sqrt() * to_signed(images).double(), (1 - alpha_bar).sqrt()
    )
    exact = torch.distributions.kl_divergence(
        last, torch.distributions.Normal(torch.zeros(1, dtype=torch.float64), 1.0)
    )
    torch.testing.assert_close(score(model, images).terms["prior"], -exact.flatten(1).sum(1))


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("guess", [-1.0, -0.2, 0.97])
def test_decoder_probabilities_of_256_levels_sum_to_one(variance, guess):
    model = model_with(scoring={"decoder": "gaussian", "variance": variance})
    model.predict_x0 = lambda x_t, t, *_: torch.full_like(x_t, guess)
    images = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, *SMALL.shape)
    per_pixel = score(model, images).terms["decoder"] / SMALL.dimensions
    assert per_pixel.exp().sum() == pytest.approx(1, abs=1e-5)


class Grid:
    """In place of random offsets, the midpoints of n equal cells for every stratum."""

    def __init__(self, n):
        self.n = n

    def uniform(self, count):
        return ((torch.arange(self.n) + 0.5) / self.n)[:, None].expand(-1, count)


@pytest.mark.parametrize("after", [1, 17])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_expected_weight_of_each_time_is_one(count, after):
    model, n = model_with(), 100_000
    total = torch.zeros(51, dtype=torch.float64)
    chosen = model.diffusion.times_and_weights(n, Grid(n), count, after)
    assert len(chosen) == count
    for t, weight in chosen:
        total.index_add_(0, t, weight / n)
    assert (total[: after + 1] == 0).all()
    np.testing.assert_allclose(total[after + 1 :], 1, atol=2e-3)


@pytest.mark.parametrize("count", [0, 49, 500])
def test_enough_times_are_the_full_sum(count):
    chosen = diffusion().times_and_weights(2, Grid(2), count)
    assert [t.tolist() for t, _ in chosen] == [[t, t] for t in range(2, 51)]
    assert all((weight == 1).all() for _, weight in chosen)


def agrees(steps, count, n, cut=1):
    """Whether few times and all of them give the same mean, within four standard errors."""
    image = some_images(1).expand(n, -1, -1, -1)

    def nats(times, images, name):
        model = lively(steps=steps, scoring={"times": times})
        model.decoder.time.fill_(cut)
        return score(model, images, name).nats

    few, full = nats(count, image, "few"), nats(0, image[: n // 4], "full")
    stderr = math.sqrt(few.var() / len(few) + full.var() / len(full))
    assert stderr < 0.1 * abs(full.mean())
    return abs(few.mean() - full.mean()) < 4 * stderr


@pytest.mark.parametrize("cut", [1, 13])
def test_an_estimate_from_few_times_agrees_with_the_full_sum(cut):
    assert agrees(steps=50, count=5, n=400, cut=cut)


@pytest.mark.slow
def test_an_estimate_from_few_of_a_thousand_times_agrees_with_the_full_sum():
    assert agrees(steps=1000, count=20, n=400)


def test_bound_calls_the_network_once_for_each_time_and_for_the_decoder():
    model, calls = model_with(scoring={"times": 7}), []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    score(model, some_images(2))
    assert len(calls) == 8


def blobs(n, seed=0):
    """Images of which a network may learn something: a grey square on black somewhere."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, *SMALL.shape, dtype=torch.uint8)
    places = torch.randint(5, (n, 2), generator=rng).tolist()
    levels = torch.randint(100, 256, (n,), generator=rng).tolist()
    for image, (row, column), level in zip(images, places, levels, strict=True):
        image[:, row : row + 4, column : column + 4] = level
    return images


def batches(images, size=8):
    """An endless training's batches."""
    while True:
        for some in images.split(size):
            yield Batch(some, some_labels(len(some)))


def finished(images=None, **blocks):
    model = model_with(**blocks)
    images = blobs(160) if images is None else images
    model.finish(batches(images), torch.Generator().manual_seed(0))
    return model


def test_the_bound_is_of_the_chain_after_the_cut_and_of_the_counts():
    """By hand: the sum over t0 + 1..T, and log p of the levels at the network's guess."""
    model = finished(scoring={"times": 0})
    cut = int(model.decoder.time)
    assert 1 < cut < 50
    images, every = blobs(3, seed=1), seeds.image_seeds(3, 0, "score")
    found = model.log_likelihood(images, None, every)
    assert f"down to t = {cut}," in found.of
    noise, x0 = seeds.ImageNoise(every), to_signed(images)
    t = torch.full((3,), cut)
    with torch.no_grad():
        x_t = model.diffusion.noisy(x0, t, noise.normal(*SMALL.shape))
        expected = model.decoder.log_prob(model.predict_x0(x_t, t), images)
        torch.testing.assert_close(found.terms["decoder"], expected)
        kl = 0
        for later in range(cut + 1, 51):
            drawn = noise.normal(*SMALL.shape)
            kl += model._step_kl(x0, torch.full((3,), later), drawn, "posterior")
    torch.testing.assert_close(found.terms["diffusion"], -kl)


def test_a_fitted_decoder_is_better_than_the_published_one_and_costs_no_bits_of_the_network():
    images = blobs(160)
    before = {key: value.clone() for key, value in model_with().state_dict().items()}
    model = finished(images)
    for key, value in model.state_dict().items():
        assert key.startswith("decoder.") or torch.equal(value, before[key]), key
    fresh = blobs(40, seed=1)
    published = model_with(scoring={"decoder": "gaussian"})
    assert score(model, fresh).nats.mean() > score(published, fresh).nats.mean() + 50
    every = seeds.image_seeds(4, 0, "sample")
    assert torch.equal(model.sample(every, None), published.sample(every, None))


def test_the_published_decoder_is_that_of_a_model_that_was_never_finished():
    gaussian = {"decoder": "gaussian"}
    one, other = finished(scoring=gaussian), model_with(scoring=gaussian)
    assert torch.equal(score(one, blobs(5)).nats, score(other, blobs(5)).nats)
    assert "t = 1, and a Gaussian" in score(one, blobs(5)).of


def test_scoring_fits_nothing():
    """Each image is scored by what training left, whatever else is scored."""
    model = finished()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, every = blobs(40, seed=1), seeds.image_seeds(40, 0, "score")
    together = model.log_likelihood(images, None, every).nats
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    alone = model.log_likelihood(images[:1], None, every[:1]).nats
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-3)


def test_an_unfitted_decoder_knows_nothing():
    found = score(model_with(), some_images(3)).terms["decoder"]
    np.testing.assert_allclose(found, -SMALL.dimensions * math.log(256), rtol=1e-6)


@pytest.mark.parametrize("steps", [2, 3, 1000])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_any_chain_is_cut_with_any_number_of_images(steps, n):
    model = finished(blobs(n), steps=steps, scoring={"times": 2})
    assert 1 <= int(model.decoder.time) < steps
    assert torch.isfinite(score(model, blobs(2, seed=1)).nats).all()


def test_a_conditional_decoder_is_fitted_to_guesses_that_are_told_the_label():
    model = tiny_model("ddpm", network=CONDITIONAL)
    model.net = Telling()
    model.finish(batches(blobs(20)), torch.Generator().manual_seed(0))
    assert model.net.told and all(told.max() < SMALL.classes for told in model.net.told)


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_the_bound_never_beats_what_the_images_cost_at_least(spread):
    """Pixels are independent, of a distribution that is known, and so is the best network.

    Then the bound is at its best, and no estimate of it is below the entropy but by chance.
    """
    levels = torch.arange(256, dtype=torch.float64)
    weights = torch.exp(-0.5 * (levels / 127.5 - 1) ** 2 / spread**2)
    entropy = torch.distributions.Categorical(weights).entropy().item() * SMALL.dimensions

    def drawn(n, seed):
        rng = torch.Generator().manual_seed(seed)
        found = torch.multinomial(weights, n * SMALL.dimensions, replacement=True, generator=rng)
        return found.view(n, *SMALL.shape).to(torch.uint8)

    model = model_with(steps=200, scoring={"times": 0})

    def guess(x_t, t, *_):
        alpha_bar = model.diffusion.alpha_bar[t].float()[:, None, None, None]
        return alpha_bar.sqrt() * spread**2 * x_t / (alpha_bar * spread**2 + 1 - alpha_bar)

    model.predict_x0 = guess
    model.finish(batches(drawn(1500, 0), size=100), torch.Generator().manual_seed(0))
    assert int(model.decoder.time) > 1
    nats = -score(model, drawn(600, 1)).nats
    stderr = nats.std().item() / math.sqrt(len(nats))
    assert entropy - 4 * stderr < nats.mean().item() < 1.15 * entropy


class Scripted:
    """Noise that is the same number everywhere, and counts how often it was asked for."""

    def __init__(self, n, value):
        self.n, self.value, self.calls = n, value, 0

    def normal(self, *shape):
        self.calls += 1
        return torch.full((self.n, *shape), float(self.value))


@torch.no_grad()
def test_with_eta_zero_no_step_draws_noise():
    model, noise = lively(sampling={"eta": 0.0}), Scripted(2, 1.0)
    x = to_signed(some_images(2))
    for now, then in ((50, 40), (10, 5), (1, 0)):
        step(model, x, now, then, noise)
    assert noise.calls == 0


@torch.no_grad()
@SCHEDULES
def test_with_eta_one_and_all_steps_it_is_ancestral_sampling(schedule):
    model = lively(network={"schedule": schedule}, sampling={"eta": 1.0, "steps": 50})
    x = torch.randn(2, *SMALL.shape, generator=torch.Generator().manual_seed(0))
    for now in (2, 3, 17, 49, 50):
        t = torch.full((2,), now)
        mean = step(model, x, now, now - 1, Scripted(2, 0.0))
        expected = model.diffusion.posterior_mean(model.predict_x0(x, t), x, t)
        torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-4)
        sigma = step(model, x, now, now - 1, Scripted(2, 1.0)) - mean
        variance = model.diffusion.posterior_variance[now].item()
        np.testing.assert_allclose(sigma**2, variance, rtol=1e-3, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_last_step_returns_the_predicted_image(eta):
    model = lively(sampling={"eta": eta})
    x = to_signed(some_images(2))
    found = step(model, x, 3, 0, Scripted(2, 1.0))
    torch.testing.assert_close(found, model.predict_x0(x, torch.full((2,), 3)))


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_an_oracles_steps_keep_the_marginals(eta):
    """From x_t ~ q(x_t|x_0), a step lands on q(x_s|x_0) (arXiv:2010.02502, lemma 1)."""
    spec = ImageSpec(1, 200, 200, 10)
    model = model_with(spec=spec, sampling={"eta": eta})
    x0 = torch.full((1, *spec.shape), 0.5)
    model.predict_x0 = lambda x_t, t, *_: x0
    noise = seeds.ImageNoise(torch.tensor([1]))
    x = model.diffusion.noisy(x0, torch.tensor([30]), noise.normal(*spec.shape))
    found = step(model, x, 30, 12, noise)
    alpha_bar = model.diffusion.alpha_bar[12].item()
    assert found.mean().item() == pytest.approx(0.5 * math.sqrt(alpha_bar), abs=0.02)
    assert found.std().item() == pytest.approx(math.sqrt(1 - alpha_bar), rel=0.02)


@pytest.mark.parametrize("steps", [1, 7, 50, 200])
def test_sampling_walks_from_the_last_time_to_the_image(steps):
    model, seen = model_with(sampling={"steps": steps}), []
    model.net.register_forward_hook(lambda _, args, __: seen.append(args[1].tolist()))
    model.sample(torch.tensor([1, 2]), None)
    times = [each[0] for each in seen]
    assert len(times) == min(steps, 50)
    assert times[0] == 50
    assert times == sorted(set(times), reverse=True) and times[-1] >= 1


def test_sampling_is_a_function_of_the_seed():
    model = lively(sampling={"steps": 5})
    every = seeds.image_seeds(4, 0, "sample")
    assert torch.equal(model.sample(every, None), model.sample(every, None))
    assert not torch.equal(model.sample(every, None), model.sample(every + 1, None))


CONDITIONAL = {"conditional": True}


class Telling(torch.nn.Module):
    """A network whose prediction is the label that it was told, everywhere."""

    def __init__(self):
        super().__init__()
        self.told = []
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, labels=None):
        self.told.append(labels)
        return labels.float()[:, None, None, None].expand_as(x) / 100 + self.weight


def test_labels_reach_the_network_and_none_is_a_label_of_its_own():
    model = trained(tiny_model("ddpm", network=CONDITIONAL))
    assert model.conditional
    x, t = torch.zeros(3, *SMALL.shape), torch.full((3,), 5)
    one, other, none = (model.net(x, t, torch.full((3,), label)) for label in (0, 1, 10))
    assert not torch.equal(one, other)
    assert not torch.equal(one, none)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_training_leaves_out_that_share_of_the_labels(share):
    model = tiny_model("ddpm", network=CONDITIONAL, training={"label_dropout": share})
    model.net = Telling()
    labels = some_labels(400)
    batch = Batch(some_images(400), labels)
    model.training_step(batch, lambda *_: None, torch.Generator().manual_seed(0))
    told = model.net.told[0]
    lost = told == SMALL.classes
    assert torch.equal(told[~lost], labels[~lost])
    assert lost.float().mean().item() == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("prediction", ["velocity", "noise"])
def test_guidance_mixes_what_is_predicted_with_the_label_and_without(prediction):
    """By hand, in terms of the noise (arXiv:2207.12598, equation 6)."""
    model = tiny_model("ddpm", network={**CONDITIONAL, "prediction": prediction})
    model.net = Telling()
    t, label, guidance = torch.tensor([5]), torch.tensor([3]), 2.0
    x_t = torch.zeros(1, *SMALL.shape)
    alpha_bar = model.diffusion.alpha_bar[5].item()
    signal, spread = alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def noise_of(output):
        return output if prediction == "noise" else signal * output

    noise = (1 + guidance) * noise_of(0.03) - guidance * noise_of(0.10)
    expected = -spread * noise / signal
    found = model.predict_x0(x_t, t, label, guidance)
    torch.testing.assert_close(found, torch.full_like(x_t, expected).clamp(-1, 1))


def test_without_guidance_the_network_runs_once_a_step_and_twice_with_it():
    every, labels = seeds.image_seeds(2, 0, "sample"), torch.tensor([3, 4])
    for guidance, calls in ((0.0, 4), (1.5, 8)):
        model = tiny_model("ddpm", network=CONDITIONAL, sampling={"steps": 4, "guidance": guidance})
        model.net = Telling()
        model.sample(every, labels)
        assert len(model.net.told) == calls
        assert torch.equal(model.net.told[0], labels)


def test_a_likelihood_given_labels_is_told_them_and_never_guided():
    model = tiny_model("ddpm", network=CONDITIONAL, sampling=None, scoring={"times": 3})
    model.net = Telling()
    labels = torch.tensor([1, 7])
    model.log_likelihood(some_images(2), labels, seeds.image_seeds(2, 0, "score"))
    assert len(model.net.told) == 4
    assert all(torch.equal(told, labels) for told in model.net.told)


def test_denoising_goes_from_the_noise_to_the_sample():
    model = tiny_model("ddpm", sampling={"steps": 12})
    every = seeds.image_seeds(10, 0, "sample")
    picture = model.illustrate(Batch(some_images(10), some_labels(10)), every)["denoising"]
    assert picture.shape == (10, 10, *SMALL.shape)
    noise = seeds.ImageNoise(every).normal(*SMALL.shape)
    assert torch.equal(picture[:, 0], to_uint8(noise))
    assert torch.equal(picture[:, -1], model.sample(every, None))


@pytest.mark.parametrize(
    ("conditional", "guidance", "expected"), [(False, 0.0, 7), (True, 0.0, 7), (True, 1.5, 14)]
)
def test_evaluations_are_the_calls_of_the_network(conditional, guidance, expected):
    model = model_with(
        network={"conditional": conditional}, sampling={"steps": 7, "guidance": guidance}
    )
    calls = []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    model.sample(torch.arange(2), torch.arange(2) if conditional else None)
    assert len(calls) == model.network_evaluations == expected


def _error_of(solver, spacing, steps, until, spread=0.2):
    """How far the sampler is from the differential equation's solution at the time ``until``.

    That is known where pixels are N(0, spread^2): x_t over its standard deviation does not change.
    The network is the best there could be.
    """
    sampling = {"solver": solver, "spacing": spacing, "steps": steps}
    network = {"prediction": "velocity", "schedule": "linear"}
    model = model_with(steps=4000, network=network, sampling=sampling)

    def variance(alpha_bar):
        return alpha_bar * spread**2 + 1 - alpha_bar

    def velocity(x_t, t, labels=None):
        alpha_bar = model.diffusion.alpha_bar[t][:, None, None, None]
        x0 = alpha_bar.sqrt() * spread**2 / variance(alpha_bar) * x_t
        noise = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0

    model.net.forward = velocity
    start, *states = model._denoise(seeds.image_seeds(20, 0, "order"), None)
    found = states[model._times().tolist().index(until) - 1]
    deviation = variance(model.diffusion.alpha_bar).sqrt()
    exact = start * deviation[until] / deviation[-1]
    return ((found - exact).abs().mean() / exact.abs().mean()).item()


@pytest.mark.parametrize(("spacing", "until"), [("time", 400), ("log_snr", 1)])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm_2m", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver, order, spacing, until):
    errors = [_error_of(solver, spacing, steps, until) for steps in (20, 40, 80)]
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates == pytest.approx([order] * 2, abs=0.35), errors


def test_dpm_solver_is_algorithm_2_of_the_paper():
    """Written out with alpha, sigma and lambda (arXiv:2211.01095), in float64."""
    model = lively(sampling={"solver": "dpm_2m", "steps": 6})
    every = seeds.image_seeds(3, 0, "dpm")
    states = list(model._denoise(every, None))
    times = model._times().tolist()
    bar = [model.diffusion.alpha_bar[t].item() for t in times]
    alpha, sigma = [math.sqrt(a) for a in bar], [math.sqrt(1 - a) for a in bar]
    lam = [math.log(a / s) for a, s in zip(alpha[:-1], sigma[:-1], strict=True)]
    with torch.no_grad():
        predicted = [
            model.predict_x0(x, torch.full((3,), t))
            for x, t in zip(states, times[:-1], strict=False)
        ]
    for i in range(1, len(times)):
        data = predicted[i - 1]
        if 1 < i < len(times) - 1:
            h, r = lam[i] - lam[i - 1], (lam[i - 1] - lam[i - 2]) / (lam[i] - lam[i - 1])
            data = (1 + 1 / (2 * r)) * predicted[i - 1] - 1 / (2 * r) * predicted[i - 2]
        if i < len(times) - 1:
            h = lam[i] - lam[i - 1]
            wanted = sigma[i] / sigma[i - 1] * states[i - 1] - alpha[i] * math.expm1(-h) * data
        else:
            wanted = data
        torch.testing.assert_close(states[i], wanted, rtol=1e-4, atol=1e-5)


def test_times_spaced_by_log_snr_are():
    """As far as there are such times: near pure noise they are far apart."""
    model = model_with(steps=1000, sampling={"spacing": "log_snr", "steps": 12})
    times = model._times().tolist()
    assert (times[0], times[-2:]) == (1000, [1, 0])
    assert model.network_evaluations == len(times) - 1 <= 12
    found = [model.diffusion.log_snr(t) for t in times[:-1]]
    even = (found[-1] - found[0]) / 11
    gaps = [after - before for before, after in pairwise(found)]
    assert gaps[3:] == pytest.approx([even] * len(gaps[3:]), rel=0.1)


def test_noise_that_a_solver_does_not_add_is_refused():
    with_eta = {"solver": "dpm_2m", "eta": 0.5}
    found = ddpm.FAMILY.unsupported(model_with(sampling=with_eta).params, torch.device("cpu"))
    assert "sampling.eta = 0.5: the solver dpm_2m adds no noise" in found
    assert not ddpm.FAMILY.unsupported(
        model_with(sampling={"eta": 0.5}).params, torch.device("cpu")
    )
