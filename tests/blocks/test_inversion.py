import pytest
import torch
from builders import COLOUR, SMALL, some_images, some_labels, tiny_model

from pipeline.blocks import inversion
from pipeline.core.contract import Inverts, to_signed, to_uint8
from pipeline.core.seeds import image_seeds

INVERTING = ("models.gan", "models.dcgan", "models.cgan", "wgan", "began", "ddpm", "flow_matching")


def test_what_a_generator_can_make_is_found():
    torch.manual_seed(0)
    directions = torch.randn(3, 64) / 8
    noise = torch.randn(5, 3)

    def generate(z):
        return torch.tanh(z @ directions).unflatten(1, (1, 8, 8))

    images = to_uint8(generate(noise))
    found = inversion.nearest(generate, [torch.zeros(5, 3)], images)
    assert (found.int() - images.int()).abs().max() <= 1


def test_of_several_starts_each_image_keeps_its_best():
    """sin has many minima: a start far off ends in another one, each image in a different one."""
    wanted = to_uint8(torch.tensor([0.9, -0.9]).view(2, 1, 1, 1).expand(2, 1, 8, 8))

    def generate(z):
        # The first number goes to a plateau at the wrong end for one sign of its start.
        return torch.tanh(z**3).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)

    good_first, good_second = torch.tensor([[1.0], [3.0]]), torch.tensor([[-3.0], [-1.0]])
    both = inversion.nearest(generate, [good_first, good_second], wanted)
    alone = [inversion.nearest(generate, [start], wanted) for start in (good_first, good_second)]
    error = [(found.int() - wanted.int()).abs().amax(dim=(1, 2, 3)) for found in (both, *alone)]
    assert (error[0] <= 2).all()
    assert error[1][1] > 50 and error[2][0] > 50, "one start alone does not do"


@pytest.mark.parametrize("name", INVERTING)
def test_images_are_found_by_themselves_and_near(name):
    model = tiny_model(name, SMALL, sampling={"steps": 5} if name == "ddpm" else {}).eval()
    assert isinstance(model, Inverts) and model.inversion_kind
    images, seeds = some_images(4), image_seeds(4, 0, "inversion")
    labels = some_labels(4) if model.conditional else None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = model.invert(images, labels, seeds)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    alone = model.invert(images[2:3], None if labels is None else labels[2:3], seeds[2:3])
    assert (alone.int() - found[2:3].int()).abs().max() <= 2
    drawn = model.sample(seeds, labels)
    errors = [(to_signed(each) - to_signed(images)).square().mean() for each in (found, drawn)]
    assert errors[0] < errors[1]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize("name", ["models.cgan"])
def test_labels_are_those_that_are_told(name):
    model = tiny_model(name).eval()
    images, seeds = some_images(3), image_seeds(3, 0, "inversion")
    asked = []
    generate = model.generate
    model.generate = lambda noise, labels: asked.append(labels) or generate(noise, labels)
    model.invert(images, torch.tensor([7, 1, 3]), seeds)
    assert all(torch.equal(each.argmax(1), torch.tensor([7, 1, 3])) for each in asked)


@pytest.mark.parametrize("name", ["vae", "ae", "pixelcnn", "lstm", "gpt", "cyclegan"])
def test_who_encodes_or_has_no_noise_does_not_invert(name):
    assert not isinstance(tiny_model(name), Inverts)


class Linear(torch.nn.Module):
    """The best denoiser of independent normal pixels with standard deviation 1/4."""

    def __init__(self, diffusion):
        super().__init__()
        self.diffusion = diffusion
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, t, labels=None):
        alpha_bar = self.diffusion.alpha_bar[t].float()[:, None, None, None]
        spread = 1 - alpha_bar
        x0 = alpha_bar.sqrt() / 16 / (alpha_bar / 16 + spread) * x
        return (alpha_bar.sqrt() * x - x0) / spread.sqrt()


def errors_of_ddim(monkeypatch, steps, spec=SMALL):
    model = tiny_model("ddpm", spec, network={"steps": 1000})
    model.net = Linear(model.diffusion)
    monkeypatch.setattr("pipeline.families.ddpm.INVERSION_STEPS", steps)
    rng = torch.Generator().manual_seed(0)
    images = to_uint8(torch.randn(6, *spec.shape, generator=rng) / 4)
    found = model.invert(images, None, image_seeds(6, 0, "inversion"))
    return (to_signed(found) - to_signed(images)).square().mean().sqrt()


@pytest.mark.parametrize("spec", [SMALL, COLOUR])
def test_ddim_comes_back_the_better_the_more_steps_it_takes(monkeypatch, spec):
    coarse, fine, finest = (errors_of_ddim(monkeypatch, steps, spec) for steps in (10, 40, 400))
    assert finest < fine < coarse
    assert finest < 0.02
