from itertools import pairwise

import pytest
import torch
from builders import COLOUR, SMALL, some_batch, some_labels, tiny_model, trained, trainer
from torch import nn

from pipeline.blocks import adversarial
from pipeline.blocks.nets import great_circle
from pipeline.core import seeds
from pipeline.core.contract import to_uint8
from pipeline.core.images import ImageSpec

MODELS = {
    "gan": ("gan", {"network": {"architecture": "dense", "hidden": 16}}),
    "dcgan": ("gan", {}),
    "cgan": ("gan", {"network": {"conditional": True}}),
    "lsgan": ("gan", {"training": {"loss": "least_squares"}}),
    "all of it": (
        "gan",
        {
            "network": {"architecture": "dense", "hidden": 16, "conditional": True},
            "training": {"loss": "least_squares"},
        },
    ),
    "wgan": ("wgan", {"training": {"constraint": "clip"}}),
    "wgan_gp": ("wgan", {"training": {"constraint": "penalty"}}),
}
EVERY = pytest.mark.parametrize("name", MODELS)
CONDITIONAL = pytest.mark.parametrize("name", ["cgan", "all of it"])
SHAPES = [
    SMALL,
    COLOUR,
    ImageSpec(1, 28, 28, 10),
    ImageSpec(3, 32, 32, 10),
    ImageSpec(1, 9, 23, 2),
    ImageSpec(3, 64, 50, 10),
    ImageSpec(1, 100, 100, 10),
]
TWICE = ImageSpec(1, 16, 16, 10)
"""Images that are halved twice, so that maps are normalised on their way, too."""


def model_of(name, spec=SMALL):
    family, blocks = MODELS[name]
    return tiny_model(family, spec, **blocks)


def opponent_of(model):
    return model.critic if hasattr(model, "critic") else model.discriminator


