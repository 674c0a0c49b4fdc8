import numpy as np
import pytest
import torch
from builders import (
    FACTS,
    SMALL,
    some_batch,
    some_images,
    tiny_model,
    tiny_params,
    trained,
    trainer,
)
from torch import nn

from pipeline.core import seeds
from pipeline.core.contract import Batch, to_signed
from pipeline.core.errors import PipelineError
from pipeline.evaluation.metrics.distortion import squared_errors
from pipeline.families import ae
from pipeline.models import weights
from pipeline.training.trainer import Trainer

EVERY = seeds.image_seeds(4, 0, "sample")


def batches_of(images, size=8):
    return [Batch(each, torch.zeros(len(each), dtype=torch.long)) for each in images.split(size)]


def linear(model):
    """The same model with one affine map to the code and one back."""
    torch.manual_seed(0)
    latent, size = model.params.network.latent, SMALL.dimensions
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, latent))
    model.decoder = nn.Sequential(nn.Linear(latent, size), nn.Unflatten(1, SMALL.shape))
    return model


def pca_error(images, latent):
    """Least mean squared error of any affine code of this size, where white is 1."""
    flat = images.flatten(1).double().numpy() / 255
    singular = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False)
    return (singular[latent:] ** 2).sum() / flat.size


def test_a_linear_one_learns_principal_components():
    images = some_images(16)
    training = {"batch": 16, "learning_rate": 0.02, "ema": 0.0}
    model = linear(tiny_model("ae", training=training))
    run = Trainer(model, images, torch.zeros(16, dtype=torch.long), seed=0, steps=300)
    run.run()
    best = pca_error(images, latent=3)
    assert best < run.history.rows[-1]["model/loss"] < 1.01 * best
    decoded = model.reconstruct(images, None).numpy()
    assert squared_errors(images.numpy(), decoded).mean() < 1.01 * best


def test_loss_is_the_error_that_is_reported():
    model, batch, losses = tiny_model("ae"), some_batch(tiny_model("ae")), {}
    levels = some_images(8, seed=1)
    model.decoder = nn.Module()
    model.decoder.forward = lambda codes: to_signed(levels)
    terms = model.training_step(batch, losses.__setitem__, torch.Generator())
    decoded = model.reconstruct(batch.images, None).numpy()
    assert np.array_equal(decoded, levels.numpy())
    reported = squared_errors(batch.images.numpy(), decoded).mean()
    assert losses["model"].item() == pytest.approx(reported, rel=1e-5)
    assert terms["model/loss"].item() == pytest.approx(reported, rel=1e-5)


def test_density_is_fitted_to_the_codes_of_distinct_images():
    """Epochs that end in the middle draw some images more often than others."""
    model = tiny_model("ae", network={"components": 1}, training={"floor": 0.05}).eval()
    images = some_images(24)
    drawn = batches_of(torch.cat([images, images[:8], images[:8]]))
    model.finish(iter(drawn), torch.Generator())
    with torch.no_grad():
        codes = model.encoder(to_signed(images)).double().numpy()
    covariance = np.cov(codes.T, bias=True) + 0.05 * codes.var(axis=0).mean() * np.eye(3)
    found = model.density.factors[0, 0] @ model.density.factors[0, 0].T
    np.testing.assert_allclose(model.density.means[0, 0].numpy(), codes.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.numpy(), covariance, rtol=1e-4, atol=1e-6)


def test_density_is_fitted_to_a_bounded_number_of_images(monkeypatch):
    monkeypatch.setattr(ae, "FITTED_IMAGES", 20)
    images = some_images(80)
    one, other = (tiny_model("ae", network={"components": 1}).eval() for _ in range(2))
    left = iter(batches_of(images))
    one.finish(left, torch.Generator())
    assert len(list(left)) == 7
    monkeypatch.setattr(ae, "FITTED_IMAGES", 1000)
    other.finish(iter(batches_of(images[:20])), torch.Generator())
    assert torch.equal(one.density.means, other.density.means)


def test_density_is_that_of_the_final_weights():
    """The averages are in place before the codes are computed."""
    model = tiny_model("ae", network={"components": 1})
    trainer(model, steps=20).run()
    with torch.no_grad():
        codes = model.encoder(to_signed(some_images(32)))
    torch.testing.assert_close(model.density.means[0, 0], codes.mean(0), rtol=1e-4, atol=1e-5)


