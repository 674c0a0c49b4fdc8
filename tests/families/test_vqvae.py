from itertools import product

import pytest
import torch
from builders import (
    COLOUR,
    SMALL,
    assert_same_training,
    some_batch,
    some_images,
    tiny_model,
    tiny_params,
    trained,
    trainer,
)

from pipeline import families
from pipeline.core import seeds
from pipeline.core.contract import Quantises, TrainingImages, to_uint8
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.families.vqvae import straight_through

CPU = torch.device("cpu")
CONDITIONAL = {"network": {"conditional": True}}


def every(n, name="sample"):
    return seeds.image_seeds(n, 0, name)


def lively(spec=SMALL, **blocks):
    """A model whose codes and prior say something; its maps are 2x2 of `SMALL` images."""
    network = {"halvings": 2, **blocks.pop("network", {})}
    model = tiny_model("vqvae", spec, network=network, **blocks).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        encoded = model.encode(some_images(64, spec, seed=3)).flatten(0, 2)
    model.codebook.revive(encoded, 1.0, torch.Generator().manual_seed(0))
    return model


def step(model, batch=None):
    """What a step logs, and the losses that it hands to each group."""
    losses = []
    terms = model.training_step(
        batch or some_batch(model),
        lambda name, loss: losses.append((name, loss)),
        torch.Generator().manual_seed(0),
    )
    return terms, losses


def test_the_gradient_at_the_codes_is_that_at_the_points():
    """Through a function with second derivatives, whose gradient is not the same everywhere."""
    points, vectors = torch.randn(2, 2, 3, 3, 4, dtype=torch.float64)
    points.requires_grad_()
    vectors.requires_grad_()
    through = straight_through(points, vectors)
    torch.testing.assert_close(through, vectors)
    (through**3).sum().backward()
    torch.testing.assert_close(points.grad, 3 * vectors.detach() ** 2)
    assert vectors.grad is None


def test_the_autoencoders_loss_is_the_papers():
    """log p(x|c) by the decoder alone, and the distance to the codes times beta."""
    model = lively(training={"commitment": 0.7})
    batch = some_batch(model)
    encoded = model.encode(batch.images).detach()
    vectors = model.codebook(model.codes(batch.images, None))
    pixels = -model.decode(vectors).log_prob(batch.images).flatten(1).sum(1).mean()
    commitment = (encoded - vectors).square().mean()
    terms, [(name, loss)] = step(model, batch)
    assert name == "autoencoder"
    torch.testing.assert_close(terms["autoencoder/loss"], pixels.detach())
    torch.testing.assert_close(terms["autoencoder/commitment"], commitment)
    torch.testing.assert_close(loss, 0.7 * commitment + pixels / SMALL.dimensions)


def test_the_encoder_learns_from_the_decoder_and_from_the_distance():
    found = []
    for commitment in (1e-9, 1.0):
        model = lively(training={"commitment": commitment})
        _, [(_, loss)] = step(model)
        found.append(torch.autograd.grad(loss, list(model.encoder.parameters())))
    for decoder_alone, both in zip(*found, strict=True):
        assert (decoder_alone != 0).any() and not torch.allclose(decoder_alone, both)


def test_the_prior_starts_when_the_autoencoder_is_done_and_changes_nothing_of_it():
    model = tiny_model("vqvae", training={"autoencoder": 20})
    one = trainer(model, steps=6)
    one.run(stop_at=3)
    assert one.updates == {"autoencoder": 3, "prior": 0}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one.run()
    assert one.updates == {"autoencoder": 3, "prior": 3}
    for key, value in model.state_dict().items():
        if not key.startswith("prior."):
            assert torch.equal(value, before[key]), key
    assert not torch.equal(model.state_dict()["prior.logits.weight"], before["prior.logits.weight"])