def gradients(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def values(module):
    return [p.detach().clone() for p in module.parameters()]


def same(ones, others):
    return all(
        one is other if one is None or other is None else torch.equal(one, other)
        for one, other in zip(ones, others, strict=True)
    )


@EVERY
def test_opponents_loss_has_no_gradient_in_the_generator(name):
    """Whatever does the backward pass: here it goes to every parameter that it reaches."""
    model, reached = model_of(name), []

    def update(group, loss):
        model.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        if group != "generator":
            assert all(p.grad is None for p in model.generator.parameters())
            assert all(p.grad.abs().sum() > 0 for p in opponent_of(model).parameters())
        else:
            assert all(p.grad.abs().sum() > 0 for p in model.generator.parameters())
        reached.append(group)

    for step in range(2):
        model.training_step(some_batch(model), update, seeds.generator(step))
    assert set(reached) == set(model.groups())


@EVERY
def test_each_players_update_leaves_the_other_alone(name):
    model = model_of(name)
    training = trainer(model, steps=4)
    update, seen = training._update, []
    players = {key: opponent_of(model) for key in model.groups()} | {"generator": model.generator}

    def watched(group, loss):
        (other,) = (player for key, player in players.items() if key != group)
        before = values(other), gradients(other), values(players[group])
        update(group, loss)
        assert same(values(other), before[0])
        assert same(gradients(other), before[1])
        assert not same(values(players[group]), before[2])
        seen.append(group)

    training._update = watched
    training.run()
    assert seen[0] != "generator" and "generator" in seen


@EVERY
def test_final_statistics_are_those_of_the_averaged_weights(name):
    model = model_of(name, TWICE)
    training = trainer(model, steps=80)
    training.run()
    generator = model.generator
    assert same(values(generator), training.averages["generator"].shadow)
    found = {key: value.clone() for key, value in generator.state_dict().items()}
    inputs = {}
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    norms = {key: each for key, each in generator.named_modules() if isinstance(each, kinds)}
    for key, norm in norms.items():
        norm.register_forward_hook(
            lambda _, args, __, key=key: inputs.setdefault(key, []).append(args[0])
        )
    rng = seeds.generator(0, "finish")
    generator.train()
    with torch.no_grad():
        for step in range(adversarial.NORMALISATION_BATCHES):
            given = torch.randn(8, 4, generator=rng)
            if model.conditional:
                labels = training._batch(step).labels
                given = torch.cat([given, nn.functional.one_hot(labels, 10).float()], dim=1)
            generator(given)
    assert len(norms) == 2
    for key, batches in inputs.items():
        axes = [0, *range(2, batches[0].ndim)]
        means = torch.stack([each.mean(dim=axes) for each in batches]).mean(dim=0)
        variances = torch.stack([each.var(dim=axes) for each in batches]).mean(dim=0)
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(found[f"{key}.running_mean"], means, **close)
        torch.testing.assert_close(found[f"{key}.running_var"], variances, **close)


@EVERY
def test_measuring_leaves_weights_and_momenta_alone(name):
    model = model_of(name)
    norms = [each for each in model.modules() if hasattr(each, "momentum")]
    momenta, before = [each.momentum for each in norms], values(model)
    model.finish(iter([some_batch(model)] * 3), seeds.generator(0))
    assert [each.momentum for each in norms] == momenta
    assert same(values(model), before)


@EVERY
def test_sampling_normalises_by_the_measured_statistics_and_restores_the_mode(name):
    model = trained(model_of(name))
    every, labels = seeds.image_seeds(6, 0), some_labels(6)
    expected = model.sample(every, labels)
    batch, before = some_batch(model, 10), {k: v.clone() for k, v in model.state_dict().items()}
    pictures = model.illustrate(batch, seeds.image_seeds(10, 1))
    model.train()
    assert torch.equal(model.sample(every, labels), expected)
    again = model.illustrate(batch, seeds.image_seeds(10, 1))
    assert all(torch.equal(again[key], picture) for key, picture in pictures.items())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_mode_is_restored_after_an_error():
    module = nn.Linear(1, 1)
    with pytest.raises(KeyError), adversarial.evaluating(module):
        assert not module.training
        raise KeyError
    assert module.training


@EVERY
@pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: "x".join(map(str, spec.shape)))
def test_networks_take_any_shape(name, spec):
    model = model_of(name, spec)
    labels = model.one_hot(some_labels(3, spec))
    images = model.generate(model.noise(3, seeds.generator(0)), labels)
    assert images.shape == (3, *spec.shape) and images.abs().max() <= 1
    assert opponent_of(model)(images, labels).shape == (3,)


MAPS = pytest.mark.parametrize(
    ("shape", "last", "widths"),
    [
        ((1, 28, 28), (7, 7), [3, 6]),
        ((3, 32, 32), (4, 4), [3, 6, 12]),
        ((3, 64, 64), (4, 4), [3, 6, 12, 24]),
        ((3, 128, 128), (4, 4), [3, 6, 12, 24, 24]),
        ((1, 100, 100), (7, 7), [3, 6, 12, 24]),
        ((1, 9, 23), (5, 12), [3]),
    ],
    ids=str,
)


def maps_of(layers, kind, given):
    """What each layer of a kind is given and makes of it: shapes [C, H, W] of one image."""
    found = []
    for layer in layers.eval():
        if isinstance(layer, kind):
            layer.register_forward_hook(
                lambda _, args, out: found.append((tuple(args[0].shape[1:]), tuple(out.shape[1:])))
            )
    with torch.no_grad():
        layers(given)
    return found


@MAPS
def test_a_generator_grows_from_the_smallest_map_to_the_image(shape, last, widths):
    spec = ImageSpec(*shape, 2)
    network = adversarial.ConvolutionalGenerator(spec, inputs=5, channels=3)
    maps = maps_of(network.layers, nn.ConvTranspose2d, torch.zeros(1, 5))
    assert maps[0][0][1:] == last
    assert [before[0] for before, _ in maps] == widths[::-1]
    assert all(after[1:] == (2 * before[1], 2 * before[2]) for before, after in maps)
    assert maps[-1][1][0] == spec.channels
    assert maps[-1][1][1] >= spec.height and maps[-1][1][2] >= spec.width
    # The only layer that is dense is the one below the smallest map.
    [dense] = [each for each in network.modules() if isinstance(each, nn.Linear)]
    assert dense.out_features == widths[-1] * last[0] * last[1]


