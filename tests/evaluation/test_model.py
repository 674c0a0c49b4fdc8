import math

import numpy as np
import pytest
import torch
from builders import SMALL, some_images, some_labels, tiny_model
from torch import nn

from pipeline.core import seeds
from pipeline.core.contract import Family, Likelihood
from pipeline.datasets.store import Split
from pipeline.evaluation import judge, quality
from pipeline.evaluation import model as evaluation
from pipeline.sampling import drawing

IMAGES = some_images(10).numpy()
LABELS = some_labels(10).numpy()
SHARES = np.full(10, 0.1)


def likelihood(model, *, seed=0, batch=10, labels=LABELS, shares=SHARES):
    found, nats = evaluation.likelihood(model, IMAGES, labels, shares, seed=seed, batch=batch)
    if nats is None:
        assert found["nats_per_image"] is None
    else:
        assert nats.shape == (len(IMAGES),) and nats.dtype == np.float64
        assert nats.mean() == pytest.approx(found["nats_per_image"])
        assert np.std(nats, ddof=1) > 0 or found["bits_per_dim_stderr"] == pytest.approx(
            0, abs=1e-9
        )
    return found


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


class Measuring(Mute):
    def own_errors(self, images, labels):
        self.calls.append(labels)
        return {"first": images[:, 0, 0, 0].float()}


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


class Searching(Mute):
    """Finds images of the colour of the seed at which it starts."""

    inversion_kind = "by seed"

    def invert(self, images, labels, seeds):
        self.calls.append(len(images))
        return Painting.sample(self, seeds, labels) + 0 * images


class Floating(Mute):
    def sample(self, seeds, labels):
        return torch.zeros(len(seeds), *SMALL.shape)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_likelihood_is_that_of_a_hand_computation_for_any_batch(batch):
    found = likelihood(Scoring(), batch=batch)
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
        likelihood(model, seed=5, batch=batch)
        assert [seed for call in model.calls for seed in call][:10] == expected
        assert {len(each) for each in model.calls} == {batch}


def test_a_likelihood_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        likelihood(Broken())


def test_what_a_family_cannot_do_is_none():
    model = Mute()
    found = likelihood(model, batch=4)
    found |= evaluation.reconstruction_error(model, IMAGES, LABELS, 4)
    assert found.keys() == {
        "nats_per_image",
        "bits_per_dim",
        "bits_per_dim_stderr",
        "likelihood_bound",
        "reconstruction_mse",
        "reconstruction_psnr",
        "reconstruction_ssim",
        "reconstruction_kind",
    }
    assert set(found.values()) == {None}
    assert evaluation.inversion_error(model, IMAGES, LABELS, seed=0, batch=4) == {}
    assert evaluation.own_errors(model, IMAGES, LABELS, 4) == {}
    assert set(evaluation.sample_quality([], None, IMAGES).values()) == {None}
    split = Split(IMAGES, LABELS)
    assert evaluation.label_fidelity([], IMAGES, None, split, split) == {"label_accuracy": None}


@pytest.mark.parametrize("batch", [3, 10, 64])
def test_reconstruction_is_over_the_images_for_any_batch(batch):
    model = Darkening()
    found = evaluation.reconstruction_error(model, IMAGES, LABELS, batch)
    errors = ((IMAGES / 255) ** 2).mean(axis=(1, 2, 3))
    assert found["reconstruction_mse"] == pytest.approx(errors.mean())
    assert found["reconstruction_psnr"] == pytest.approx((-10 * np.log10(errors)).mean())
    assert found["reconstruction_kind"] == "black"
    assert set(model.calls) == {batch}


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_inversion_starts_each_image_by_its_seed_for_any_batch(batch):
    found = evaluation.inversion_error(Searching(), IMAGES, LABELS, seed=3, batch=batch)
    colours = seeds.image_seeds(10, 3, "inversion").numpy() % 256
    errors = (((IMAGES - 1.0 * colours[:, None, None, None]) / 255) ** 2).mean(axis=(1, 2, 3))
    assert found["inversion_mse"] == pytest.approx(errors.mean())
    assert (found["inversion_kind"], found["inversion_n"]) == ("by seed", 10)


@pytest.mark.parametrize("batch", [1, 4, 10, 64])
def test_drawn_images_follow_their_seeds_for_any_batch(batch):
    drawn = drawing.draw(Painting(), 10, seed=3, batch=batch)
    expected = seeds.image_seeds(10, 3, "sample") % 256
    assert drawn.dtype == np.uint8 and drawn.shape == (10, *SMALL.shape)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], expected)


