import numpy as np
import pytest
import torch
from builders import SMALL, some_batch, some_images, tiny_model, trainer
from torch import nn

from pipeline.core import seeds
from pipeline.core.contract import Batch, to_signed
from pipeline.core.errors import PipelineError
from pipeline.families.began import Autoencoder, Began, BeganTraining, autoencoding_errors


class Blaming(nn.Module):
    """Adds to an image what makes its squared error the next of a list: real is black, fake not."""

    def __init__(self, real, fake):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.errors = {True: iter(real), False: iter(np.repeat(fake, 2))}

    def forward(self, images):
        error = next(self.errors[images.mean().item() < -0.5])
        return images + error**0.5 + self.weight


class Grey(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, noise):
        return torch.zeros(len(noise), *SMALL.shape) + self.weight


def playing(**training):
    """A model past the time in which the discriminator learns alone."""
    return tiny_model("began", training={"alone": 0, **training})


def recorded(model, batch=None):
    """What a step logs, and the losses that it hands to each player."""
    losses = []
    terms = model.training_step(
        batch or some_batch(model),
        lambda name, loss: losses.append((name, loss)),
        torch.Generator().manual_seed(0),
    )
    return terms, losses


def test_three_steps_are_those_of_a_hand_calculation():
    """gamma = 1/2, gain = 1/10; k after each step, by pencil.

    errors real 0.50 0.40 0.30, fake 0.10 0.30 0.25:
    balance 0.25 - 0.10 = 0.15, 0.20 - 0.30 = -0.10, 0.15 - 0.25 = -0.10
    k before 0, 0.015, 0.005, and at last 0.005 - 0.010, which is cut off at 0
    convergence 0.65 0.50 0.40; loss 0.5, 0.4 - 0.015 * 0.3 = 0.3955, 0.3 - 0.005 * 0.25 = 0.29875
    """
    model = playing(gamma=0.5, gain=0.1)
    model.discriminator = Blaming([0.5, 0.4, 0.3], [0.1, 0.3, 0.25])
    model.generator = Grey()
    black = Batch(torch.zeros(4, *SMALL.shape, dtype=torch.uint8), torch.zeros(4).long())
    seen = [recorded(model, black)[0] for _ in range(3)]

    def logged(name):
        return [step[name].item() for step in seen]

    assert logged("discriminator/k") == pytest.approx([0, 0.015, 0.005], abs=1e-6)
    assert logged("discriminator/convergence") == pytest.approx([0.65, 0.5, 0.4], abs=1e-6)
    assert logged("discriminator/loss") == pytest.approx([0.5, 0.3955, 0.29875], abs=1e-6)
    assert logged("generator/loss") == pytest.approx([0.1, 0.3, 0.25], abs=1e-6)
    assert model.k.item() == 0


def test_k_is_cut_off_at_one():
    model = playing(gamma=1.0, gain=100.0)
    model.discriminator, model.generator = Blaming([0.5], [0.1]), Grey()
    recorded(model, Batch(torch.zeros(4, *SMALL.shape, dtype=torch.uint8), torch.zeros(4).long()))
    assert model.k.item() == 1


@pytest.mark.parametrize("eta", [1, 2])
def test_errors_are_means_of_powers_over_pixels(eta):
    one, other = np.random.default_rng(0).uniform(-1, 1, (2, 5, 3, 8, 8)).astype(np.float32)
    expected = (np.abs(one.astype(np.float64) - other) ** eta).mean(axis=(1, 2, 3))
    found = autoencoding_errors(torch.from_numpy(one), torch.from_numpy(other), eta)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_discriminators_step_leaves_no_gradient_in_the_generator():
    model = playing()
    _, losses = recorded(model)
    assert [name for name, _ in losses] == ["generator", "discriminator"]
    model.k.fill_(0.5)
    _, losses = recorded(model)
    named = dict(losses)
    generator = list(model.generator.parameters())
    gradients = torch.autograd.grad(
        named["discriminator"], generator, retain_graph=True, allow_unused=True
    )
    assert all(each is None for each in gradients)
    assert all(each is not None for each in torch.autograd.grad(named["generator"], generator))