@MAPS
@pytest.mark.parametrize("normalise", [True, False])
def test_features_are_one_small_map(shape, last, widths, normalise):
    spec = ImageSpec(*shape, 2)
    network = adversarial.ConvolutionalFeatures(spec, channels=3, normalise=normalise)
    images = torch.zeros(1, *shape)
    maps = maps_of(network, nn.Conv2d, images)
    assert [after[0] for _, after in maps] == widths
    assert all(after[1:] == (before[1] // 2, before[2] // 2) for before, after in maps)
    assert network(images).shape == (1, network.size)
    height, breadth = maps[-1][1][1:]
    # A generator's smallest map is as large, or one larger where halving left something over.
    assert 0 <= last[0] - height <= 1 and 0 <= last[1] - breadth <= 1 and 4 <= height <= 7
    assert network.size == widths[-1] * height * breadth
    assert not [each for each in network.modules() if isinstance(each, nn.Linear)]


@MAPS
def test_batch_normalisation_follows_every_convolution_but_those_next_to_the_images(
    shape, last, widths
):
    """Section 3 of the DCGAN paper; where it follows, the convolution's own bias is left out."""
    spec = ImageSpec(*shape, 2)
    generator = adversarial.ConvolutionalGenerator(spec, inputs=5, channels=3).layers
    features = adversarial.ConvolutionalFeatures(spec, channels=3, normalise=True)
    up, down = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU], [nn.Conv2d, nn.BatchNorm2d]
    between = len(widths) - 1
    assert [type(each) for each in generator] == [
        *(nn.Linear, adversarial.Unflatten, nn.BatchNorm2d, nn.ReLU),
        *up * between,
        *(nn.ConvTranspose2d, nn.Tanh),
    ]
    assert [type(each) for each in features] == [
        *(nn.Conv2d, nn.LeakyReLU),
        *[*down, nn.LeakyReLU] * between,
        adversarial.Flatten,
    ]
    bare = adversarial.ConvolutionalFeatures(spec, channels=3, normalise=False)
    for layers in (generator, features, bare):
        for layer, following in pairwise(layers):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert (layer.bias is None) == isinstance(following, nn.BatchNorm2d)
    assert [type(each) for each in bare] == [
        each for each in map(type, features) if each is not nn.BatchNorm2d
    ]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 64, 64), (1, 9, 23)], ids=str)
