import pytest
import torch
from builders import SMALL, some_batch, some_images, tiny_model, tiny_params, trainer
from torch import nn

from pipeline.core import precision, seeds
from pipeline.core.contract import to_signed
from pipeline.core.images import ImageSpec
from pipeline.families import wgan

CONSTRAINTS = pytest.mark.parametrize("constraint", list(wgan.CONSTRAINTS))
CPU = torch.device("cpu")
TWICE = ImageSpec(1, 16, 16, 10)
"""Images that are halved twice, so that a critic has more than one convolution."""


class Critic(nn.Module):
    """A critic made of a function; it keeps what it was shown."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.shown = []

    def forward(self, images):
        self.shown.append(images)
        return self.function(images)


def pair(n, spec=SMALL):
    """Images in -1..1 that are taken for real ones and fake ones."""
    return [to_signed(some_images(n, spec, seed=i)) for i in range(2)]


def penalty(critic, real, fake, name=0):
    found = wgan.GradientPenalty().penalties(critic, real, fake, seeds.generator(name))
    assert list(found) == ["penalty"]
    return found["penalty"]


def with_constraint(constraint, **training):
    return tiny_model("wgan", training={"constraint": constraint, **training})


@pytest.mark.parametrize("n", [1, 2, 7, 32])
@pytest.mark.parametrize("length", [0.25, 1.0, 3.0])
def test_a_linear_critic_has_the_same_penalty_at_any_batch_size(n, length):
    weight = torch.randn(64, generator=seeds.generator(0))
    weight = weight / weight.norm() * length
    found = penalty(lambda images: images.flatten(1) @ weight + 5, *pair(n))
    assert found.item() == pytest.approx((length - 1) ** 2, rel=1e-4, abs=1e-9)


def test_each_image_has_a_place_of_its_own_between_real_and_fake():
    critic = Critic(lambda images: images.flatten(1).sum(1))
    real, fake = pair(200)
    penalty(critic, real, fake)
    (between,) = critic.shown
    apart = (real - fake).flatten(1)
    places = ((between - fake).flatten(1) * apart).sum(1) / apart.square().sum(1)
    expected = places[:, None, None, None] * real + (1 - places)[:, None, None, None] * fake
    torch.testing.assert_close(between.detach(), expected, rtol=1e-4, atol=1e-4)
    places = places.detach()
    assert places.min() > 0 and places.max() < 1
    assert places.mean().item() == pytest.approx(0.5, abs=0.07)
    assert places.std().item() == pytest.approx(12**-0.5, abs=0.04)


def test_each_image_has_a_gradient_norm_of_its_own():
    critic = Critic(lambda images: 0.5 * images.flatten(1).square().sum(1))
    found = penalty(critic, *pair(16))
    lengths = critic.shown[0].flatten(1).norm(dim=1)
    assert lengths.std() > 0.1
    torch.testing.assert_close(found, (lengths - 1).square().mean())


def test_the_penalty_is_differentiated_through_the_critics_gradient():
    """Against central differences in float64, for values of every one of its tensors."""
    critic = tiny_model("wgan", TWICE).critic.double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(8)
    real, fake = (each.double() for each in pair(4, TWICE))
    parameters = dict(critic.named_parameters())
    # A bias moves the output alone, never its slope, so long as no unit changes sign.
    found = torch.autograd.grad(
        penalty(critic, real, fake), list(parameters.values()), allow_unused=True
    )
    step, compared = 1e-6, 0
    for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
        values = parameter.data.view(-1) if parameter.is_contiguous() else parameter.data.flatten()
        for i in range(0, len(values), max(1, len(values) // 5)):
            index = tuple(torch.unravel_index(torch.tensor(i), parameter.shape))
            kept = parameter.data[index].item()
            ends = []
            for sign in (1, -1):
                parameter.data[index] = kept + sign * step
                ends.append(penalty(critic, real, fake).item())
            parameter.data[index] = kept
            expected = (ends[0] - ends[1]) / (2 * step)
            actual = 0.0 if gradient is None else gradient[index].item()
            assert actual == pytest.approx(expected, rel=1e-4, abs=1e-7), name
            compared += expected != 0
    assert compared >= 15


def test_a_critic_without_slope_has_a_finite_derivative():
    critic = nn.Linear(64, 1)
    nn.init.zeros_(critic.weight)
    found = penalty(lambda images: critic(images.flatten(1)).squeeze(1), *pair(4))
    found.backward()
    assert found.item() == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(critic.weight.grad).all()


def test_the_penalty_is_in_float32_whatever_the_precision():
    critic = tiny_model("wgan").critic
    real, fake = pair(4)
    expected = penalty(critic, real, fake)
    with precision.autocast(CPU, "bf16"):
        assert critic(real).dtype == torch.bfloat16
        found = penalty(critic, real, fake)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("spec", [SMALL, TWICE, ImageSpec(3, 64, 64, 10)])
def test_the_critic_judges_each_image_by_itself(spec):
    critic = tiny_model("wgan", spec).critic
    real, _ = pair(6, spec)
    alone = torch.cat([critic(each) for each in real.split(1)])
    torch.testing.assert_close(critic(real), alone)
    assert not [each for each in critic.modules() if isinstance(each, nn.BatchNorm2d)]


@pytest.mark.parametrize("spec", [TWICE, ImageSpec(3, 64, 64, 10)])
def test_a_clipped_critic_may_normalise_and_its_norms_are_clipped_too(spec):
    """As in the authors' code; each image is then judged among the others."""
    training = {"constraint": "clip", "clip_bound": 0.02}
    model = tiny_model("wgan", spec, network={"critic_batch_norm": True}, training=training)
    norms = [each for each in model.critic.modules() if isinstance(each, nn.BatchNorm2d)]
    strided = [each for each in model.critic.modules() if isinstance(each, nn.Conv2d)]
    assert len(norms) == len(strided) - 1, "after each convolution but the first"
    real, _ = pair(6, spec)
    halves = torch.cat([model.critic(each) for each in real.split(3)])
    assert not torch.allclose(model.critic(real), halves)
    trainer(model, steps=2).run()
    assert all(each.abs().max() <= 0.02 for each in model.critic.parameters())


