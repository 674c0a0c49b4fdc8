import numpy as np
import pytest
import torch

from pipeline.blocks import level_decoder
from pipeline.blocks.level_decoder import LevelDecoder, distinct, smoothed
from pipeline.core.contract import Batch, to_signed

SHAPE = (256, level_decoder.CONTRASTS, 256)


def images(n, seed=0, size=8):
    """Levels around a level for each image."""
    rng = torch.Generator().manual_seed(seed)
    middle = torch.randint(20, 230, (n, 1, 1, 1), generator=rng)
    around = torch.randint(-15, 16, (n, 1, size, size), generator=rng)
    return (middle + around).to(torch.uint8)


def guesses(x, noise=0.05, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (to_signed(x) + noise * torch.randn(x.shape, generator=rng)).clamp(-1, 1)


def fitted(n=60, **options):
    decoder, x, held = LevelDecoder(), images(n), images(20, seed=1)
    nats = decoder.fit(7, guesses(x, **options), x, guesses(held, seed=1, **options), held)
    return decoder, nats


def counts(n=20_000):
    rng = np.random.default_rng(0)
    found = np.zeros(SHAPE)
    np.add.at(found, tuple(rng.integers(size, size=n) for size in SHAPE), 1)
    return found


def test_probabilities_sum_to_one_and_none_is_zero():
    decoder, _ = fitted()
    assert (decoder.log_probs > -30).all()
    torch.testing.assert_close(decoder.log_probs.exp().sum(1), torch.ones(len(decoder.log_probs)))
    every = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    one = guesses(images(1, size=4)).expand(256, -1, -1, -1)
    per_image = torch.stack([decoder.log_probs[decoder._contexts(one[:1])][0, 0]]).exp()
    torch.testing.assert_close(per_image.sum(-1), torch.ones(1, 4, 4))
    assert decoder.log_prob(one, every).shape == (256,)


def test_log_prob_is_the_sum_over_pixels_of_the_table():
    decoder, _ = fitted()
    x = images(3, seed=2, size=5)
    guess = guesses(x, seed=2)
    contexts = decoder._contexts(guess)
    expected = [
        sum(
            decoder.log_probs[context, level].item()
            for context, level in zip(c.flatten(), i.flatten().tolist(), strict=True)
        )
        for c, i in zip(contexts, x, strict=True)
    ]
    np.testing.assert_allclose(decoder.log_prob(guess, x), expected, rtol=1e-5)


def test_one_refinement_is_its_counts_and_the_coarser_distribution():
    """By hand, for one context at the finest."""
    found = counts()
    for concentration in level_decoder.CONCENTRATIONS:
        level, contrast = 77, 3
        known = np.full(256, 1 / 256)
        rows = [(b, slice(None)) for b in range(6)] + [(b, contrast) for b in range(5, 9)]
        for b, some in rows:
            width = 256 >> b
            first = level // width * width
            here = found[first : first + width, some].reshape(-1, 256).sum(axis=0)
            known = (here + concentration * known) / (here.sum() + concentration)
        every = dict(smoothed(found))
        np.testing.assert_allclose(every[9, concentration][level, contrast], known, rtol=1e-9)
        only = dict(smoothed(found, only=(4, concentration)))
        np.testing.assert_array_equal(only[4, concentration], every[4, concentration])
    for each in every.values():
        np.testing.assert_allclose(each.sum(axis=2), 1)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_it_is_better_the_better_the_guess_and_never_than_the_guess_allows(noise):
    """Levels are uniform on 31 around the middle, whatever the guess tells."""
    _, nats = fitted(n=400, noise=noise)
    _, worse = fitted(n=400, noise=2 * noise)
    assert worse < nats < 0
    assert nats > -64 * np.log(256) / (1 if noise > 0.1 else 1.5)


def test_held_out_images_are_judged_without_their_own_counts():
    """What was counted of them would tell each level that occurs once."""
    few, rng = images(2), torch.Generator().manual_seed(0)
    held = torch.randint(256, (4, 1, 8, 8), generator=rng, dtype=torch.uint8)
    nats = LevelDecoder().fit(1, guesses(few), few, torch.zeros(held.shape), held)
    assert nats < -64 * np.log(256) + 1


def test_the_contrast_is_that_of_a_pixel_and_its_neighbours():
    x = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    found = level_decoder._contrast(x)
    assert found.shape == x.shape
    around = x[1, 2, 2:5, 3:6]
    assert found[1, 2, 3, 4].item() == pytest.approx(around.std(correction=0).item(), rel=1e-4)


def test_flat_guesses_and_black_images_can_be_fitted():
    decoder, black = LevelDecoder(), torch.zeros(9, 3, 4, 4, dtype=torch.uint8)
    decoder.fit(3, to_signed(black), black, to_signed(black), black)
    assert decoder.log_prob(to_signed(black), black).min() > -5
    assert torch.isfinite(decoder.log_prob(-to_signed(black), black)).all()


def batch(x):
    return Batch(x, torch.arange(len(x)))


def test_distinct_images_are_each_there_once():
    x = images(10)
    endless = (batch(x[4 * (k % 3) : 4 * (k % 3) + 4]) for k in range(10**9))
    found, labels = distinct(endless, 100)
    assert torch.equal(found, x) and labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert torch.equal(distinct(iter([batch(x), batch(x)]), 7)[0], x[:7])
