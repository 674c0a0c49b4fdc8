import numpy as np
import pytest
import torch
from builders import tiny_model, trainer
from torch import nn

from pipeline.blocks import muon

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
"""The coefficients that torch has."""


def matrices(*shape, seed=0):
    """Of float64, with singular values that span two and a half powers of ten."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal(shape)
    u, s, v = np.linalg.svd(made, full_matrices=False)
    spread = np.geomspace(1, 3e-3, s.shape[1])
    return torch.from_numpy((u * spread) @ v)


@pytest.mark.parametrize("coefficients", [muon.COEFFICIENTS, JORDAN])
@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 8, 8), (1, 32, 288), (2, 1, 4)])
def test_only_singular_values_change_as_the_polynomials_say(monkeypatch, shape, coefficients):
    monkeypatch.setattr(muon, "COEFFICIENTS", coefficients)
    given = matrices(*shape)
    u, s, v = np.linalg.svd(given.numpy(), full_matrices=False)
    s = s / np.linalg.norm(s, axis=1, keepdims=True)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    expected = (u * s[:, None]) @ v
    np.testing.assert_allclose(muon.orthogonal(given), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(muon.orthogonal(given.float()), expected, rtol=0, atol=2e-3)


def test_singular_values_come_near_1():
    found = torch.linalg.svdvals(muon.orthogonal(matrices(20, 16, 24)))
    assert found.min() > 0.13 and found.max() < 1.88
    assert 0.8 < found.mean() < 1.2


def test_neither_scale_nor_the_others_matter():
    given = matrices(3, 6, 10)
    scaled = given * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    torch.testing.assert_close(muon.orthogonal(scaled), muon.orthogonal(given))
    alone = torch.cat([muon.orthogonal(each[None]) for each in given])
    torch.testing.assert_close(alone, muon.orthogonal(given))


def test_nothing_comes_of_nothing():
    assert (muon.orthogonal(torch.zeros(1, 4, 6)) == 0).all()


SHAPES = [(32, 48), (48, 32), (40, 40)]


def stepped(optimiser, parameters, steps=4):
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for each in parameters:
            each.grad = torch.randn(each.shape, generator=rng)
        optimiser.step()


def parameters(*shapes):
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_matrices_go_where_torchs_muon_takes_them(monkeypatch, weight_decay):
    """Torch iterates in bfloat16, one after the other."""
    monkeypatch.setattr(muon, "COEFFICIENTS", JORDAN)
    ours, theirs, start = parameters(*SHAPES), parameters(*SHAPES), parameters(*SHAPES)
    stepped(muon.Muon(ours, ours, 0.05, weight_decay), ours)
    peer = torch.optim.Muon(
        theirs,
        lr=0.05,
        weight_decay=weight_decay,
        momentum=muon.MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    stepped(peer, theirs)
    for one, other, before in zip(ours, theirs, start, strict=True):
        assert (one - other).norm() < 0.02 * (other - before).norm()


def test_the_rest_goes_where_adam_takes_it():
    shapes = [(5,), (32, 48), (3, 32)]
    ours, theirs = parameters(*shapes), parameters(*shapes)
    stepped(muon.Muon(ours, ours[1:2], 0.05, 0.1), ours)
    stepped(torch.optim.AdamW(theirs, 0.05, muon.BETAS, weight_decay=0.1, fused=True), theirs)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[2], theirs[2])
    assert not torch.equal(ours[1], theirs[1])


def test_a_convolutions_weight_is_the_matrix_from_its_patches_to_its_channels():
    dense, convolution = parameters((32, 36)), parameters((32, 4, 3, 3))
    convolution[0].data = dense[0].data.reshape(32, 4, 3, 3).clone()
    stepped(muon.Muon(dense, dense, 0.05), dense)
    rng = torch.Generator().manual_seed(1)
    optimiser = muon.Muon(convolution, convolution, 0.05)
    for _ in range(4):
        convolution[0].grad = torch.randn(32, 36, generator=rng).reshape(32, 4, 3, 3)
        optimiser.step()
    assert torch.equal(convolution[0].flatten(1), dense[0])


def test_an_update_is_about_as_large_as_adams():
    given = parameters((64, 256))
    before = given[0].detach().clone()
    stepped(muon.Muon(given, given, 1.0), given, steps=1)
    assert (given[0] - before).square().mean().sqrt().item() == pytest.approx(muon.SIZE, rel=0.3)


def test_what_has_no_gradient_stays():
    given = parameters((32, 40), (32, 40), (7,))
    before = [each.detach().clone() for each in given]
    optimiser = muon.Muon(given, given[:2], 0.05)
    given[0].grad = torch.ones(32, 40)
    optimiser.step()
    assert not torch.equal(given[0], before[0])
    assert torch.equal(given[1], before[1]) and torch.equal(given[2], before[2])


def test_which_weights_are_matrices(monkeypatch):
    monkeypatch.setattr(muon, "SMALLEST", 32)
    layers = nn.ModuleDict(
        {
            "dense": nn.Linear(40, 50),
            "narrow": nn.Linear(40, 31),
            "convolution": nn.Conv2d(4, 32, 3),
            "few channels": nn.Conv2d(32, 31, 3),
            "up": nn.ConvTranspose2d(32, 8, 4),
            "by channel": nn.Conv2d(64, 64, 3, groups=64),
            "table": nn.Embedding(100, 64),
            "norm": nn.LayerNorm(64),
            "recurrent": nn.LSTM(40, 64),
        }
    )
    names = {id(each): name for name, each in layers.named_parameters()}
    assert [names[id(each)] for each in muon.matrices(layers)] == [
        "dense.weight",
        "convolution.weight",
        "up.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
    ]


@pytest.mark.parametrize(
    "name", ["ddpm", "vdm", "flow_matching", "vqvae", "pixelcnn", "flow", "gpt", "lstm"]
)
def test_a_family_takes_either(name):
    for kind, expected in (("adam", (torch.optim.Adam,)), ("muon", (muon.Muon,))):
        model = tiny_model(name, training={"optimiser": kind})
        for group_name, group in model.groups().items():
            made = group.optimiser(group.parameters)
            if group_name == "gamma":
                continue
            assert isinstance(made, expected)
            if kind == "muon":
                own, rest = (each["params"] for each in made.param_groups)
                assert own and rest
                assert len(own) + len(rest) == len(group.parameters)
                assert all(each.ndim in (2, 4) for each in own)


def test_iterations_are_in_float32_where_networks_are_in_bfloat16(monkeypatch):
    seen, iterate = [], muon.orthogonal

    def spy(given):
        found = iterate(given)
        seen.append((given.dtype, found.dtype, torch.is_autocast_enabled("cpu")))
        return found

    monkeypatch.setattr(muon, "orthogonal", spy)
    trainer(tiny_model("models.ddpm", training={"precision": "bf16"}), steps=2).run()
    assert set(seen) == {(torch.float32, torch.float32, False)}