@pytest.mark.parametrize("constraint", list(wgan.CONSTRAINTS))
@pytest.mark.parametrize("normalised", [True, False])
def test_a_penalty_on_each_image_refuses_a_critic_that_mixes_them(constraint, normalised):
    params = tiny_params(
        "wgan",
        network={"critic_batch_norm": normalised},
        training={"constraint": constraint, "images": 64},
    )
    found = wgan.Wgan.unsupported(params, CPU)
    refused = constraint == "penalty" and normalised
    assert (found or "").startswith("network.critic_batch_norm: the penalty" if refused else "")
    assert bool(found) == refused


class Recorder:
    """Losses in the order in which they are handed to the trainer's update."""

    def __init__(self):
        self.losses = []

    def __call__(self, group, loss):
        self.losses.append((group, loss))


@CONSTRAINTS
def test_losses_of_a_linear_critic_by_hand(constraint):
    model = with_constraint(constraint, n_critic=1, penalty_weight=7.0)
    weight = torch.randn(64, generator=seeds.generator(0)) / 4
    model.critic = critic = Critic(lambda images: images.flatten(1) @ weight)
    update, batch = Recorder(), some_batch(model)
    terms = model.training_step(batch, update, seeds.generator(0))
    real, fake, last = critic.shown[0], critic.shown[1], critic.shown[-1]
    assert torch.equal(real, to_signed(batch.images))
    distance = (real.flatten(1).mean(0) - fake.flatten(1).mean(0)) @ weight
    extra = {"clip": 0.0, "penalty": 7 * (weight.norm() - 1).square().item()}[constraint]
    (_, critic_loss), (_, generator_loss) = update.losses
    assert critic_loss.item() == pytest.approx(extra - distance.item(), rel=1e-4)
    assert generator_loss.item() == pytest.approx(-(last.flatten(1).mean(0) @ weight).item())
    assert terms["critic/wasserstein"].item() == pytest.approx(distance.item(), rel=1e-4)
    assert ("critic/penalty" in terms) == (constraint == "penalty")
    assert terms["critic/loss"] == critic_loss and terms["generator/loss"] == generator_loss