def test_drawing_refuses_what_is_no_image():
    with pytest.raises(TypeError, match="does not sample"):
        drawing.draw(Mute(), 4, seed=0, batch=2)
    with pytest.raises(ValueError, match="must be uint8"):
        drawing.draw(Floating(), 4, seed=0, batch=2)


def one_judge():
    torch.manual_seed(0)
    return [judge.Judge(judge.Classifier(SMALL, 4).eval(), 1.0, torch.device("cpu"))]


def test_sample_quality_is_the_judges_or_none():
    samples, reference = some_images(20, seed=1).numpy() // 2, some_images(20, seed=2).numpy()
    judges = one_judge()
    found = evaluation.sample_quality(judges, samples, reference)
    assert found == quality.measure(judges, samples, reference)
    assert evaluation.sample_quality(judges, None, reference) == dict.fromkeys(quality.KEYS)


def test_memorisation_is_the_judges_or_none():
    judges, sets = one_judge(), [some_images(20, seed=seed).numpy() for seed in range(3)]
    assert evaluation.memorisation(judges, *sets) == quality.copying(judges, *sets)
    nothing = evaluation.memorisation(judges, None, *sets[1:])
    assert nothing == dict.fromkeys(quality.COPYING_KEYS)


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
    found = likelihood(model, batch=4)
    assert found["bits_per_dim"] == pytest.approx(8, abs=1e-6)
    assert found["likelihood_bound"] == "exact"


@pytest.mark.parametrize("batch", [3, 10])
def test_an_importance_bound_has_keys_of_its_own(batch):
    found, plain = likelihood(Weighted(), batch=batch), likelihood(Scoring(), batch=batch)
    assert found["iwae_samples"] == 5
    assert found["iwae_bits_per_dim"] == pytest.approx(found["bits_per_dim"] / 2)
    assert found["iwae_nats_per_image"] == pytest.approx(found["nats_per_image"] / 2)
    assert found["iwae_bits_per_dim_stderr"] == pytest.approx(found["bits_per_dim_stderr"] / 2)
    assert {key: found[key] for key in plain} == plain
    assert not any(key.startswith("iwae") for key in plain)


@pytest.mark.parametrize("batch", [3, 4, 10])
def test_a_conditional_model_is_compared_by_its_marginal_over_labels(batch):
    shares = np.arange(1, 11) / 55
    found = likelihood(Telling(), batch=batch, shares=shares)
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
    found = likelihood(Telling(), labels=digits)
    wrong = np.abs(digits - (digits + 1) % 10) * 10.0
    assert found["nats_per_image_given_label"] == 0
    assert found["label_gain_nats"] == pytest.approx(wrong.mean())
    assert found["label_gain_nats_stderr"] == pytest.approx(wrong.std(ddof=1) / 10**0.5)


def test_a_class_that_training_never_saw_has_no_part_in_the_marginal():
    shares = np.array([1.0] + [0.0] * 9)
    digit = IMAGES[:, 0, 0, 0].astype(float) % 10
    found = likelihood(Telling(), shares=shares)
    assert found["nats_per_image"] == pytest.approx(10 * digit.mean())


@pytest.mark.parametrize("batch", [3, 10, 64])
def test_own_errors_are_means_over_the_images(batch):
    model = Measuring()
    found = evaluation.own_errors(model, IMAGES, LABELS, batch)
    assert found == {"first": pytest.approx(IMAGES[:, 0, 0, 0].mean())}
    assert set(model.calls) == {None}


def test_labels_go_to_conditional_models_alone():
    class Recalling(Darkening):
        conditional = True

        def reconstruct(self, images, labels):
            self.calls.append(labels.tolist())
            return images

    model = Recalling()
    evaluation.reconstruction_error(model, IMAGES, LABELS, 10)
    assert model.calls == [LABELS.tolist()]


def test_label_fidelity_is_the_judges_agreement():
    judges, samples = one_judge(), some_images(20, seed=1).numpy()
    seen = judges[0].predictions(samples)
    split, train = Split(IMAGES, judges[0].predictions(IMAGES)), Split(samples, seen)
    found = evaluation.label_fidelity(judges, samples, seen, split, train)
    assert found["label_accuracy"] == found["label_accuracy_real"] == 1
    half = np.where(np.arange(20) < 10, seen, (seen + 1) % 10)
    found = evaluation.label_fidelity(judges, samples, half, split, train)
    assert found["label_accuracy"] == 0.5
    assert (
        found.items()
        >= quality.by_class(
            judges, (samples, half), (split.images, split.labels), (train.images, train.labels)
        ).items()
    )
