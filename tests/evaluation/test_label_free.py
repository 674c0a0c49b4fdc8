import math

import numpy as np
import pytest
import torch
from builders import some_images

from pipeline.core import params
from pipeline.core.contract import to_signed
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.evaluation import classifier, label_free

CPU = torch.device("cpu")
SPEC = ImageSpec(1, 16, 12, 1)
SETTINGS = params.Judge(
    seeds=[1, 2], features=8, batch=16, label_free=params.LabelFree(steps=3, learning_rate=0.01)
)


def train(seed=1, n=40, spec=SPEC, settings=SETTINGS):
    return label_free.train(some_images(n, spec), spec, settings, seed, CPU)


@pytest.fixture(scope="module")
def nets():
    return {seed: train(seed) for seed in SETTINGS.seeds}


def test_the_loss_is_that_of_the_paper():
    """Written out as sums, in float64."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 0.7, (2, 6, 3))
    n, d = one.shape
    invariance = sum((one[i, j] - other[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (one, other):
        means = [sum(z[:, j]) / n for j in range(d)]
        for j in range(d):
            spread = sum((z[i, j] - means[j]) ** 2 for i in range(n)) / (n - 1)
            variance += max(0.0, 1 - math.sqrt(spread + 1e-4)) / d / 2
            for k in range(d):
                if k != j:
                    shared = sum((z[i, j] - means[j]) * (z[i, k] - means[k]) for i in range(n))
                    covariance += (shared / (n - 1)) ** 2 / d
    assert variance > 0
    found = label_free.vicreg(torch.from_numpy(one), torch.from_numpy(other))
    assert float(found) == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-10)


def still(monkeypatch, **but):
    for name in ("TURN", "SHEAR", "SHIFT", "MAX_NOISE"):
        monkeypatch.setattr(label_free, name, but.get(name, 0.0))
    monkeypatch.setattr(label_free, "SCALE", but.get("SCALE", 1.0))


def views(images, seed=0):
    return label_free.distort(images, torch.Generator().manual_seed(seed))


def test_without_any_distortion_a_view_is_the_image(monkeypatch):
    still(monkeypatch)
    images = to_signed(some_images(5, SPEC))
    torch.testing.assert_close(views(images), images, rtol=0, atol=1e-5)


def spot(n=500, size=32):
    """A bright disc in the middle of n dark images."""
    y, x = torch.meshgrid(*2 * [torch.arange(size) - (size - 1) / 2], indexing="ij")
    return (2 * (x**2 + y**2 < 36).float() - 1).expand(n, 1, size, size)


def centres(images):
    """Where the light is, from the middle, in shares of the side: [n] down and [n] across."""
    light = (images[:, 0] + 1).double()
    size = light.shape[-1]
    place = (torch.arange(size) - (size - 1) / 2) / size
    total = light.sum((1, 2))
    return (light.sum(2) * place).sum(1) / total, (light.sum(1) * place).sum(1) / total


def test_shifts_are_shares_of_the_side_in_both_directions(monkeypatch):
    still(monkeypatch, SHIFT=0.2)
    for found in centres(views(spot())):
        assert found.abs().max() == pytest.approx(0.2, abs=0.01)
        assert found.mean() == pytest.approx(0, abs=0.02)


def test_sizes_are_within_the_factor_both_ways(monkeypatch):
    still(monkeypatch, SCALE=1.5)
    area = (views(spot()) + 1).sum((1, 2, 3)) / (spot(1) + 1).sum()
    assert area.min() == pytest.approx(1.5**-2, rel=0.05)
    assert area.max() == pytest.approx(1.5**2, rel=0.05)


@pytest.mark.parametrize("name", ["TURN", "SHEAR"])
def test_turns_and_shears_move_what_is_away_from_the_middle(monkeypatch, name):
    still(monkeypatch, **{name: 0.3})
    dot = -torch.ones(300, 1, 33, 33)
    dot[:, :, 4:7, 15:18] = 1.0  # 11 pixels, a third of the side, above the middle
    down, across = centres(views(dot))
    assert across.abs().max() == pytest.approx(math.sin(0.3) / 3, rel=0.1)
    assert across.mean() == pytest.approx(0, abs=0.02)
    assert (down < -0.2).all()


def test_every_second_view_has_noise_as_the_labelled_judges_see(monkeypatch):
    still(monkeypatch, MAX_NOISE=label_free.MAX_NOISE)
    spread = views(torch.zeros(2000, 1, 32, 32)).flatten(1).std(dim=1)
    touched = spread > 1e-6
    assert touched.float().mean() == pytest.approx(0.5, abs=0.05)
    assert spread.max() == pytest.approx(0.2, rel=0.1)  # 0.1 of white, on -1..1
    assert label_free.MAX_NOISE == classifier.MAX_NOISE


def test_training_is_deterministic_and_depends_on_the_seed(nets):
    again = train(1).state_dict()
    for name, value in nets[1].state_dict().items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(nets[1].embed.weight, nets[2].embed.weight)


def test_every_image_is_shown_before_any_again(monkeypatch):
    shown = []
    monkeypatch.setattr(
        label_free, "to_signed", lambda batch: shown.append(batch) or to_signed(batch)
    )
    settings = SETTINGS.model_copy(update={"batch": 10, "label_free": params.LabelFree(steps=4)})
    images = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(-1, *SPEC.shape)
    label_free.train(images, SPEC, settings, 1, CPU)
    seen = torch.cat(shown)[:, 0, 0, 0].tolist()
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert seen[:20] != seen[20:]


def test_fewer_images_than_a_step_takes_are_refused():
    with pytest.raises(PipelineError, match=r"judge\.batch is 16"):
        train(n=15)
