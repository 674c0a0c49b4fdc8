import pytest
import torch
import torch.nn.functional as F
from builders import some_images, tiny_model, trainer
from torch import nn

from pipeline import seeds
from pipeline.families import gan
from pipeline.family import Batch


class Replay(nn.Module):
    """A discriminator that answers with prepared logits."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        return next(self.answers)


def test_losses_are_cross_entropies_of_the_logits():
    model = tiny_model("gan")
    on_real, on_fake, again = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * 5
    model.discriminator = Replay([on_real, on_fake, again])
    losses = {}
    batch = Batch(some_images(8), torch.zeros(8, dtype=torch.long))
    terms = model.training_step(batch, losses.__setitem__, torch.Generator().manual_seed(0))
    ones, zeros = torch.ones(8), torch.zeros(8)
    real = F.binary_cross_entropy_with_logits(on_real, ones)
    fake = F.binary_cross_entropy_with_logits(on_fake, zeros)
    torch.testing.assert_close(losses["discriminator"], real + fake)
    torch.testing.assert_close(losses["generator"], F.binary_cross_entropy_with_logits(again, ones))
    torch.testing.assert_close(terms["discriminator/real"], on_real.sigmoid().mean())
    torch.testing.assert_close(terms["discriminator/fake"], on_fake.sigmoid().mean())
    assert list(losses) == ["discriminator", "generator"]


def copied(gradient):
    return None if gradient is None else gradient.clone()


def same(one, other):
    return one is other if one is None or other is None else torch.equal(one, other)


def test_each_players_update_leaves_the_other_alone():
    model = tiny_model("gan")
    training = trainer(model, steps=1)
    update, seen = training._update, []
    players = {"generator": model.generator, "discriminator": model.discriminator}

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
    assert seen == ["discriminator", "generator"]


def test_generator_gets_gradients_through_the_discriminator():
    model = tiny_model("gan")
    training = trainer(model, steps=1)
    training._train_one_step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.generator.parameters())


def test_final_statistics_are_those_of_the_averaged_weights():
    model = tiny_model("gan")
    trainer(model, steps=5).run()
    found = {k: v.clone() for k, v in model.generator.state_dict().items() if "running" in k}
    inputs = {}
    norms = {n: m for n, m in model.generator.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.register_forward_hook(
            lambda _, args, __, name=name: inputs.setdefault(name, []).append(args[0])
        )
    rng = seeds.generator(0, "finish")
    model.generator.train()
    with torch.no_grad():
        for _ in range(gan.NORMALISATION_BATCHES):
            model.generator(torch.randn(8, 4, generator=rng))
    assert len(norms) == 2
    for name, batches in inputs.items():
        means = torch.stack([each.mean(dim=(0, 2, 3)) for each in batches]).mean(dim=0)
        variances = torch.stack([each.var(dim=(0, 2, 3)) for each in batches]).mean(dim=0)
        torch.testing.assert_close(found[f"{name}.running_mean"], means, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[f"{name}.running_var"], variances, rtol=1e-4, atol=1e-6)


def test_final_generator_holds_the_average_and_is_in_eval_mode():
    model = tiny_model("gan")
    training = trainer(model, steps=5)
    training.run()
    for parameter, shadow in zip(
        model.generator.parameters(), training.averages["generator"].shadow, strict=True
    ):
        assert torch.equal(parameter, shadow)
    assert not any(module.training for module in model.modules())


def test_a_sample_does_not_depend_on_its_neighbours():
    model = tiny_model("gan")
    trainer(model, steps=3).run()
    every = seeds.image_seeds(10, 0, "sample")
    other = torch.cat([every[:1], seeds.image_seeds(9, 1, "sample")])
    first = model.sample(every, None)[0].int()
    assert (first - model.sample(other, None)[0].int()).abs().max() <= 1
    assert (model.sample(every, None)[1].int() - first).abs().max() > 1


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.Linear])
def test_initial_weights_have_the_papers_spread(kind):
    model = tiny_model("gan", network={"channels": 32, "latent": 64})
    layers = [module for module in model.modules() if isinstance(module, kind)]
    assert layers
    weights = torch.cat([layer.weight.flatten() for layer in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)
    assert weights.mean().abs() < 0.002


def test_batch_normalisation_stands_where_the_paper_has_it():
    model = tiny_model("gan")
    generator = [type(each) for each in model.generator.layers]
    assert generator[-2:] == [nn.ConvTranspose2d, nn.Tanh]
    assert [type(each) for each in model.discriminator.layers][:2] == [nn.Conv2d, nn.LeakyReLU]
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.eps == 1e-5
