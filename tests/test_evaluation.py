import math

import numpy as np
import pytest
import torch
from builders import SMALL, some_images, tiny_model
from torch import nn

from pipeline import evaluation, judge, sampling, seeds
from pipeline.family import Family, Likelihood

IMAGES = some_images(10).numpy()


class Mute(Family):
    """A family that can do nothing."""

    def __init__(self):
        super().__init__(SMALL, None)
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = []

    def groups(self):
        return {}

    def training_step(self, batch, update, rng):
        return {}


class Scoring(Mute):
    """The first pixel of an image is its cost, of which the second pixel is one term."""

    def log_likelihood(self, images, labels, seeds):
        self.calls.append(seeds.tolist())
        cost, part = images[:, 0, 0, 0].double(), images[:, 0, 0, 1].double()
        return Likelihood(-cost, "elbo", {"kl": -part, "rest": part - cost})


class Broken(Scoring):
    def log_likelihood(self, images, labels, seeds):
        nats = torch.zeros(len(images))
        nats[2] = float("nan")
        return Likelihood(nats, "exact", {})


class Darkening(Mute):
    reconstruction_kind = "black"

    def reconstruct(self, images, labels):
        self.calls.append(len(images))
        return torch.zeros_like(images)


class Painting(Mute):
    """Images of the colour of their seed."""

    def sample(self, seeds, labels):
        self.calls.append(len(seeds))
        return (seeds % 256).to(torch.uint8)[:, None, None, None].expand(-1, *SMALL.shape)


class Floating(Mute):
    def sample(self, seeds, labels):
        return torch.zeros(len(seeds), *SMALL.shape)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_likelihood_is_that_of_a_hand_computation_for_any_batch(batch):
    found = evaluation.likelihood(Scoring(), IMAGES, seed=0, batch=batch)
    cost = IMAGES[:, 0, 0, 0].astype(float)
    nat = 64 * math.log(2)
    assert found["nats_per_image"] == pytest.approx(cost.mean())
    assert found["bits_per_dim"] == pytest.approx(cost.mean() / nat)
    assert found["bits_per_dim_stderr"] == pytest.approx(np.std(cost, ddof=1) / 10**0.5 / nat)
    assert found["likelihood_bound"] == "elbo"
    assert found["likelihood_kl_nats"] == pytest.approx(IMAGES[:, 0, 0, 1].mean())
    terms = [
        value for key, value in found.items() if key.startswith("likelihood_") and "nats" in key
    ]
    assert sum(terms) == pytest.approx(found["nats_per_image"])


def test_each_image_is_scored_with_a_seed_of_its_own():
    expected = seeds.image_seeds(10, 5, "score").tolist()
    for batch in (4, 10):
        model = Scoring()
        evaluation.likelihood(model, IMAGES, seed=5, batch=batch)
        assert [seed for call in model.calls for seed in call][:10] == expected
        assert {len(each) for each in model.calls} == {batch}


def test_a_likelihood_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        evaluation.likelihood(Broken(), IMAGES, seed=0, batch=10)


def test_what_a_family_cannot_do_is_none():
    model = Mute()
    found = evaluation.likelihood(model, IMAGES, seed=0, batch=4)
    found |= evaluation.reconstruction_error(model, IMAGES, 4)
    assert found.keys() == {
        "nats_per_image",
        "bits_per_dim",
        "bits_per_dim_stderr",
        "likelihood_bound",
        "reconstruction_mse",
        "reconstruction_psnr",
        "reconstruction_kind",
    }
    assert set(found.values()) == {None}


@pytest.mark.parametrize("batch", [3, 10, 64])
def test_reconstruction_is_over_the_images_for_any_batch(batch):
    model = Darkening()
    found = evaluation.reconstruction_error(model, IMAGES, batch)
    errors = ((IMAGES / 255) ** 2).mean(axis=(1, 2, 3))
    assert found["reconstruction_mse"] == pytest.approx(errors.mean())
    assert found["reconstruction_psnr"] == pytest.approx((-10 * np.log10(errors)).mean())
    assert found["reconstruction_kind"] == "black"
    assert set(model.calls) == {batch}


@pytest.mark.parametrize("batch", [1, 4, 10, 64])
def test_drawn_images_follow_their_seeds_for_any_batch(batch):
    drawn = sampling.draw(Painting(), 10, seed=3, batch=batch)
    expected = seeds.image_seeds(10, 3, "sample") % 256
    assert drawn.dtype == np.uint8 and drawn.shape == (10, *SMALL.shape)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], expected)


def test_drawing_refuses_what_is_no_image():
    with pytest.raises(TypeError, match="does not sample"):
        sampling.draw(Mute(), 4, seed=0, batch=2)
    with pytest.raises(ValueError, match="must be uint8"):
        sampling.draw(Floating(), 4, seed=0, batch=2)


def one_judge():
    torch.manual_seed(0)
    return [judge.Judge(judge.Classifier(SMALL, 4).eval(), 1.0, torch.device("cpu"))]


def test_sample_quality_is_the_judges_verdict():
    samples, reference = some_images(20, seed=1).numpy() // 2, some_images(20, seed=2).numpy()
    judges = one_judge()
    found, verdict = (
        evaluation.sample_quality(judges, samples, reference),
        judge.verdict(judges, samples, reference),
    )
    assert found == {"fid": verdict.fid, "fid_min": verdict.fid_min, "fid_max": verdict.fid_max}


@pytest.mark.parametrize(
    "samples", [IMAGES.astype(np.float32), IMAGES[:, :, :7], IMAGES[:5], IMAGES[:, 0]]
)
def test_sample_quality_refuses_what_is_not_like_the_reference(samples):
    with pytest.raises(ValueError):
        evaluation.sample_quality(one_judge(), samples, IMAGES)


def test_a_uniform_model_scores_eight_bits():
    model = tiny_model("pixelcnn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = evaluation.likelihood(model, IMAGES, seed=0, batch=4)
    assert found["bits_per_dim"] == pytest.approx(8, abs=1e-6)
    assert found["likelihood_bound"] == "exact"
