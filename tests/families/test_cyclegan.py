import pytest
import torch
from builders import COLOUR, MODELS, some_batch, some_images, tiny_model, trainer
from torch import nn

from pipeline.core.contract import Batch, Illustrates, Samples, Translates, to_signed
from pipeline.core.images import ImageSpec
from pipeline.families import cyclegan
from pipeline.orchestration import preset
from pipeline.training.trainer import Trainer

DIRECTIONS = ("ab", "ba")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Affine(nn.Module):
    """A generator that scales and shifts."""

    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, images):
        return self.scale * images + self.shift


class Judging(nn.Module):
    """A critic with one score per image, its mean, that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return images.mean(dim=(1, 2, 3), keepdim=True)


@pytest.fixture
def simple():
    """A model whose networks are formulas, with its batch in -1..1."""
    model = tiny_model("cyclegan")
    model.generators = nn.ModuleDict({"ab": Affine(0.5, 0.1), "ba": Affine(-2.0, 0.3)})
    model.critics = nn.ModuleDict({"ab": Judging(), "ba": Judging()})
    batch = some_batch(model, 8)
    return model, batch, to_signed(batch.images), to_signed(batch.others)


def step(model, batch):
    losses = {}
    terms = model.training_step(batch, losses.__setitem__, rng())
    return losses, terms


# Losses ------------------------------------------------------------------------------------


def test_least_squares_at_known_scores():
    scores = torch.tensor([1.0, 0.0, 3.0, -1.0])
    assert cyclegan.least_squares(scores, 1.0).item() == (0 + 1 + 4 + 4) / 4
    assert cyclegan.least_squares(scores, 0.0).item() == (1 + 0 + 9 + 1) / 4


@pytest.mark.parametrize(("cycle", "identity"), [(10.0, 5.0), (1.0, 0.0), (0.0, 2.0)])
def test_generators_loss_is_the_papers(simple, cycle, identity):
    model, batch, a, b = simple
    weights = {"cycle": cycle, "identity": identity}
    block = model.params.training.model_copy(update=weights)
    model.params = model.params.model_copy(update={"training": block})
    losses, terms = step(model, batch)
    fake_b, fake_a = 0.5 * a + 0.1, -2 * b + 0.3
    score_b, score_a = (each.mean(dim=(1, 2, 3)) for each in (fake_b, fake_a))
    adversarial = ((score_b - 1) ** 2).mean() + ((score_a - 1) ** 2).mean()
    there_and_back = (-2 * fake_b + 0.3 - a).abs().mean() + (0.5 * fake_a + 0.1 - b).abs().mean()
    # The identity loss feeds the generator from A to B with B, and the other with A.
    kept = (0.5 * b + 0.1 - b).abs().mean() + (-2 * a + 0.3 - a).abs().mean()
    torch.testing.assert_close(terms["generator/adversarial"], adversarial)
    torch.testing.assert_close(terms["generator/cycle"], there_and_back)
    torch.testing.assert_close(terms["generator/identity"], kept)
    expected = adversarial + cycle * there_and_back + identity * kept
    torch.testing.assert_close(losses["generator"], expected)
    torch.testing.assert_close(terms["generator/loss"], expected)


def test_the_default_weights_are_the_papers():
    training = cyclegan.CycleGanTraining(images=1)
    assert (training.cycle, training.identity) == (10, 5)
    assert cyclegan.CycleGanNetwork().pool == 50


def test_critics_loss_is_half_of_real_and_fake(simple):
    model, batch, a, b = simple
    losses, terms = step(model, batch)
    loss = 0.0
    for real, fake in ((b, 0.5 * a + 0.1), (a, -2 * b + 0.3)):
        on_real, on_fake = real.mean(dim=(1, 2, 3)), fake.mean(dim=(1, 2, 3))
        loss += ((on_real - 1) ** 2).mean() / 2 + (on_fake**2).mean() / 2
    torch.testing.assert_close(losses["discriminator"], loss)
    torch.testing.assert_close(terms["discriminator/loss"], loss)
    assert list(losses) == ["generator", "discriminator"]


def test_each_critic_sees_its_own_domain(simple):
    model, batch, a, b = simple
    step(model, batch)
    for direction, real, fake in (("ab", b, 0.5 * a + 0.1), ("ba", a, -2 * b + 0.3)):
        first, second = model.critics[direction].seen
        torch.testing.assert_close(first, fake)
        torch.testing.assert_close(second, torch.cat([real, fake]))


def test_logged_scores_are_means_over_both_critics(simple):
    model, batch, a, b = simple
    _, terms = step(model, batch)
    torch.testing.assert_close(terms["discriminator/real"], (a.mean() + b.mean()) / 2)
    fakes = (0.5 * a + 0.1).mean() + (-2 * b + 0.3).mean()
    torch.testing.assert_close(terms["discriminator/fake"], fakes / 2)


def copied(gradient):
    return None if gradient is None else gradient.clone()


def same(one, other):
    return one is other if one is None or other is None else torch.equal(one, other)


def test_each_players_update_leaves_the_other_alone():
    model = tiny_model("cyclegan")
    training = trainer(model, steps=2)
    update, seen = training._update, []
    players = {"generator": model.generators, "discriminator": model.critics}

    def watched(name, loss):
        other = players["discriminator" if name == "generator" else "generator"]
        before = [(p.detach().clone(), copied(p.grad)) for p in other.parameters()]
        own = [p.detach().clone() for p in players[name].parameters()]
        update(name, loss)
        for parameter, (value, gradient) in zip(other.parameters(), before, strict=True):
            assert torch.equal(parameter, value)
            assert same(parameter.grad, gradient)
        changed = zip(own, players[name].parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in changed)
        seen.append(name)

    training._update = watched
    training.run()
    assert seen == ["generator", "discriminator"] * 2


def test_the_critics_loss_does_not_reach_the_generators():
    model = tiny_model("cyclegan")
    losses, _ = step(model, some_batch(model))
    parameters = list(model.generators.parameters())
    found = torch.autograd.grad(losses["discriminator"], parameters, allow_unused=True)
    assert all(each is None for each in found)


def test_learning_rates_stay_and_then_fall_in_a_line():
    found = [cyclegan.half_constant(done) for done in (0.0, 0.5, 0.75, 0.9, 1.0)]
    assert found == pytest.approx([1, 1, 0.5, 0.2, 0])


# The image pool ----------------------------------------------------------------------------


def numbered(start, n):
    """n one-pixel images that hold consecutive numbers."""
    return torch.arange(start, start + n).float()[:, None, None, None]


def pool(size):
    return cyclegan.ImagePool(size, ImageSpec(1, 1, 1, 2))


def test_the_pool_returns_what_it_is_given_until_it_is_full():
    one = pool(5)
    for start in (0, 2):
        new = numbered(start, 2)
        assert torch.equal(one.exchange(new, rng(start)), new)
    assert one.count == 4 and one.images[:4].flatten().tolist() == [0, 1, 2, 3]
    found = one.exchange(numbered(4, 1), rng())
    assert found.item() == 4 and one.count == 5


def test_a_full_pool_swaps_half_of_the_images_and_loses_none():
    one, given, draw = pool(10), [], rng()
    for start in range(0, 4000, 4):
        given += one.exchange(numbered(start, 4), draw).flatten().tolist()
    kept = one.images.flatten().tolist()
    assert sorted(given + kept) == sorted([*range(4000), *range(10)])  # the first ten twice
    newest = sum(value == i for i, value in enumerate(given[10:], start=10))
    assert newest / 3990 == pytest.approx(0.5, abs=0.03)


def test_every_place_of_the_pool_is_swapped_alike():
    one, draw, places = pool(8), rng(), torch.zeros(8)
    one.exchange(numbered(0, 8), draw)
    for start in range(8, 4008):
        before = one.images.clone()
        one.exchange(numbered(start, 1), draw)
        places += (one.images != before).flatten()
    assert (places / places.sum()).tolist() == pytest.approx([1 / 8] * 8, abs=0.03)


def test_images_of_one_batch_are_exchanged_one_after_the_other():
    """In a pool of one, an image that comes in is what the next swap gives back."""
    one, held, swapped = pool(1), 0.0, 0
    one.exchange(numbered(0, 1), rng())
    for seed in range(20):
        new = numbered(10 * seed + 1, 6)
        for value, found in zip(new.flatten(), one.exchange(new, rng(seed)).flatten(), strict=True):
            if found != value:
                assert found == held
                held, swapped = value.item(), swapped + 1
        assert one.images.item() == held
    assert 40 < swapped < 80


def test_the_pool_stores_copies_without_gradients():
    one = pool(3)
    new = numbered(0, 2).requires_grad_()
    found = one.exchange(new, rng())
    assert not found.requires_grad and not one.images.requires_grad
    found += 100
    with torch.no_grad():
        new += 100
    assert one.images.flatten().tolist() == [0, 1, 0]


def test_a_pool_of_none_gives_back_the_newest():
    new = numbered(0, 4)
    assert torch.equal(pool(0).exchange(new, rng()), new)


def test_each_direction_has_a_pool_of_its_own_fakes(simple):
    model, batch, a, b = simple
    step(model, batch)
    for direction, fake in (("ab", 0.5 * a + 0.1), ("ba", -2 * b + 0.3)):
        assert model.pools[direction].count == 8
        torch.testing.assert_close(model.pools[direction].images[:8], fake)


def test_pools_are_part_of_a_checkpoint(tmp_path):
    """Resuming while they fill, and after, is as if training had never stopped."""
    for stop in (1, 4):
        whole = trainer(tiny_model("cyclegan"), steps=6)
        whole.run()
        stopped = trainer(tiny_model("cyclegan"), steps=6)
        stopped.run(stop_at=stop)
        stopped.save(tmp_path / "model.ckpt")
        resumed = trainer(
            tiny_model("cyclegan", seed=1), steps=6, checkpoint=tmp_path / "model.ckpt"
        )
        resumed.load(tmp_path / "model.ckpt")
        for direction in DIRECTIONS:
            before, after = (t.family.pools[direction] for t in (stopped, resumed))
            assert after.count == before.count == min(12, 8 * stop)
            assert torch.equal(after.images, before.images)
        resumed.run()
        for key, value in whole.family.state_dict().items():
            assert torch.equal(value, resumed.family.state_dict()[key]), key


# Networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 11), (1, 20, 24), (3, 8, 8)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_generators_keep_any_shape(shape, patch):
    model = tiny_model("cyclegan", ImageSpec(*shape, 2), network={"patch": patch})
    images = some_images(2, model.spec)
    assert model.translate(images, "ab").shape == images.shape


def test_every_pixel_can_be_black_and_white():
    """Nothing squashes the output: no gradient vanishes at the levels of a drawing."""
    model = tiny_model("cyclegan")
    generator = model.generators["ab"]
    with torch.no_grad():
        last = generator.layers[-2]
        last.weight.zero_()
        for level in (-1.0, 1.0):
            last.bias.fill_(level)
            assert (generator(torch.zeros(1, 1, 8, 8)) == level).all()


def at_preset(name):
    """Images for which a preset is, and small networks with its patch and blocks."""
    chosen = preset.values(name, {"models": MODELS})
    network = {**MODELS["cyclegan"]["network"], "channels": 8, "critic_channels": 4, "pool": 2}
    network["patch"] = chosen["models.cyclegan.network.patch"]
    network["blocks"] = chosen.get("models.cyclegan.network.blocks", network["blocks"])
    return tiny_model("cyclegan", ImageSpec(3, int(name), int(name), 2), network=network)


def positions(model):
    """Of the residual blocks of a generator: height and width, one for each block."""
    generator, found = model.generators["ab"], []
    for layer in generator.layers:
        if isinstance(layer, cyclegan.ResidualBlock):
            layer.register_forward_hook(lambda _, args, __: found.append(args[0].shape[2:]))
    with torch.no_grad():
        generator(torch.zeros(1, *model.spec.shape))
    return found


@pytest.mark.parametrize(("name", "side"), [("28", 14), ("32", 16), ("64", 16), ("128", 16)])
def test_residual_blocks_have_10_to_20_positions_a_side_by_the_presets(name, side):
    model = at_preset(name)
    found = positions(model)
    assert len(found) == model.params.network.blocks > 0
    assert all(each == (side, side) for each in found)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("side", [20, 39, 40, 64, 78, 79, 80, 100, 127, 128])
def test_residual_blocks_have_few_positions_of_the_shorter_side_whatever_its_size(side, patch):
    """From 10 up to 20, where what does not divide is padded; less where patches leave less."""
    network = {"patch": patch, "blocks": 1}
    for shape in ((side, side + 9), (side + 9, side)):
        model = tiny_model("cyclegan", ImageSpec(1, *shape, 2), network=network)
        [(height, width)] = positions(model)
        assert min(height, width) <= 20
        assert min(height, width) >= min(10, side // patch)


@pytest.mark.parametrize("shape", [(1, 27, 41), (3, 45, 64), (1, 61, 23)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_odd_images_are_padded_with_black_and_cropped_back(shape, patch):
    spec = ImageSpec(*shape, 2)
    generator = tiny_model("cyclegan", spec, network={"patch": patch}).generators["ab"]
    images = to_signed(some_images(2, spec))
    height, width = (-(-n // generator.multiple) * generator.multiple for n in shape[1:])
    padded = torch.full((2, shape[0], height, width), -1.0)
    padded[:, :, : shape[1], : shape[2]] = images
    with torch.no_grad():
        whole, found = generator.layers(padded), generator(images)
    assert whole.shape == padded.shape
    assert torch.equal(found, whole[:, :, : shape[1], : shape[2]])


def seen(network, images, place):
    """Height and width of what one place of a network's output depends on."""
    images = images.requires_grad_()
    network(images)[0, :, *place].abs().sum().backward()
    grad = images.grad[0].abs().sum(dim=0) > 0
    return tuple(grad.any(dim=1 - axis).sum().item() for axis in range(2))


