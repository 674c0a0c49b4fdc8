import math

import pytest
import torch
import torch.nn.functional as F
from builders import some_batch, tiny_model, trainer
from torch import nn

from pipeline.core import seeds
from pipeline.core.contract import to_signed
from pipeline.core.images import ImageSpec
from pipeline.families import gan

LOSSES = pytest.mark.parametrize("loss", list(gan.LOSSES))


class Replay(nn.Module):
    """A discriminator that answers with prepared outputs and keeps what it was shown."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = iter(answers)
        self.shown = []

    def forward(self, images, labels=None):
        self.shown.append((images, labels))
        return next(self.answers)


def stepped(model, on_real, on_fake, again, batch=None):
    """Losses by group, logged terms and the discriminator of one step with given outputs."""
    model.discriminator = Replay(on_real, on_fake, again)
    losses = {}
    batch = batch or some_batch(model)
    terms = model.training_step(batch, losses.__setitem__, seeds.generator(0))
    assert list(losses) == ["discriminator", "generator"]
    return losses, terms, model.discriminator


def with_loss(loss):
    return tiny_model("gan", training={"loss": loss})


def random_outputs():
    return torch.randn(3, 8, generator=seeds.generator(0)) * 5


def full(value):
    return torch.full((8,), value)


@pytest.mark.parametrize(
    ("loss", "on_real", "on_fake", "again", "discriminator", "generator"),
    [
        ("non_saturating", 0.0, 0.0, 0.0, 2 * math.log(2), math.log(2)),
        ("non_saturating", 2.0, -3.0, 1.0, 0.126928 + 0.048587, 0.313262),
        ("non_saturating", -1e4, 1e4, -1e4, 2e4, 1e4),
        ("non_saturating", 1e4, -1e4, 1e4, 0.0, 0.0),
        ("least_squares", 1.0, 0.0, 0.0, 0.0, 0.5),
        ("least_squares", 0.0, 1.0, 1.0, 1.0, 0.0),
        ("least_squares", 0.5, 0.5, 0.5, 0.25, 0.125),
        ("least_squares", 101.0, -50.0, 11.0, 0.5 * 100**2 + 0.5 * 50**2, 0.5 * 10**2),
    ],
)
def test_losses_at_known_outputs(loss, on_real, on_fake, again, discriminator, generator):
    losses, terms, _ = stepped(with_loss(loss), full(on_real), full(on_fake), full(again))
    assert losses["discriminator"].item() == pytest.approx(discriminator, rel=1e-5)
    assert losses["generator"].item() == pytest.approx(generator, rel=1e-5)
    assert terms["discriminator/loss"] == losses["discriminator"]
    assert terms["generator/loss"] == losses["generator"]


def test_non_saturating_losses_are_cross_entropies_of_the_logits():
    on_real, on_fake, again = random_outputs()
    losses, terms, _ = stepped(with_loss("non_saturating"), on_real, on_fake, again)
    ones, zeros = torch.ones(8), torch.zeros(8)
    real = F.binary_cross_entropy_with_logits(on_real, ones)
    fake = F.binary_cross_entropy_with_logits(on_fake, zeros)
    torch.testing.assert_close(losses["discriminator"], real + fake)
    torch.testing.assert_close(losses["generator"], F.binary_cross_entropy_with_logits(again, ones))
    torch.testing.assert_close(terms["discriminator/real"], on_real.sigmoid().mean())
    torch.testing.assert_close(terms["discriminator/fake"], on_fake.sigmoid().mean())


def test_least_squares_are_half_mean_squared_errors_of_the_outputs():
    on_real, on_fake, again = random_outputs()
    losses, terms, _ = stepped(with_loss("least_squares"), on_real, on_fake, again)
    ones, zeros = torch.ones(8), torch.zeros(8)
    expected = (F.mse_loss(on_real, ones) + F.mse_loss(on_fake, zeros)) / 2
    torch.testing.assert_close(losses["discriminator"], expected)
    torch.testing.assert_close(losses["generator"], F.mse_loss(again, ones) / 2)
    torch.testing.assert_close(terms["discriminator/real"], on_real.mean())
    torch.testing.assert_close(terms["discriminator/fake"], on_fake.mean())


@LOSSES
def test_the_generator_wants_what_the_discriminator_calls_real(loss):
    chosen = gan.LOSSES[loss]
    outputs = torch.zeros(4, requires_grad=True)
    chosen.generator(outputs).backward()
    assert (outputs.grad < 0).all()
    on_real, on_fake = torch.zeros(2, 4).requires_grad_().unbind()
    down, up = torch.autograd.grad(chosen.discriminator(on_real, on_fake + 0.5), [on_real, on_fake])
    assert (down < 0).all() and (up > 0).all()


@pytest.mark.parametrize("architecture", list(gan.ARCHITECTURES))
@pytest.mark.parametrize("conditional", [False, True])
@LOSSES
def test_the_discriminator_sees_real_then_fake_then_the_same_fake(architecture, conditional, loss):
    network = {"architecture": architecture, "conditional": conditional}
    model = tiny_model("gan", network=network, training={"loss": loss})
    batch = some_batch(model)
    _, _, discriminator = stepped(model, *random_outputs().unbind(), batch=batch)
    (real, _), (fake, _), (again, _) = discriminator.shown
    assert torch.equal(real, to_signed(batch.images))
    assert torch.equal(fake, again)
    assert not fake.requires_grad and again.requires_grad


@pytest.mark.parametrize("architecture", list(gan.ARCHITECTURES))
def test_real_and_fake_images_have_the_batchs_labels_in_both_players(architecture):
    model = tiny_model("gan", network={"architecture": architecture, "conditional": True})
    given = []
    model.generator.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    batch = some_batch(model)
    expected = F.one_hot(batch.labels, 10).float()
    _, _, discriminator = stepped(model, *random_outputs().unbind(), batch=batch)
    assert len(given) == 1 and given[0].shape == (8, 4 + 10)
    assert torch.equal(given[0][:, 4:], expected)
    assert len(discriminator.shown) == 3
    for _, labels in discriminator.shown:
        assert torch.equal(labels, expected)


def test_every_step_draws_other_noise():
    model, given = tiny_model("gan"), []
    model.generator.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    training = trainer(model, steps=3)
    for _ in range(3):
        training._train_one_step()
    assert torch.cat(given).unique(dim=0).shape == (3 * 8, 4)


@pytest.mark.parametrize("side", [28, 64])
def test_batch_normalisation_stands_where_the_paper_has_it(side):
    """On every map but those next to the images, with the eps of the paper's own code."""
    model = tiny_model("gan", ImageSpec(1, side, side, 10))
    convolutions = {28: 2, 64: 4}[side]
    generator = [type(each) for each in model.generator.layers]
    assert generator[-2:] == [nn.ConvTranspose2d, nn.Tanh]
    assert generator.count(nn.ConvTranspose2d) == generator.count(nn.BatchNorm2d) == convolutions
    features = [type(each) for each in model.discriminator.features]
    assert features[:2] == [nn.Conv2d, nn.LeakyReLU]
    assert features.count(nn.Conv2d) == features.count(nn.BatchNorm2d) + 1 == convolutions
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.eps == 1e-5


def test_dropout_is_in_the_dense_discriminator_alone_and_off_at_0():
    model = tiny_model("gan", network={"architecture": "dense", "dropout": 0.5})
    assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == [0.5, 0.5]
    assert not [each for each in model.generator.modules() if isinstance(each, nn.Dropout)]
    images = to_signed(some_batch(model).images)
    assert not torch.equal(model.discriminator(images), model.discriminator(images))
    model = tiny_model("gan", network={"architecture": "dense", "dropout": 0.0})
    assert torch.equal(model.discriminator(images), model.discriminator(images))


def test_each_player_has_its_own_learning_rate():
    training = {"learning_rate": 0.25, "discriminator_learning_rate": 0.125, "beta1": 0.375}
    groups = tiny_model("gan", training=training).groups()
    rates = {name: each.optimiser(each.parameters).defaults for name, each in groups.items()}
    assert rates["generator"]["lr"] == 0.25 and rates["discriminator"]["lr"] == 0.125
    assert all(each["betas"] == (0.375, 0.999) for each in rates.values())
