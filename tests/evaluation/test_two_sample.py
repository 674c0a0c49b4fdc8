import numpy as np
import pytest
import torch

from pipeline.evaluation import two_sample

CPU = torch.device("cpu")


def blobs(n, seed, blur=0.0):
    """Bright spots at random places, wider with ``blur``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    centre = rng.uniform(4, 11, (n, 2, 1, 1))
    square = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    return (255 * np.exp(-square / (4 + blur)))[:, None].astype(np.uint8)


def test_what_is_alike_is_not_told_apart():
    found = [two_sample.told_apart(blobs(300, 1), blobs(300, 2), seed, CPU) for seed in range(3)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_what_differs_is_told_apart_the_more_the_more_it_differs():
    little, much = (
        two_sample.told_apart(blobs(300, 1), blobs(300, 2, by), 0, CPU) for by in (0.25, 1)
    )
    assert 0.55 < little < much
    assert much > 0.98


def test_it_depends_on_the_seed_alone():
    one, again, other = (
        two_sample.told_apart(blobs(100, 1), blobs(100, 2), seed, CPU) for seed in (0, 0, 1)
    )
    assert one == again != other
