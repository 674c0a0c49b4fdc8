import numpy as np
import pytest
import torch
from builders import Mute, Painting, some_images, some_labels

from pipeline.core import seeds
from pipeline.evaluation import reconstruction

IMAGES = some_images(10).numpy()
LABELS = some_labels(10).numpy()


class Measuring(Mute):
    def own_errors(self, images, labels):
        self.calls.append(labels)
        return {"first": images[:, 0, 0, 0].float()}


class Darkening(Mute):
    reconstruction_kind = "black"

    def reconstruct(self, images, labels):
        self.calls.append(len(images))
        return torch.zeros_like(images)


class Searching(Mute):
    """Finds images of the colour of the seed at which it starts."""

    inversion_kind = "by seed"

    def invert(self, images, labels, seeds):
        self.calls.append(len(images))
        return Painting.sample(self, seeds, labels) + 0 * images


def test_what_a_family_cannot_do_is_none_or_missing():
    found = reconstruction.measure(Mute(), IMAGES, LABELS, 4)
    assert found.keys() == {
        "reconstruction_mse",
        "reconstruction_psnr",
        "reconstruction_ssim",
        "reconstruction_kind",
    }
    assert set(found.values()) == {None}
    assert reconstruction.invert(Mute(), IMAGES, LABELS, seed=0, batch=4) == {}
    assert reconstruction.own_errors(Mute(), IMAGES, LABELS, 4) == {}
    assert reconstruction.code_usage(Mute(), IMAGES, LABELS, 4) == {}


@pytest.mark.parametrize("batch", [3, 10, 64])
def test_reconstruction_is_over_the_images_for_any_batch(batch):
    model = Darkening()
    found = reconstruction.measure(model, IMAGES, LABELS, batch)
    errors = ((IMAGES / 255) ** 2).mean(axis=(1, 2, 3))
    assert found["reconstruction_mse"] == pytest.approx(errors.mean())
    assert found["reconstruction_psnr"] == pytest.approx((-10 * np.log10(errors)).mean())
    assert found["reconstruction_kind"] == "black"
    assert set(model.calls) == {batch}


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_inversion_starts_each_image_by_its_seed_for_any_batch(batch):
    found = reconstruction.invert(Searching(), IMAGES, LABELS, seed=3, batch=batch)
    colours = seeds.image_seeds(10, 3, "inversion").numpy() % 256
    errors = (((IMAGES - 1.0 * colours[:, None, None, None]) / 255) ** 2).mean(axis=(1, 2, 3))
    assert found["inversion_mse"] == pytest.approx(errors.mean())
    assert (found["inversion_kind"], found["inversion_n"]) == ("by seed", 10)


@pytest.mark.parametrize("batch", [3, 10, 64])
def test_own_errors_are_means_over_the_images(batch):
    model = Measuring()
    found = reconstruction.own_errors(model, IMAGES, LABELS, batch)
    assert found == {"first": pytest.approx(IMAGES[:, 0, 0, 0].mean())}
    assert set(model.calls) == {None}


class Quantising(Mute):
    """Codes that the images hold themselves."""

    code_count = 5

    def codes(self, images, labels):
        self.calls.append(labels)
        return images[:, 0, :2, :2].long() % 4


@pytest.mark.parametrize("batch", [3, 10, 64])
def test_usage_is_of_the_codes_of_all_images_together(batch):
    model = Quantising()
    found = reconstruction.code_usage(model, IMAGES, LABELS, batch)
    shares = np.bincount((IMAGES[:, 0, :2, :2] % 4).ravel()) / 40
    assert found == {
        "codebook_perplexity": pytest.approx(np.exp(-(shares * np.log(shares)).sum())),
        "codebook_used": 0.8,
    }
    assert set(model.calls) == {None}


@pytest.mark.parametrize("used", [1, 2, 16])
def test_the_perplexity_of_codes_that_are_used_alike_is_their_number(used):
    model = Quantising()
    model.code_count = 64
    model.codes = lambda images, labels: torch.arange(16).expand(len(images), -1) % used
    found = reconstruction.code_usage(model, IMAGES, LABELS, 4)
    assert found["codebook_perplexity"] == pytest.approx(used)
    assert found["codebook_used"] == used / 64


def test_labels_go_to_conditional_models_alone():
    class Recalling(Darkening):
        conditional = True

        def reconstruct(self, images, labels):
            self.calls.append(labels.tolist())
            return images

    model = Recalling()
    reconstruction.measure(model, IMAGES, LABELS, 10)
    assert model.calls == [LABELS.tolist()]
