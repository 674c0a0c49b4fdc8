"""One training of a contender, and samples of it after so many seconds.

Seconds are of the processor: each has one thread of it, so that they are those of a clock where
nothing else runs, and hardly more where something does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from benchmarks.contenders import Contender, Training

WARM = 3
"""Calls of ``stepped`` that are not timed where a pace is measured."""
PROBE = 4.0
"""Seconds for which it is measured, at most."""
FOREVER = 10**9


class Enough(Exception):
    """Ends a training."""


class Watch:
    """Seconds and images of a training, without the seconds of its interruptions."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.images = 0.0
        self._now = now
        self._began = now()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return self._now() - self._began

    def stepped(self, images: float) -> None:
        """Count what `Training.train` tells of."""
        self.images += images

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens in this block."""
        before = self._now()
        try:
            yield
        finally:
            self._began += self._now() - before


Make = Callable[[int], Training]
"""Makes a training that sees so many images."""
Found = tuple[dict[str, Any], np.ndarray]
"""Facts of one training at one time, and its samples."""


def measure(
    contender: Contender, images: np.ndarray, seed: int, seconds: Sequence[float], n: int
) -> list[Found]:
    """Train a contender in this process and draw n samples after each of so many seconds.

    One whose training has an end (`Contender.scheduled`) is trained once for each, on as many
    images as its pace lets expect; how long that really took is among the facts.

    Args:
        contender: who.
        images: uint8 [N, C, H, W].
        seed: of weights, batches and samples.
        seconds: of training alone.
        n: samples.
    """
    torch.set_num_threads(1)
    kind = contender.load()

    def make(count: int) -> Training:
        torch.manual_seed(seed)
        np.random.seed(seed)  # torchcfm's pairs are drawn by it
        return kind(images, seed, contender.name, count)

    known = {"contender": contender.name, "seed": seed}
    found = (_each if contender.scheduled else _interrupted)(make, sorted(seconds), n)
    return [({**known, **facts}, drawn) for facts, drawn in found]


def _interrupted(make: Make, seconds: Sequence[float], n: int) -> Iterator[Found]:
    training, left, found = make(FOREVER), list(seconds), []
    watch = Watch()

    def stepped(images: float) -> None:
        watch.stepped(images)
        while left and watch.seconds >= left[0]:
            with watch.paused():
                found.append(_drawn(training, watch, left.pop(0), n))
        if not left:
            raise Enough

    with suppress(Enough):
        training.train(stepped)
    yield from found


def _each(make: Make, seconds: Sequence[float], n: int) -> Iterator[Found]:
    pace = _pace(make(FOREVER), min(PROBE, seconds[0]))
    for each in seconds:
        training = make(max(1, round(each * pace)))
        watch = Watch()
        training.train(watch.stepped)
        with watch.paused():
            found = _drawn(training, watch, each, n)
        yield found


def _pace(training: Training, seconds: float) -> float:
    """Images per second, once the first calls, which are slow, are over."""
    watch, calls = Watch(), 0

    def stepped(images: float) -> None:
        nonlocal watch, calls
        calls += 1
        if calls <= WARM:
            watch = Watch()
            return
        watch.stepped(images)
        if watch.seconds >= seconds:
            raise Enough

    with suppress(Enough):
        training.train(stepped)
    return watch.images / watch.seconds


def _drawn(training: Training, watch: Watch, seconds: float, n: int) -> Found:
    """Samples of a training that is interrupted, and facts of both."""
    trained = watch.seconds
    began = time.process_time()
    samples = training.draw(n)
    drawing = time.process_time() - began
    return {
        "seconds": seconds,
        "trained_seconds": trained,
        "images_per_second": watch.images / trained,
        "images_seen": round(watch.images),
        "parameters": training.parameters,
        "network_evaluations": training.network_evaluations,
        "seconds_per_sample": drawing / n,
    }, samples