def test_the_prior_is_trained_on_its_log_probability_alone():
    model = lively()
    model.images_encoded.add(100)
    batch = some_batch(model)
    terms, [(name, loss)] = step(model, batch)
    found = -model.prior.log_prob(model.codes(batch.images, None), model.codebook.vectors)
    assert name == "prior" and terms.keys() == {"prior/loss"}
    torch.testing.assert_close(terms["prior/loss"], found.flatten(1).sum(1).mean().detach())
    torch.testing.assert_close(loss, found.mean())


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_it_goes_on_from_a_checkpoint_before_at_and_after_the_change(stop, tmp_path):
    """Counts, codebook and averages: bit for bit what was not interrupted."""

    def made(**options):
        model = tiny_model("vqvae", SMALL, training={"autoencoder": 24, "images": 64})
        return trainer(model, steps=8, **options)

    whole, first = made(), made()
    whole.run()
    first.run(stop_at=stop)
    first.save(tmp_path / "checkpoint")
    resumed = made(checkpoint=tmp_path / "checkpoint", checkpoint_seconds=1e9)
    resumed.run()
    assert whole.updates == {"autoencoder": 3, "prior": 5}
    assert_same_training(whole, resumed)


def test_each_part_has_a_warm_up_and_ends_near_zero():
    model = tiny_model("vqvae", training={"images": 800, "batch": 8, "autoencoder": 240})
    rates = {name: group.schedule for name, group in model.groups().items()}
    early = [rates["autoencoder"](i / 100) for i in range(30)]
    late = [rates["prior"](i / 100) for i in range(30, 100)]
    for part in (early, late):
        assert 0 <= part[0] < 0.05 and part[-1] < 0.01 and max(part) > 0.98


def test_a_budget_scales_both_parts():
    training = tiny_params("vqvae", training={"images": 640, "autoencoder": 320}).training
    for budget, images, autoencoder in ((2, 1280, 640), (0.1, 64, 32)):
        found = training.scaled(budget)
        assert (found.images, found.autoencoder) == (images, autoencoder)


def test_a_training_without_the_prior_is_refused_before_it_starts():
    def reason(**training):
        chosen = tiny_params("vqvae", training=training)
        images = TrainingImages(SMALL, 1000)
        return families.load("vqvae").unsupported(chosen, CPU, images)

    assert reason(images=64, batch=8, autoencoder=56) is None
    assert reason(images=64, batch=8, autoencoder=57).startswith("training.autoencoder: ")
    assert "raise train.budget" in reason(images=8, batch=8, autoencoder=8)