def test_samples_are_decoded_draws_from_the_density():
    model, seen = trained(tiny_model("ae", network={"components": 2})), []
    density = model.density
    density.weights.copy_(torch.tensor([[0.25, 0.75]]))
    density.means.copy_(torch.tensor([[[4.0, 0.0, 0.0], [-4.0, 0.0, 2.0]]]))
    density.factors.copy_(torch.tensor([[1.0, 0, 0], [0.5, 1.0, 0], [0, -1.0, 0.2]]))
    model.decoder.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    images = model.sample(seeds.image_seeds(4000, 0, "sample"), None)
    ((codes, decoded),) = seen
    assert (to_signed(images) - decoded.clamp(-1, 1)).abs().max() < 0.5 / 127.5 + 1e-6
    mean = torch.tensor([-2.0, 0.0, 1.5])
    # Within the components, and between them: 0.25 * 0.75 times the squared distance of the means.
    apart = torch.tensor([8.0, 0.0, -2.0])
    within = density.factors[0, 0] @ density.factors[0, 0].T
    covariance = within + 0.25 * 0.75 * torch.outer(apart, apart)
    spread = covariance.diagonal().sqrt() / 4000**0.5
    assert ((codes.mean(0) - mean).abs() < 4 * spread).all()
    torch.testing.assert_close(torch.cov(codes.T), covariance, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("components", [1, 3, 8])
def test_any_number_of_components_is_fitted_and_drawn_from(components):
    model = trained(tiny_model("ae", network={"components": components}))
    assert model.density.weights.sum() == pytest.approx(1)
    assert len({image.numpy().tobytes() for image in model.sample(EVERY, None)}) == 4


def test_facts_name_the_density():
    model = tiny_model("ae", network={"components": 5})
    assert model.facts() == {"latent_density": "mixture of 5 full-covariance Gaussians"}
    model = tiny_model("ae", network={"components": 1})
    assert model.facts() == {"latent_density": "full-covariance Gaussian"}


def test_no_samples_without_a_density(tmp_path):
    model = tiny_model("ae")
    run = trainer(model, steps=5)
    run.run(stop_at=4)
    with pytest.raises(PipelineError, match=r"^tiny_ae: .*none was fitted") as raised:
        model.sample(EVERY, None)
    assert "\n" not in str(raised.value)
    model.reconstruct(some_images(2), None)
    weights.save(tmp_path / "model", model, FACTS)
    loaded, _ = weights.load(tmp_path / "model", tiny_params("ae"), SMALL, torch.device("cpu"))
    with pytest.raises(PipelineError, match="none was fitted"):
        loaded.sample(EVERY, None)
    run.run()
    model.sample(EVERY, None)


def test_density_is_saved_with_the_weights(tmp_path):
    model = trained(tiny_model("ae"))
    weights.save(tmp_path / "model", model, FACTS)
    loaded, _ = weights.load(tmp_path / "model", tiny_params("ae"), SMALL, torch.device("cpu"))
    before, after = model.density.state_dict(), loaded.density.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(model.sample(EVERY, None), loaded.sample(EVERY, None))


def test_density_of_another_size_does_not_fit(tmp_path):
    weights.save(tmp_path / "model", trained(tiny_model("ae")), FACTS)
    other = tiny_params("ae", network={"components": 3})
    with pytest.raises(PipelineError, match="does not fit"):
        weights.load(tmp_path / "model", other, SMALL, torch.device("cpu"))


def test_fewer_images_than_components_are_refused():
    model = tiny_model("ae", network={"components": 40})
    with pytest.raises(PipelineError, match="components"):
        trained(model)


def test_nothing_depends_on_the_mode_or_the_batch():
    model, images = trained(tiny_model("ae")), some_images(6)
    evaluated = model.reconstruct(images, None)
    together = model.train().reconstruct(images, None)
    alone = torch.cat([model.reconstruct(each, None) for each in images.split(1)])
    assert torch.equal(evaluated, together)
    assert (together.int() - alone.int()).abs().max() <= 1


def test_interpolations_are_straight_lines_between_codes():
    model, batch = trained(tiny_model("ae"), steps=30), some_batch(tiny_model("ae"), 10)
    (picture,) = model.illustrate(batch, seeds.image_seeds(10, 0)).values()
    assert picture.shape == (10, 12, *SMALL.shape) and picture.dtype == torch.uint8
    start, end = batch.images, batch.images[[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]]
    assert torch.equal(picture[:, 0], start) and torch.equal(picture[:, -1], end)
    with torch.no_grad():
        first, last = (model.encoder(to_signed(each)) for each in (start, end))
        for column, share in ((1, 0), (4, 1 / 3), (7, 2 / 3), (10, 1)):
            decoded = model.decoder((1 - share) * first + share * last)
            close = (to_signed(picture[:, column]) - decoded.clamp(-1, 1)).abs()
            assert close.max() < 1.01 / 127.5
