import pytest
import torch
from builders import MODELS, SMALL, some_images, tiny_model, trained
from torch import nn

from pipeline.blocks import unet
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.orchestration import preset


def model_with(spec=SMALL, **blocks):
    network = {"steps": 50, **blocks.pop("network", {})}
    return tiny_model("ddpm", spec, network=network, **blocks)


def lively(**options):
    """A model whose output is not zero."""
    model = model_with(**options)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return model


def test_a_patch_that_does_not_divide_the_image_is_refused():
    with pytest.raises(PipelineError, match=r"network\.patch = 3.*8x8"):
        model_with(network={"patch": 3})


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_network_keeps_the_shape_for_any_patch(patch):
    model = model_with(spec=ImageSpec(3, 20, 24, 10), network={"patch": patch})
    x = to_signed(some_images(2, model.spec))
    assert model.net(x, torch.tensor([1, 50])).shape == x.shape


def test_what_it_is_given_and_gives_of_each_pixel_may_be_more_than_an_image():
    spec, network = ImageSpec(3, 8, 12, 10), model_with().params.network
    net = unet.UNet(spec, network, inputs=5, outputs=7)
    assert net(torch.zeros(2, 5, 8, 12), torch.tensor([1, 50])).shape == (2, 7, 8, 12)


def at_preset(name):
    """Images for which a preset is, and a small U-Net with its patch."""
    chosen = preset.values(name, {"models": MODELS})
    network = {**MODELS["ddpm"]["network"], "patch": chosen["models.ddpm.network.patch"]}
    kept = ("patch", "attention_heads", "conditional")
    spec = ImageSpec(3, int(name), int(name), 4)
    return model_with(spec=spec, network={key: network[key] for key in kept if key in network})


def sides(net, spec):
    """Positions a side of what each residual block sees, in order."""
    found, blocks = [], [each for each in net.modules() if isinstance(each, unet.ResidualBlock)]
    for block in blocks:
        block.register_forward_hook(lambda _, args, __: found.append(tuple(args[0].shape[2:])))
    with torch.no_grad():
        net(torch.zeros(1, *spec.shape), torch.ones(1, dtype=torch.int64))
    return found


@pytest.mark.parametrize(
    ("name", "down"), [("28", [14, 7]), ("32", [16, 8]), ("64", [32, 16, 8]), ("128", [32, 16, 8])]
)
def test_levels_go_down_to_4_positions_a_side(name, down):
    """With the presets' patches; two blocks there, and one at each level on either way."""
    model = at_preset(name)
    expected = [*down, 4, 4, *down[::-1]]
    assert sides(model.net, model.spec) == [(side, side) for side in expected]


@pytest.mark.parametrize("shape", [(8, 8), (9, 23), (30, 18), (100, 100), (4, 4), (3, 5), (1, 1)])
def test_the_lowest_level_has_at_most_4_positions_a_side_for_any_images(shape):
    model = model_with(spec=ImageSpec(1, *shape, 2), network={"patch": 1})
    found = sides(model.net, model.spec)
    lowest = min(found, key=max)
    assert max(lowest) <= 4 and found.count(lowest) >= 2
    assert found == found[::-1]
    # No halving more than that takes: the next to lowest has more, where there is a choice.
    assert max(found[len(found) // 2 - 2]) > 4 or len(found) == 4


def test_the_highest_level_has_the_channels_and_all_others_twice_as_many():
    model = model_with(spec=ImageSpec(1, 64, 64, 2), network={"channels": 12})
    blocks = [each for each in model.net.modules() if isinstance(each, unet.ResidualBlock)]
    outputs = [block.conv2.out_channels for block in blocks]
    assert outputs == [12, 24, 24, 24, 24, 24, 24, 12]


def test_what_a_position_says_depends_on_every_pixel():
    """Through the lowest level, of which convolutions alone see all: at a corner, of the other."""
    model = lively(spec=ImageSpec(1, 64, 64, 2))
    x = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model.net(x, torch.tensor([5]))[0, 0, 0, 0].backward()
    assert x.grad[0, 0, -1, -1] != 0


def an_attention(channels=12, heads=3):
    torch.manual_seed(0)
    block = unet.Attention(channels, heads).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block


def positions(height=3, width=5, channels=12):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, height, width, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("heads", [1, 3, 4])
@torch.no_grad()
def test_attention_is_that_of_torch(heads):
    block, x = an_attention(heads=heads), positions()
    normed = torch.nn.functional.layer_norm(
        x.movedim(1, 3), (12,), block.norm.norm.weight, block.norm.norm.bias
    ).flatten(1, 2)
    weight, bias = (getattr(block.queries_keys_values, kind) for kind in ("weight", "bias"))
    projected = normed @ weight[:, :, 0, 0].T + bias
    queries, keys, values = (
        torch.stack(each.chunk(heads, dim=2), dim=1) for each in projected.chunk(3, dim=2)
    )
    found = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    found = found.transpose(1, 2).flatten(2) @ block.out.weight[:, :, 0, 0].T + block.out.bias
    torch.testing.assert_close(block(x), x + found.movedim(2, 1).unflatten(2, (3, 5)))


def test_every_position_attends_to_every_other():
    block, x = an_attention(), positions()[:1]
    jacobian = torch.autograd.functional.jacobian(block, x)[0, :, :, :, 0]
    seen = jacobian.abs().sum(dim=(0, 3)).flatten(0, 1).flatten(1)
    assert seen.shape == (15, 15) and (seen > 0).all()


@torch.no_grad()
def test_attention_adds_nothing_at_first_and_learns():
    torch.manual_seed(0)
    block = unet.Attention(12, 3).double()
    assert torch.equal(block(positions()), positions())
    model = model_with(network={"attention_heads": 4})
    with torch.enable_grad():
        trained(model, steps=3)
    assert model.net.attention.out.weight.abs().max() > 0
    assert isinstance(model_with(network={"attention_heads": 0}).net.attention, nn.Identity)


@pytest.mark.parametrize("conditional", [False, True])
def test_attention_stands_between_the_blocks_of_the_lowest_level(conditional):
    spec = ImageSpec(3, 16, 20, 3)
    network = {"attention_heads": 4, "conditional": conditional}
    model = lively(spec=spec, network=network, sampling={"steps": 2})
    order = []
    for name in ("attention", "low.0", "low.1"):
        model.net.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: order.append((name, tuple(args[0].shape[1:])))
        )
    labels = torch.tensor([0, 2]) if conditional else None
    assert model.sample(torch.arange(2), labels).shape == (2, *spec.shape)
    assert order == [(name, (16, 2, 3)) for name in ("low.0", "attention", "low.1")] * 2


@pytest.mark.parametrize("heads", [3, 32])
def test_attention_heads_that_do_not_divide_twice_the_channels_are_refused(heads):
    with pytest.raises(PipelineError) as caught:
        model_with(network={"attention_heads": heads})
    assert str(caught.value) == (
        f"params.yaml: models.tiny_ddpm.network.attention_heads = {heads}: must divide twice the "
        "channels, 16"
    )
    for allowed in (0, 1, 2, 16):
        model_with(network={"attention_heads": allowed})
