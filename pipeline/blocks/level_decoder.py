"""p(x_0 | x_t) of images with 256 levels, counted on training images.

A chain of diffusion that ends in Gaussian noise narrower than a level pays dearly for what no eye
sees. A chain that is cut at an earlier time t, where a network's guess of x_0 is still uncertain,
may end in any distribution of discrete images given x_t, and remains a variational bound (Ho et al.
2020, "DDPM", arXiv:2006.11239, section 3.3, leaves the last decoder open). Here it is a histogram
of levels for each context: the level that the network guesses, and how much its guess varies
around.

Histograms are smoothed as those of language models (MacKay & Peto 1995, "A hierarchical Dirichlet
language model"): a context's own counts, and the probabilities of the next coarser context as if it
had been seen ``concentration`` times; the coarsest of all is uniform. So the 256 probabilities of a
context sum to 1, and none is 0.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.contract import Batch, to_uint8

LEVELS = 256
CONTRASTS = 8
"""Classes of how much the guess varies around a pixel."""
COARSE_BITS = 5
"""Of a guessed level, before the contrast is looked at; its other bits come after."""
CONCENTRATIONS = (30.0, 100.0, 300.0)


class LevelDecoder(nn.Module):
    """Distributions of levels by context; uniform, and of time 1, until it is fitted.

    Everything is a buffer: it is saved with the model, and gradients never touch it.
    """

    time: Tensor
    edges: Tensor
    log_probs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("time", torch.ones((), dtype=torch.int64))
        # Between classes of contrast.
        self.register_buffer("edges", torch.zeros(CONTRASTS - 1))
        uniform = torch.full((LEVELS * CONTRASTS, LEVELS), -np.log(LEVELS), dtype=torch.float32)
        self.register_buffer("log_probs", uniform)

    def log_prob(self, guess: Tensor, images: Tensor) -> Tensor:
        """log p(x_0|x_t) in nats, float64 [B].

        Args:
            guess: the network's x_0 given x_t at the time ``time``, -1..1 [B, C, H, W].
            images: x_0, uint8 [B, C, H, W].
        """
        found = self.log_probs[self._contexts(guess), images.long()]
        return found.double().flatten(1).sum(1)

    def fit(
        self, time: int, guess: Tensor, images: Tensor, held_guess: Tensor, held_images: Tensor
    ) -> float:
        """Count levels at this time; returns log p of the held-out images in nats, per image.

        The edges between contrasts come from ``guess``. How fine contexts are and how much they
        trust coarser ones is what suits the held-out images best, which are counted as well
        thereafter; the value returned is without them.

        Args:
            time: of both guesses.
            guess: -1..1 [N, C, H, W].
            images: uint8 [N, C, H, W].
            held_guess: likewise, of other images, [M, C, H, W].
            held_images: uint8 [M, C, H, W].
        """
        self.time.fill_(time)
        contrasts = _contrast(guess)[(guess.abs() < 1)].cpu().numpy()
        if len(contrasts):
            places = np.linspace(0, 1, CONTRASTS + 1)[1:-1]
            self.edges.copy_(torch.from_numpy(np.quantile(contrasts, places)))
        counts = self._counts(guess, images)
        held = self._counts(held_guess, held_images)
        values = {key: (held * np.log(each)).sum() for key, each in smoothed(counts)}
        best = max(values, key=values.__getitem__)
        chosen = dict(smoothed(counts + held, only=best))[best]
        self.log_probs.copy_(torch.from_numpy(np.log(chosen)).flatten(0, 1))
        return float(values[best]) / len(held_images)

    def fit_at_best(
        self,
        times: list[int],
        guess: Callable[[int, int], Tensor],
        later: Callable[[int], float],
        images: Tensor,
        held: int,
        tried: int,
    ) -> None:
        """Fit at the time where the bound of held-out images is best.

        Args:
            times: to choose from.
            guess: the network's x_0 of the first so many images, at a time.
            later: what the chain from a time on costs held-out images, in nats per image.
            images: uint8 [N, C, H, W].
            held: the first so many are held out.
            tried: images by which the time is chosen, with those; all are counted in the end.
        """

        def fitted(t: int, n: int) -> float:
            found = guess(t, n)
            return self.fit(t, found[held:], images[held:n], found[:held], images[:held])

        values = {t: fitted(t, tried) - later(t) for t in times}
        fitted(max(values, key=values.__getitem__), len(images))

    def _contexts(self, guess: Tensor) -> Tensor:
        """Numbers of contexts, int64 [B, C, H, W]: by the guessed level, and then by contrast."""
        contrasts = torch.bucketize(_contrast(guess), self.edges)
        return to_uint8(guess).long() * CONTRASTS + contrasts

    def _counts(self, guess: Tensor, images: Tensor) -> np.ndarray:
        """How often each level was found in each context, float64 [256, CONTRASTS, 256]."""
        # On the processor: on GPUs it is not deterministic.
        places = self._contexts(guess) * LEVELS + images.long()
        shape = (LEVELS, CONTRASTS, LEVELS)
        counts = np.bincount(places.cpu().numpy().ravel(), minlength=np.prod(shape))
        return counts.reshape(shape).astype(np.float64)


def smoothed(
    counts: np.ndarray, only: tuple[int, float] | None = None
) -> Iterator[tuple[tuple[int, float], np.ndarray]]:
    """Distributions from counts, both float64 [256, CONTRASTS, 256], for every way to smooth them.

    Named by how many of the refinements of contexts are made, from one context for all to each its
    own, and by the concentration; ``only`` one of them where that is given.
    """
    bits = range(COARSE_BITS + 1)
    refinements = [(b, False) for b in bits] + [(b, True) for b in range(COARSE_BITS, 9)]
    for concentration in CONCENTRATIONS if only is None else (only[1],):
        known = np.full((1, 1, LEVELS), 1 / LEVELS)
        for depth, (b, by_contrast) in enumerate(refinements):
            if only is not None and depth > only[0]:
                break
            # Contexts that agree in the first b bits of the level, and in the contrast or not.
            here = counts.reshape(2**b, LEVELS // 2**b, CONTRASTS, LEVELS).sum(axis=1)
            if not by_contrast:
                here = here.sum(axis=1, keepdims=True)
            prior = np.repeat(known, 2**b // len(known), axis=0)
            known = (here + concentration * prior) / (
                here.sum(axis=2, keepdims=True) + concentration
            )
            if only is None or depth == only[0]:
                every = np.repeat(known, LEVELS // 2**b, axis=0)
                yield (depth, concentration), np.broadcast_to(every, counts.shape)


def _contrast(guess: Tensor) -> Tensor:
    """Standard deviation among each pixel and its neighbours, of the shape of [B, C, H, W]."""
    around = F.pad(guess, (1, 1, 1, 1), mode="replicate")
    mean, square = F.avg_pool2d(around, 3, 1), F.avg_pool2d(around**2, 3, 1)
    return (square - mean**2).clamp(min=0).sqrt()


def distinct(batches: Iterator[Batch], count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` images of which no two are the same, and their labels; as many as exist.

    Batches come again and again in an endless training, so that it ends where one has nothing new.
    """
    found: dict[bytes, tuple[Tensor, Tensor]] = {}
    for batch in batches:
        before = len(found)
        on_host = batch.images.cpu().numpy()
        for i, image in enumerate(on_host):
            found.setdefault(image.tobytes(), (batch.images[i], batch.labels[i]))
        if len(found) == before or len(found) >= count:
            break
    images, labels = zip(*list(found.values())[:count], strict=True)
    return torch.stack(images), torch.stack(labels)
