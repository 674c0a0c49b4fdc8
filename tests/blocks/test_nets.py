import math
from itertools import pairwise

import pytest
import torch

from pipeline.blocks import nets


def test_average_follows_the_warm_up_and_then_the_decay():
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    average = nets.Ema([parameter], 0.5)
    expected = 0.0
    for t in range(20):
        with torch.no_grad():
            parameter.fill_(t + 1.0)
        average.update()
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * (t + 1)
        assert average.shadow[0].tolist() == pytest.approx([expected] * 3, rel=1e-12)


def test_average_forgets_where_it_started():
    parameter = torch.nn.Parameter(torch.full((1,), 1e6))
    average = nets.Ema([parameter], 0.999)
    with torch.no_grad():
        parameter.fill_(1.0)
    for _ in range(100):
        average.update()
    assert average.shadow[0].item() == pytest.approx(1, abs=1e-3)


def test_average_becomes_the_parameters_only_when_applied():
    parameter = torch.nn.Parameter(torch.zeros(1))
    average = nets.Ema([parameter], 0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update()
    assert parameter.item() == 1
    average.apply()
    assert parameter.item() == pytest.approx(0.9)


def test_cosine_falls_from_one_to_zero():
    assert [nets.cosine(x) for x in (0.0, 0.5, 1.0, 1.5)] == pytest.approx([1, 0.5, 0, 0])


def test_warm_cosine_rises_from_above_zero_and_ends_at_zero():
    factor = nets.warm_cosine(0.1)
    rates = [factor(i / 1000) for i in range(1001)]
    assert 0 < rates[0] < 0.02
    assert max(rates) == pytest.approx(1) and rates[100] == pytest.approx(1)
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.011
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_sinusoidal_embedding_has_the_papers_angles_and_tells_times_apart():
    times = torch.arange(1001)
    found = nets.sinusoidal(times, 16)
    assert found.shape == (1001, 16)
    assert found[7, 2].item() == pytest.approx(math.sin(7 / 10000 ** (2 / 8)), abs=1e-5)
    assert found[7, 8 + 2].item() == pytest.approx(math.cos(7 / 10000 ** (2 / 8)), abs=1e-5)
    assert torch.cdist(found.double(), found.double()).fill_diagonal_(1).min() > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "times"),
    [(28, 28, 2), (32, 32, 3), (64, 64, 4), (100, 100, 4), (128, 128, 5), (9, 23, 1), (23, 9, 1)],
)
def test_images_are_halved_as_often_as_said(height, width, times):
    assert nets.halvings(height, width) == times


@pytest.mark.parametrize("size", range(1, 300))
def test_the_shorter_side_of_the_smallest_map_is_4_to_7(size):
    """Where halvings that round down leave so much; the least images are halved once still."""
    times = nets.halvings(size, size + 37)
    assert times == nets.halvings(size + 37, size) == nets.halvings(size, size) >= 1
    assert 4 <= size >> times <= 7 or (times == 1 and size < 8)
    assert size >> times <= nets.halved(size, times) <= 8


@pytest.mark.parametrize("size", [*range(1, 40), 100, 127, 128])
@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_halved_is_the_size_after_strided_convolutions(size, times):
    strided, line = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1), torch.zeros(1, 1, size)
    for _ in range(times):
        line = strided(line)
    assert line.shape[2] == nets.halved(size, times)


def test_channels_double_up_to_eight_times_the_first():
    assert nets.doubled(6, 1) == [6]
    assert nets.doubled(6, 5) == [6, 12, 24, 48, 48]