def test_every_pixel_comes_of_the_noise_and_reaches_the_answer(shape):
    """But for the last row and column of odd images, which convolutions that round down lose."""
    spec = ImageSpec(*shape, 2)
    generator = adversarial.ConvolutionalGenerator(spec, inputs=5, channels=4).eval()
    noise = torch.randn(64, 5, generator=seeds.generator(0))
    with torch.no_grad():
        assert (generator(noise).std(dim=0) > 0).all()
    features = adversarial.ConvolutionalFeatures(spec, channels=4, normalise=False)
    images = torch.randn(1, *shape, generator=seeds.generator(0)).requires_grad_()
    adversarial.Opponent(features)(images).sum().backward()
    assert (images.grad[:, :, : shape[1] // 2 * 2, : shape[2] // 2 * 2] != 0).all()


@EVERY
def test_opponents_answers_have_no_bounds(name):
    """A sigmoid anywhere would keep them within 1."""
    opponent = opponent_of(model_of(name)).eval()
    labels = torch.eye(10)[:8] if name in ("cgan", "all of it") else None
    with torch.no_grad():
        opponent.head.weight.mul_(1e6)
        found = opponent(torch.randn(8, *SMALL.shape, generator=seeds.generator(0)), labels)
    assert found.abs().max() > 10


@CONDITIONAL
def test_labels_matter_to_both_players(name):
    model = trained(model_of(name))
    noise = model.noise(1, seeds.generator(0)).expand(10, -1)
    labels = torch.eye(10)
    images = model.generate(noise, labels)
    answers = model.discriminator(images[:1].expand(10, -1, -1, -1), labels)
    for found in (images.flatten(1), answers[:, None]):
        assert torch.pdist(found).min() > 0
    every = seeds.image_seeds(1, 0).expand(10)
    sampled = model.sample(every, torch.arange(10))
    assert len({image.numpy().tobytes() for image in sampled}) == 10


def test_each_label_adds_a_linear_function_of_the_features():
    opponent = tiny_model("gan", network={"conditional": True}).discriminator.eval()
    images = torch.randn(10, *SMALL.shape, generator=seeds.generator(0))
    features = opponent.features(images)
    weight = opponent.head.weight
    expected = [features[i] @ (weight[0] + weight[1 + i]) for i in range(10)]
    torch.testing.assert_close(opponent(images, torch.eye(10)), torch.stack(expected))
    torch.testing.assert_close(opponent(images), features @ weight[0])


@pytest.mark.parametrize("name", ["gan", "dcgan"])
def test_labels_are_passed_over_by_models_that_are_not_conditional(name):
    model = model_of(name)
    assert not model.conditional and model.one_hot(some_labels(3)) is None


def test_flattening_is_undone_and_copies_nothing():
    maps = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    flat = adversarial.Flatten()(maps)
    back = adversarial.Unflatten(3, 4, 5)(flat)
    assert flat.shape == (2, 60) and torch.equal(back, maps)
    assert flat.data_ptr() == maps.data_ptr() == back.data_ptr()
    assert back.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("family", ["gan", "wgan"])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.Linear])
def test_initial_weights_have_the_papers_spread(family, kind):
    model = tiny_model(family, network={"channels": 32, "latent": 64})
    layers = [module for module in model.modules() if isinstance(module, kind)]
    assert layers
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    assert weights.mean().abs() < 0.002


@EVERY
def test_interpolations_go_from_one_sample_to_another(name):
    model = trained(model_of(name))
    batch, every = some_batch(model, 10), seeds.image_seeds(10, 0)
    picture = model.illustrate(batch, every)["interpolations"]
    assert picture.shape == (10, 12, *SMALL.shape) and picture.dtype == torch.uint8
    noise = seeds.ImageNoise(every).normal(2, 4)
    labels = model.one_hot(batch.labels)
    steps = great_circle(noise[:, 0], noise[:, 1], 12)
    for column in (0, 4, 11):
        with torch.no_grad():
            expected = to_uint8(model.generate(steps[:, column], labels))
        assert (expected.int() - picture[:, column].int()).abs().max() <= 1
    torch.testing.assert_close(steps[:, 0], noise[:, 0])
    torch.testing.assert_close(steps[:, -1], noise[:, 1])


@CONDITIONAL
@pytest.mark.parametrize(
    ("classes", "rows", "columns"), [(2, 10, 2), (10, 10, 10), (15, 8, 15), (130, 1, 100)]
)
def test_picture_of_classes_has_one_noise_a_row_and_one_label_a_column(
    name, classes, rows, columns
):
    model = trained(model_of(name, ImageSpec(1, 8, 8, classes)))
    every = seeds.image_seeds(10, 0)
    picture = model.illustrate(some_batch(model, 10), every)["classes"]
    assert picture.shape == (rows, columns, *SMALL.shape)
    noise = seeds.ImageNoise(every).normal(2, 4)[:rows, 0]
    for column in range(columns):
        labels = model.one_hot(torch.full((rows,), column))
        with torch.no_grad():
            expected = to_uint8(model.generate(noise, labels))
        assert (expected.int() - picture[:, column].int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["gan", "dcgan", "wgan"])
def test_only_conditional_models_show_classes(name):
    model = trained(model_of(name))
    assert set(model.illustrate(some_batch(model, 10), seeds.image_seeds(10, 0))) == {
        "interpolations"
    }
