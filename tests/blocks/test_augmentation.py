"""What discriminators and critics are shown of images."""

import pytest
import torch
from builders import COLOUR, assert_same_training, tiny_model, trained, trainer

from pipeline.blocks import augmentation
from pipeline.core import seeds
from pipeline.core.images import ImageSpec

KINDS = list(augmentation.CHANGES)
ALL = ",".join(KINDS)
PLAYERS = pytest.mark.parametrize("model", ["gan", "models.dcgan", "wgan", "began", "cyclegan"])
SPEC = ImageSpec(channels=3, height=12, width=20, classes=10)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, spec=SPEC, dtype=torch.float32):
    return 2 * torch.rand(n, *spec.shape, generator=rng(), dtype=dtype) - 1


def every_place(steps):
    """Draws in the middle of so many equal parts of 0..1."""
    return (torch.arange(steps) + 0.5) / steps


def test_images_are_moved_by_all_pixels_up_to_an_eighth_and_grey_comes_in():
    x, (down, right) = images(1), (2, 2)  # an eighth of 12 and of 20 pixels, rounded
    moves = [(i, j) for i in range(2 * down + 1) for j in range(2 * right + 1)]
    draws = torch.cartesian_prod(every_place(2 * down + 1), every_place(2 * right + 1))
    found = augmentation.translation(x.expand(len(moves), -1, -1, -1), draws.unbind(1))
    for one, (i, j) in zip(found, moves, strict=True):
        expected = torch.zeros_like(x[0])
        for row in range(SPEC.height):
            for column in range(SPEC.width):
                to = row + i - down, column + j - right
                if 0 <= to[0] < SPEC.height and 0 <= to[1] < SPEC.width:
                    expected[:, *to] = x[0, :, row, column]
        assert torch.equal(one, expected)


def test_half_of_the_height_and_width_is_cut_out_around_any_pixel():
    x = images(1)
    places = torch.cartesian_prod(every_place(SPEC.height), every_place(SPEC.width))
    found = augmentation.cutout(x.expand(len(places), -1, -1, -1), places.unbind(1))
    for index, one in enumerate(found):
        row, column = divmod(index, SPEC.width)
        expected = x[0].clone()
        expected[:, max(0, row - 3) : row + 3, max(0, column - 5) : column + 5] = 0
        assert torch.equal(one, expected)


def test_colours_change_as_in_the_authors_formulas():
    x = images(4, dtype=torch.float64)
    bright, saturate, contrast = torch.rand(3, 4, generator=rng(1), dtype=torch.float64)
    found = augmentation.colour(x, (bright, saturate, contrast))
    for i, one in enumerate(x):
        expected = one + bright[i] - 0.5
        grey = expected.mean(0)
        expected = grey + (expected - grey) * 2 * saturate[i]
        expected = expected.mean() + (expected - expected.mean()) * (contrast[i] + 0.5)
        torch.testing.assert_close(found[i], expected)
    half = torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(augmentation.colour(x, (half, half, half)), x)