def test_what_the_images_do_not_allow_is_refused():
    with pytest.raises(PipelineError, match=r"vqvae\.network\.halvings = 4: .* 3 times at most"):
        tiny_model("vqvae", network={"halvings": 4})
    with pytest.raises(PipelineError, match=r"network\.attention_heads = 3: must divide width"):
        tiny_model("vqvae", network={"attention_heads": 3})


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 13, 22)], ids=str)
@pytest.mark.parametrize("halvings", [1, 2, 3])
@torch.no_grad()
def test_the_map_of_codes_follows_the_images(shape, halvings):
    spec = ImageSpec(*shape, 10)
    model = lively(spec, network={"halvings": halvings})
    rows, columns = (-(-side // 2**halvings) for side in shape[1:])
    images = some_images(2, spec)
    assert model.codes(images, None).shape == (2, rows, columns)
    assert model.reconstruct(images, None).shape == images.shape
    assert model.facts() == {"codes": f"{rows}x{columns} of 12"}
    assert model.network_evaluations == rows * columns + 1


@torch.no_grad()
def test_the_bound_is_never_above_the_exact_probability():
    """Of a toy with all its codes: log p(x) is the sum over all of them."""
    spec = ImageSpec(1, 4, 4, 2)
    model = lively(spec, network={"codes": 3, "halvings": 1})
    maps = torch.tensor(list(product(range(3), repeat=4))).view(-1, 2, 2)
    prior = model.prior.log_prob(maps, model.codebook.vectors).double().flatten(1).sum(1)
    assert prior.exp().sum().item() == pytest.approx(1, rel=1e-5)
    decoded = model.decode(model.codebook(maps))
    images = some_images(8, spec)
    found = model.log_likelihood(images, None, every(8))
    codes = model.codes(images, None)
    assert len(codes.flatten(1).unique(dim=0)) > 1
    for i, image in enumerate(images):
        given = decoded.log_prob(image.expand(81, -1, -1, -1)).double().flatten(1).sum(1)
        assert found.nats[i] < torch.logsumexp(prior + given, dim=0)
        mine = (maps == codes[i]).flatten(1).all(dim=1).nonzero().item()
        torch.testing.assert_close(found.nats[i], (prior + given)[mine], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.terms["codes"][i], prior[mine], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_bound_is_exact_where_the_decoder_does_not_look_at_codes():
    """And the prior then costs nothing where there is one code that is certain."""
    model, images = lively(), some_images(3)
    model.prior.logits.weight.zero_()
    model.prior.logits.bias.copy_(-1e4 * torch.arange(12.0))
    model.codebook.vectors.fill_(0.5)
    found = model.log_likelihood(images, None, every(3))
    alone = model.decode(torch.full((3, 2, 2, 3), 0.5)).log_prob(images).double()
    torch.testing.assert_close(found.nats, alone.flatten(1).sum(1))
    assert (found.terms["codes"] == 0).all() and found.bound == "elbo"


@torch.no_grad()
def test_a_sample_is_decoded_from_a_draw_of_the_prior():
    model = lively()
    uniform = seeds.ImageNoise(every(5)).uniform(2, 2)
    codes = model.prior.fill(
        torch.zeros(5, 2, 2, dtype=torch.int64), model.codebook.vectors, uniform
    )
    expected = to_uint8(model.decode(model.codebook.vectors[codes]).mean())
    assert torch.equal(model.sample(every(5), None), expected)
    noisy = lively(sampling={"pixels": "sample"})
    drawn = torch.stack([noisy.sample(every(1), None)[0] for _ in range(2)])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], expected[0])


@torch.no_grad()
def test_labels_are_the_priors_alone():
    model, images = lively(COLOUR, **CONDITIONAL), some_images(4, COLOUR)
    assert model.conditional and not lively().conditional
    one, other = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 4])
    before, after = (model.log_likelihood(images, each, every(4)) for each in (one, other))
    assert torch.equal(before.terms["pixels"], after.terms["pixels"])
    assert (before.terms["codes"] != after.terms["codes"]).tolist() == [False] * 3 + [True]
    assert torch.equal(model.reconstruct(images, one), model.reconstruct(images, other))
    assert model.sample(every(4), one).shape == images.shape


def test_a_conditional_model_trains_what_labels_say():
    model = tiny_model("vqvae", **CONDITIONAL)
    before = model.prior.label.weight.detach().clone()
    trained(model)
    assert (model.prior.label.weight != before).any()


@torch.no_grad()
def test_it_says_which_codes_there_are():
    model = lively()
    assert isinstance(model, Quantises) and model.code_count == 12
    codes = model.codes(some_images(20), None)
    assert codes.min() >= 0 and codes.max() < 12


def test_codes_do_not_depend_on_the_precision_of_training():
    model, images = lively(COLOUR), some_images(20, COLOUR)
    expected = model.codes(images, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.codes(images, None), expected)


@pytest.mark.parametrize("spec", [SMALL, ImageSpec(3, 9, 10, 10)], ids=["even", "odd"])
@torch.no_grad()
def test_pictures_show_codes_and_how_they_go_on(spec):
    model = lively(spec)
    batch = some_batch(model, 10)
    found = model.illustrate(batch, every(10))
    assert found["codes"].shape == (3, 10, *spec.shape)
    assert torch.equal(found["codes"][0], batch.images)
    assert torch.equal(found["codes"][2], model.reconstruct(batch.images, None))
    shades, codes = found["codes"][1], model.codes(batch.images, None)
    common = codes == model.codebook.share.argmax()
    assert torch.equal(shades[:, 0, ::4, ::4] == 0, common)
    assert found["completions"].shape == (6, 10, *spec.shape)
    half = 4 * (codes.shape[1] // 2)
    assert torch.equal(found["completions"][1, :, :, :half], batch.images[:, :, :half])
    assert (found["completions"][1, :, :, half:] == 0).all()
