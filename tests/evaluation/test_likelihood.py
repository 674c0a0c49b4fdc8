import math

import numpy as np
import pytest
import torch
from builders import Mute, some_images, some_labels, tiny_model

from pipeline.core import seeds
from pipeline.core.contract import Likelihood
from pipeline.evaluation import likelihood

IMAGES = some_images(10).numpy()
LABELS = some_labels(10).numpy()
SHARES = np.full(10, 0.1)


def measured(model, *, seed=0, batch=10, labels=LABELS, shares=SHARES):
    found, nats = likelihood.measure(model, IMAGES, labels, shares, seed=seed, batch=batch)
    if nats is None:
        assert found["nats_per_image"] is None
    else:
        assert nats.shape == (len(IMAGES),) and nats.dtype == np.float64
        assert nats.mean() == pytest.approx(found["nats_per_image"])
        assert np.std(nats, ddof=1) > 0 or found["bits_per_dim_stderr"] == pytest.approx(
            0, abs=1e-9
        )
    return found


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


class Telling(Mute):
    """log p(x|y) is minus ten times the distance of y to the first pixel's last digit."""

    conditional = True

    def log_likelihood(self, images, labels, seeds):
        self.calls.append(labels.tolist())
        nats = -10.0 * (images[:, 0, 0, 0] % 10 - labels).abs().double()
        return Likelihood(nats, "elbo", {"all": nats}, nats + 1, 7)


class Weighted(Scoring):
    """The importance bound is half of the cost."""

    def log_likelihood(self, images, labels, seeds):
        found = super().log_likelihood(images, labels, seeds)
        return Likelihood(found.nats, found.bound, found.terms, found.nats / 2, 5)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_likelihood_is_that_of_a_hand_computation_for_any_batch(batch):
    found = measured(Scoring(), batch=batch)
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
        measured(model, seed=5, batch=batch)
        assert [seed for call in model.calls for seed in call][:10] == expected
        assert {len(each) for each in model.calls} == {batch}


def test_a_likelihood_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        measured(Broken())


def test_a_family_without_a_likelihood_has_none():
    found = measured(Mute(), batch=4)
    assert found.keys() == {
        "nats_per_image",
        "bits_per_dim",
        "bits_per_dim_stderr",
        "likelihood_bound",
    }
    assert set(found.values()) == {None}


def test_a_uniform_model_scores_eight_bits():
    model = tiny_model("pixelcnn")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = measured(model, batch=4)
    assert found["bits_per_dim"] == pytest.approx(8, abs=1e-6)
    assert found["likelihood_bound"] == "exact"


@pytest.mark.parametrize("batch", [3, 10])
def test_an_importance_bound_has_keys_of_its_own(batch):
    found, plain = measured(Weighted(), batch=batch), measured(Scoring(), batch=batch)
    assert found["iwae_samples"] == 5
    assert found["iwae_bits_per_dim"] == pytest.approx(found["bits_per_dim"] / 2)
    assert found["iwae_nats_per_image"] == pytest.approx(found["nats_per_image"] / 2)
    assert found["iwae_bits_per_dim_stderr"] == pytest.approx(found["bits_per_dim_stderr"] / 2)
    assert {key: found[key] for key in plain} == plain
    assert not any(key.startswith("iwae") for key in plain)


@pytest.mark.parametrize("batch", [3, 4, 10])
def test_a_conditional_model_is_compared_by_its_marginal_over_labels(batch):
    shares = np.arange(1, 11) / 55
    found = measured(Telling(), batch=batch, shares=shares)
    digit = IMAGES[:, 0, 0, 0].astype(float) % 10
    table = -10.0 * np.abs(digit[:, None] - np.arange(10))
    marginal = np.log((shares * np.exp(table)).sum(1))
    assert found["nats_per_image"] == pytest.approx(-marginal.mean())
    assert found["iwae_nats_per_image"] == pytest.approx(-marginal.mean() - 1)
    given = table[np.arange(10), LABELS]
    assert found["nats_per_image_given_label"] == pytest.approx(-given.mean())
    stderr = given.std(ddof=1) / 10**0.5 / (64 * math.log(2))
    assert found["bits_per_dim_given_label_stderr"] == pytest.approx(stderr)
    assert found["likelihood_all_nats"] == pytest.approx(-given.mean())


def test_what_labels_are_worth_is_a_paired_difference():
    digits = (IMAGES[:, 0, 0, 0] % 10).astype(np.int64)
    found = measured(Telling(), labels=digits)
    wrong = np.abs(digits - (digits + 1) % 10) * 10.0
    assert found["nats_per_image_given_label"] == 0
    assert found["label_gain_nats"] == pytest.approx(wrong.mean())
    assert found["label_gain_nats_stderr"] == pytest.approx(wrong.std(ddof=1) / 10**0.5)


def test_a_class_that_training_never_saw_has_no_part_in_the_marginal():
    shares = np.array([1.0] + [0.0] * 9)
    digit = IMAGES[:, 0, 0, 0].astype(float) % 10
    found = measured(Telling(), shares=shares)
    assert found["nats_per_image"] == pytest.approx(10 * digit.mean())