@CONSTRAINTS
@pytest.mark.parametrize("n_critic", [1, 2, 3, 5])
def test_the_generator_moves_once_after_n_steps_of_the_critic(constraint, n_critic):
    model = with_constraint(constraint, n_critic=n_critic)
    training = trainer(model, steps=13)
    update, seen = training._update, []

    def watched(group, loss):
        seen.append(group)
        update(group, loss)

    training._update = watched
    training.run()
    expected = [(["critic"] * n_critic + ["generator"]) for _ in range(13 // n_critic)]
    assert seen == [each for turn in expected for each in turn] + ["critic"] * (13 % n_critic)
    assert training.facts()["updates"] == {"generator": 13 // n_critic, "critic": 13}


def test_a_critic_that_the_generator_waits_for_in_vain_is_refused():
    """4 steps of 8 images."""
    for n_critic, refused in ((4, False), (5, True)):
        params = tiny_params("wgan", training={"images": 32, "n_critic": n_critic})
        found = wgan.Wgan.unsupported(params, CPU)
        assert (found or "").startswith("training.n_critic = 5: " if refused else "")
        assert bool(found) == refused


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_a_resumed_training_goes_on_with_the_right_player(stop_at, tmp_path):
    whole = trainer(with_constraint("penalty", n_critic=3), steps=7)
    whole.run()
    stopped = trainer(with_constraint("penalty", n_critic=3), steps=7)
    stopped.run(stop_at=stop_at)
    stopped.save(tmp_path / "model.ckpt")
    resumed = trainer(
        tiny_model("wgan", seed=1, training={"n_critic": 3}),
        steps=7,
        checkpoint=tmp_path / "model.ckpt",
    )
    resumed.run()
    assert resumed.updates == whole.updates == {"generator": 2, "critic": 7}
    one, other = whole.family.state_dict(), resumed.family.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_every_step_of_either_player_has_new_noise_and_new_images():
    model, noises, images = tiny_model("wgan", training={"n_critic": 2}), [], []
    model.generator.register_forward_pre_hook(lambda _, args: noises.append(args[0]))
    model.critic.register_forward_pre_hook(lambda _, args: images.append(args[0].detach()))
    training = trainer(model, steps=4)
    for _ in range(4):
        training._train_one_step()
    assert len(noises) == 6 and len(torch.cat(noises).unique(dim=0)) == 6 * 8
    # A step of the critic shows it real images, fake ones and those in between.
    real = [images[i] for i in (0, 3, 7, 10)]
    assert len(torch.cat(real).unique(dim=0)) == 32


@CONSTRAINTS
def test_weights_are_clipped_after_every_update_of_the_critic(constraint):
    bound = 0.03
    model = with_constraint(constraint, clip_bound=bound, critic_learning_rate=0.1)
    training = trainer(model, steps=4)
    update, largest = training._update, {"critic": [], "generator": []}

    def watched(group, loss):
        update(group, loss)
        player = getattr(model, group)
        largest[group].append(max(p.abs().max().item() for p in player.parameters()))

    training._update = watched
    training.run()
    assert len(largest["critic"]) == 4
    within = [each <= bound + 1e-7 for each in largest["critic"]]
    assert within == [constraint == "clip"] * 4
    assert all(each > bound for each in largest["generator"])
    if constraint == "clip":
        # So large a step takes weights to the bound and not, say, back to 0.
        assert largest["critic"] == pytest.approx([bound] * 4)


def test_each_player_has_its_own_learning_rate():
    training = {"learning_rate": 0.25, "critic_learning_rate": 0.125, "beta1": 0.5, "beta2": 0.75}
    groups = tiny_model("wgan", training=training).groups()
    rates = {name: each.optimiser(each.parameters).defaults for name, each in groups.items()}
    assert rates["generator"]["lr"] == 0.25 and rates["critic"]["lr"] == 0.125
    assert all(each["betas"] == (0.5, 0.75) for each in rates.values())