def test_of_grey_images_the_saturation_stays():
    x, half = images(4, ImageSpec(1, 8, 8, 2)), torch.full((4,), 0.5)
    for saturate in (0.0, 1.0):
        drawn = (half, torch.full((4,), saturate), half)
        torch.testing.assert_close(augmentation.colour(x, drawn), x)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_go_through(kind):
    x = images(2, ImageSpec(3, 5, 6, 2), torch.float64).requires_grad_()
    make, count = augmentation.CHANGES[kind]
    draws = torch.rand(count, 2, generator=rng(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: make(given, draws), x)


def test_each_image_is_changed_with_the_probability():
    x = images(4000, ImageSpec(1, 8, 8, 2))
    for p in (0.25, torch.tensor(0.25)):
        same = (augmentation.augment(x, ["colour"], p, rng()) == x).flatten(1).all(1)
        assert 1 - same.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(augmentation.augment(x, KINDS, torch.tensor(0.0), rng()), x)


@pytest.mark.parametrize(("kinds", "p"), [([], 1.0), (KINDS, 0.0)])
def test_without_changes_nothing_is_drawn(kinds, p):
    x, used = images(), rng()
    assert augmentation.augment(x, kinds, p, used) is x
    assert torch.equal(used.get_state(), rng().get_state())


@PLAYERS
def test_p_of_0_is_the_training_without_bit_for_bit(model):
    found = []
    for training in ({}, {"augment": ALL, "augment_p": 0.0}):
        found.append(trainer(tiny_model(model, COLOUR, training=training), steps=3))
        found[-1].run()
    assert_same_training(*found)


@PLAYERS
def test_both_players_see_both_kinds_of_images_changed_in_both_steps(model, monkeypatch):
    """If all images become one, nobody can tell real from generated, and no gradient comes back."""
    alike = augmentation.Change(lambda x, _: 0 * x + 0.3, 0)
    monkeypatch.setitem(augmentation.CHANGES, "colour", alike)
    options = {"augment": "colour"}
    if model == "cyclegan":
        options |= {"cycle": 0.0, "identity": 0.0}
    if model == "wgan":
        options |= {"n_critic": 1, "constraint": "clip"}
    one = trainer(tiny_model(model, COLOUR, training=options), steps=20)
    one.family.train()
    while "generator" not in one.updates or not one.updates["generator"]:
        terms = one._call_training_step()
        one.step += 1
    if "critic/wasserstein" in terms:
        assert terms["critic/wasserstein"].abs() < 1e-6
    elif model != "gan":  # whose dropout tells images apart that are the same
        torch.testing.assert_close(terms["discriminator/real"], terms["discriminator/fake"])
    for parameter in one.groups["generator"].parameters:
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-6


def test_the_probability_follows_how_often_real_images_are_held_real():
    p = torch.tensor(0.5)
    for share, expected in ((1.0, 0.54), (0.81, 0.54), (0.79, 0.46), (0.0, 0.46)):
        real = torch.arange(100) < 100 * share  # r_t is 2 share - 1
        assert augmentation.adapted(p, real, 0.6, 2500).item() == pytest.approx(expected)
    sure, lost = torch.ones(100) > 0, torch.ones(100) < 0
    assert augmentation.adapted(torch.tensor(0.99), sure, 0.6, 2500) == 1
    assert augmentation.adapted(torch.tensor(0.01), lost, 0.6, 2500) == 0


@pytest.mark.parametrize("loss", ["non_saturating", "least_squares"])
@pytest.mark.parametrize(("sure", "expected"), [(50.0, 4 * 8 / 64), (-50.0, 0.0)])
def test_a_discriminator_that_knows_its_images_is_shown_others(loss, sure, expected, monkeypatch):
    training = {"augment": ALL, "augment_target": 0.6, "augment_images": 64, "loss": loss}
    model = tiny_model("gan", COLOUR, training=training)
    monkeypatch.setattr(
        type(model.discriminator),
        "forward",
        lambda self, images, labels: 0 * self.head.weight.sum() + sure + 0 * images.mean((1, 2, 3)),
    )
    one = trainer(model, steps=4)
    one.run()
    assert model.augment_p == pytest.approx(expected)
    assert "discriminator/augment_p" in one.history.to_csv()


def test_an_adaptive_training_goes_on_where_it_was(tmp_path):
    training = {"augment": ALL, "augment_target": 0.1, "augment_images": 200}
    whole, first, second = (
        trainer(tiny_model("gan", COLOUR, training=training), steps=9, **options)
        for options in ({}, {}, {"checkpoint": tmp_path / "x"})
    )
    whole.run()
    first.run(stop_at=5)
    assert 0 < first.family.augment_p < 1
    first.save(tmp_path / "x")
    second.run()
    assert_same_training(whole, second)


def test_what_cannot_be_is_refused():
    for text in ("", "color", "colour,colour", "colour, cutout", "none,colour"):
        with pytest.raises(ValueError, match="must be none, or some of colour,translation,cutout"):
            tiny_model("gan", training={"augment": text})
    assert tiny_model("gan").params.training.changes == []
    model = tiny_model("gan", training={"augment_target": 0.6})
    told = type(model).unsupported(model.params, torch.device("cpu"))
    assert told.startswith("training.augment_target = 0.6: it is for a share")


def squares(n, side=16):
    """Squares of any brightness and of 4, 6 or 8 pixels in the middle of black images, uint8."""
    sizes = torch.randint(2, 5, (n, 1, 1, 1), generator=rng())
    level = torch.randint(128, 256, (n, 1, 1, 1), generator=rng(1))
    away = (torch.arange(side) - (side - 1) / 2).abs()
    inside = torch.maximum(away[:, None], away[None])[None, None] < sizes
    return (inside * level).to(torch.uint8)


def spread(drawn):
    """How far the centres of mass are from the middle, in pixels, a root mean square."""
    weights = drawn[:, 0].double() + 1e-9
    away = torch.arange(drawn.shape[-1]).double() - (drawn.shape[-1] - 1) / 2
    centres = [(weights.sum(axis) @ away) / weights.sum((1, 2)) for axis in (1, 2)]
    return (sum(each.square() for each in centres) / 2).mean().sqrt()


@pytest.mark.slow
def test_translations_do_not_leak_into_samples():
    """They would be centred 1.4 pixels off: 16 pixels are moved by -2 to 2."""
    spec = ImageSpec(1, 16, 16, 1)
    network = {"channels": 16, "latent": 8}
    model = tiny_model("models.dcgan", spec, network=network, training={"augment": ALL})
    real = squares(1024)
    one = trainer(model, steps=600)
    one.images, one.labels = real, torch.zeros(len(real), dtype=torch.int64)
    one.batch = 32
    one.run()
    drawn = model.sample(seeds.image_seeds(200, 0, "x"), None)
    assert spread(real) < 0.01
    assert spread(drawn) < 0.6


def test_tiny_models_are_trained_with_all_of_it():
    trained(tiny_model("models.cgan", COLOUR, training={"augment": ALL}))