def test_fake_images_count_against_the_discriminator_with_k():
    model = playing()
    model.k.fill_(0.25)
    terms, _ = recorded(model)
    expected = terms["discriminator/real"] - 0.25 * terms["discriminator/fake"]
    torch.testing.assert_close(terms["discriminator/loss"], expected)


def test_both_players_learn_from_one_state():
    """The discriminator sees the images of the generator as it was before its update."""
    model, seen = playing(), []
    model.discriminator.register_forward_hook(lambda _, args, __: seen.append(args[0]))

    def update(name, loss):
        if name == "generator":
            with torch.no_grad():
                for parameter in model.generator.parameters():
                    parameter.add_(1)

    model.training_step(some_batch(model), update, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], seen[2])


def test_the_discriminator_learns_alone_until_the_generator_starts_as_its_decoder():
    model = tiny_model("began", training={"alone": 24})
    made = trainer(model, steps=5)
    before = {key: value.clone() for key, value in model.generator.state_dict().items()}
    made.run(stop_at=2)
    assert made.updates == {"generator": 0, "discriminator": 2}
    after = model.generator.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    made.run(stop_at=3)
    decoder = model.discriminator.decoder.state_dict()
    after = model.generator.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in decoder.items())
    made.run()
    assert made.updates == {"generator": 2, "discriminator": 5}


def test_a_generator_that_was_never_trained_is_no_model():
    model = tiny_model("began", training={"alone": 1000})
    told = r"models\.tiny_began\.training\.images: tiny_began's generator had no update in all 2"
    with pytest.raises(PipelineError, match=told):
        trainer(model, steps=2).run()


@pytest.mark.parametrize(
    ("budget", "images", "alone"),
    [(1.0, 36_000, 20_000), (0.55, 19_808, 11_000), (2.0, 72_000, 40_000), (1e-5, 16, 1)],
)
def test_what_the_discriminator_sees_alone_is_a_share_of_the_training(budget, images, alone):
    block = BeganTraining(images=36_000, batch=16, alone=20_000).scaled(budget)
    assert (block.images, block.alone) == (images, alone)
    assert block.steps == images // 16
    assert BeganTraining(images=36_000, alone=0).scaled(budget).alone == 0


@pytest.mark.parametrize(("alone", "generator"), [(32, 1), (33, 0)])
def test_it_says_beforehand_when_the_generator_has_no_turn(alone, generator):
    """Of 5 steps of 8 images."""
    model = tiny_model("began", training={"images": 40, "alone": alone})
    made = trainer(model, steps=model.params.training.steps)
    made.run(stop_at=4)
    made._train_one_step()
    assert made.updates["generator"] == generator
    assert (Began.unsupported(model.params, model.device) is None) == bool(generator)


def test_a_code_has_the_moments_of_the_noise():
    code = Autoencoder(SMALL, tiny_model("began").params.network).code(
        to_signed(some_images(6)) * 3
    )
    torch.testing.assert_close(code.mean(1), torch.zeros(6), atol=1e-5, rtol=0)
    noise = tiny_model("began")._own_noise(seeds.image_seeds(4000, 0, "noise"))
    assert noise.min() >= -1 and noise.max() < 1
    torch.testing.assert_close(code.var(1, correction=0).mean(), noise.var(), rtol=0.05, atol=0)


def test_its_own_error_is_a_mean_squared_error_where_white_is_one():
    model, images = tiny_model("began"), some_images(5)
    decoded = (model.discriminator(to_signed(images)).detach() + 1) / 2
    expected = ((images / 255 - decoded) ** 2).flatten(1).mean(1)
    found = model.own_errors(images, None)
    assert found.keys() == {"discriminator_error"}
    torch.testing.assert_close(found["discriminator_error"], expected, rtol=1e-4, atol=1e-6)


def test_it_does_not_pass_the_discriminators_work_off_as_the_generators():
    assert not hasattr(tiny_model("began"), "reconstruct")


def test_interpolations_go_from_seed_to_seed():
    model = tiny_model("began")
    every = seeds.image_seeds(10, 0, "sample")
    picture = model.illustrate(some_batch(model, 10), every)["interpolations"]
    assert picture.shape == (10, 12, *SMALL.shape)
    samples = model.sample(every, None)
    assert (picture[:, 0].int() - samples.int()).abs().max() <= 1
    assert (picture[:, -1].int() - samples.roll(-1, dims=0).int()).abs().max() <= 1
