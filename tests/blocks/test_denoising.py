import numpy as np
import pytest
import torch

from pipeline.blocks import denoising


def test_places_are_even_and_each_is_uniform():
    found = np.stack(
        [
            denoising.spread_places(8, torch.Generator().manual_seed(seed)).numpy()
            for seed in range(2000)
        ]
    )
    assert ((found >= 0) & (found < 1)).all()
    np.testing.assert_allclose(np.diff(np.sort(found, axis=1), axis=1), 1 / 8, atol=1e-6)
    np.testing.assert_allclose(found.mean(axis=0), 0.5, atol=0.04)


def predicted(x, t, labels):
    return x + t[:, None] * labels[:, None]


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_is_equation_6(guidance):
    x, t, labels = torch.randn(3, 2), torch.rand(3), torch.tensor([1.0, 2.0, 5.0])
    found = denoising.guided(predicted, x, t, labels, guidance, none=10)
    expected = (1 + guidance) * predicted(x, t, labels) - guidance * predicted(
        x, t, torch.full((3,), 10.0)
    )
    torch.testing.assert_close(found, expected)


def test_without_labels_nothing_is_mixed():
    calls = []
    denoising.guided(
        lambda *args: calls.append(args), torch.zeros(1), torch.zeros(1), None, 2.0, 10
    )
    assert len(calls) == 1


@pytest.mark.parametrize(("states", "columns"), [(1, 1), (4, 4), (10, 10), (31, 10)])
def test_a_picture_goes_from_the_first_state_to_the_last(states, columns):
    every = [torch.full((2, 1, 3, 3), i, dtype=torch.uint8) for i in range(states)]
    found = denoising.picture(every)
    assert found.shape == (2, columns, 1, 3, 3) and found.dtype == torch.uint8
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == states - 1).all()