@pytest.mark.parametrize(
    ("side", "pixels", "scores"), [(28, 18, 7), (32, 18, 8), (64, 38, 8), (128, 78, 8)]
)
def test_a_score_sees_about_half_of_the_image(side, pixels, scores):
    """18 pixels each way up to 32x32, 38 at 64 and 78 at 128."""
    model = tiny_model("cyclegan", ImageSpec(1, side, side, 2))
    critic = model.critics["ab"]
    # So much larger that no border cuts off what the middle sees.
    images = torch.randn(1, 1, 160, 160, generator=rng())
    assert critic(images[:, :, :side, :side]).shape == (1, 1, scores, scores)
    middle = critic(images).shape[2] // 2
    assert seen(critic, images, (middle, middle)) == (pixels, pixels)
    assert 0.5 < pixels / side < 0.65


@pytest.mark.parametrize("name", preset.names())
def test_a_translated_pixel_comes_of_three_quarters_of_the_image(name):
    """By the presets, so that shapes can change and not the colours alone."""
    model = at_preset(name)
    side = model.spec.height
    images = torch.randn(1, 3, side, side, generator=rng())
    height, width = seen(model.generators["ab"], images, (side // 2, side // 2))
    assert min(height, width) > 0.75 * side


# Translating -------------------------------------------------------------------------------


def test_translating_takes_the_generator_of_the_direction(simple):
    model, *_ = simple
    images = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    assert (model.translate(images, "ab") == round((0.6 + 1) * 127.5)).all()
    assert (model.translate(images, "ba") == 0).all()  # -1.7 is clipped


@pytest.mark.parametrize("spec", [ImageSpec(1, 28, 28, 10), COLOUR])
def test_a_translation_does_not_depend_on_its_batch(spec):
    model, images = tiny_model("cyclegan", spec).eval(), some_images(5, spec)
    together = model.translate(images, "ba")
    alone = torch.cat([model.translate(each, "ba") for each in images.split(1)])
    assert (together.int() - alone.int()).abs().max() <= 1


def test_translating_needs_the_network_alone():
    model = tiny_model("cyclegan", training=None, sampling=None, scoring=None).eval()
    found = model.translate(some_images(2), "ab")
    assert found.dtype == torch.uint8 and not found.requires_grad
    assert isinstance(model, Translates) and isinstance(model, Illustrates)
    assert not isinstance(model, Samples) and model.data == "domains"


def test_pictures_show_the_way_there_and_back(simple):
    model, *_ = simple
    batch = Batch(some_images(10), torch.arange(10), some_images(10, seed=1))
    found = model.illustrate(batch, torch.arange(10))
    for name, images, there, back in (
        ("a_to_b_to_a", batch.images, "ab", "ba"),
        ("b_to_a_to_b", batch.others, "ba", "ab"),
    ):
        assert found[name].shape == (3, 10, 1, 8, 8)
        assert torch.equal(found[name][0], images)
        assert torch.equal(found[name][1], model.translate(images, there))
        assert torch.equal(found[name][2], model.translate(found[name][1], back))


def test_it_learns_to_translate_without_pairs():
    """A: a bright square anywhere on black; B: a dark square anywhere on white."""

    def squares(n, seed):
        images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
        for image, (y, x) in zip(
            images, torch.randint(5, (n, 2), generator=rng(seed)), strict=True
        ):
            image[:, y : y + 4, x : x + 4] = 255
        return images

    training = {
        "batch": 8,
        "learning_rate": 2e-3,
        "discriminator_learning_rate": 4e-3,
        "cycle": 3.0,
        "identity": 0.0,
    }
    network = {"channels": 8, "patch": 1, "critic_channels": 16}
    model = tiny_model("cyclegan", training=training, network=network)
    a, b = squares(64, 0), 255 - squares(64, 1)

    def error():
        """Mean squared error against the truth; leaving the images as they are has 1."""
        found = [
            (model.translate(images, direction).float() - (255 - images.float())).square().mean()
            for images, direction in ((a, "ab"), (b, "ba"))
        ]
        return sum(found).item() / 2 / 255**2

    untrained = error()
    Trainer(model, a, torch.zeros(64).long(), others=b, seed=0, steps=300).run()
    print(untrained, error())
    assert error() < 0.05 < 0.2 < untrained
