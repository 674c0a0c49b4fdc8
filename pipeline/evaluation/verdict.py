"""Whether the judges judge: what is known to be worse must score worse, for each of them.

A judge that does not see damage ranks nothing, and looks like any other. So after they were
trained, all judges rank what `pipeline.evaluation.ladders` spoils in known order: some
training images, against others. The evaluated split may show something else, which is told
by itself.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.core import files, seeds
from pipeline.datasets.store import Split, Store
from pipeline.evaluation import ladders, protocol
from pipeline.evaluation.judge import Judges, Seen, see
from pipeline.evaluation.protocol import Kind
from pipeline.evaluation.quality import distance, distances, geometric_mean

SEEN = 1.5
"""The last rung of every ladder must have this many times the FID of real images."""
MISSING = 1.1
"""And the first kind that is missing this many times."""
SLACK = 0.5
"""Up to this share of the FID of real images a rung may be below the one before: chance decides
what damage that is too small to be seen scores."""
APART = 5.0
"""How far the highest FID of a rung may be above the lowest over judges, where damage is seen."""
SHIFT = 2.0
"""From where on another split is said to show other images than the training images."""
HALVES = 5
"""How often the training images are halved, to see what images of one kind differ by."""


@dataclass(frozen=True)
class OfKind:
    """What the judges of one kind were found to be worth.

    Attributes:
        kind: which.
        accuracy: of each judge, see `pipeline.evaluation.judge.facts`.
        ladders: FIDs of each rung, by ladder and label, one for each judge.
    """

    kind: Kind
    accuracy: list[float | None]
    ladders: dict[str, dict[str, list[float]]]

    @property
    def reasons(self) -> list[str]:
        """Why their FIDs rank nothing, a sentence each; none if they do."""
        return _reasons(self.ladders)

    def facts(self) -> dict[str, Any]:
        """For a file of results."""
        return {
            "kind": self.kind,
            "accuracy": self.accuracy,
            "ranks": not self.reasons,
            "reasons": self.reasons,
            # A list, whose order a file keeps.
            "rungs": [
                {"ladder": ladder, "label": label, "fid": fids}
                for ladder, rungs in self.ladders.items()
                for label, fids in rungs.items()
            ],
        }


@dataclass(frozen=True)
class Verdict:
    """What all judges were found to be worth.

    Attributes:
        kinds: what is known of each, that of the headline first.
        n: images of each half of the training images.
        within: FID between such halves, several times, by the judges of the headline.
        across: FID between one such half and as many images of the evaluated split.
    """

    kinds: list[OfKind]
    n: int
    within: list[float]
    across: list[float]

    @property
    def shift(self) -> float:
        """Mean FID across over that within: about 1 where both splits show the same."""
        return float(np.mean(self.across) / np.mean(self.within))

    def facts(self) -> dict[str, Any]:
        """For a file of results."""
        reasons = self.kinds[0].reasons
        return files.rounded(
            {
                "ranks": not reasons,
                "reasons": reasons,
                "shift": self.shift,
                "shifted": self.shift > SHIFT,
                "floor_n": self.n,
                "floor": self.within,
                "kinds": [each.facts() for each in self.kinds],
            }
        )


def judge_the_judges(
    store: Store,
    judges: Judges,
    known: list[dict[str, Any]],
    *,
    n: int,
    split: str,
    seed: int,
) -> Verdict:
    """Have the judges rank what is known.

    Args:
        store: the data set.
        judges: all of them.
        known: ``kinds`` of `pipeline.evaluation.protocol.judge_facts`.
        n: images per FID, at least 2.
        split: the split whose images are compared with.
        seed: of the choice of images and of the damage.

    Raises:
        PipelineError: if the split has fewer than n images.
    """
    train = protocol.training_images(store, seed)
    images, labels = np.array(train.images), np.array(train.labels)
    seen = see(judges, images)
    one, other = _halves(len(images), n, seed, 0)
    rest = np.setdiff1d(np.arange(len(images)), other)  # for what some kinds are taken out of
    found: list[dict[str, dict[str, list[float]]]] = [{} for _ in known]
    wanted = seen.take(other)
    for rung in ladders.rungs(Split(images[rest], labels[rest]), len(one), seed):
        spoilt = see(judges, rung.images)
        pairs = [(spoilt, wanted), (spoilt.by_second(), wanted.by_second())]
        for steps, pair in zip(found, pairs, strict=False):
            steps.setdefault(rung.ladder, {})[rung.label] = distances(*pair)
    kinds = [
        OfKind(each["kind"], [one["accuracy"] for one in each["judges"]], steps)
        for each, steps in zip(known, found, strict=True)
    ]
    evaluated = see(judges, protocol.reference_images(store, split, n, seed))
    within, across = _halved(seen, evaluated, seed)
    return Verdict(kinds, len(one), within, across)


def _reasons(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """What is out of order, a sentence for each kind of damage."""
    steps = dict(found)
    [real] = steps.pop(ladders.REAL).values()
    reasons = [
        reason
        for ladder, rungs in steps.items()
        if (reason := _of_ladder(ladder, rungs, real)) is not None
    ]
    [mean] = steps["mean"].values()
    label, values = list(steps["blur"].items())[-1]
    if any(a >= b for a, b in zip(values, mean, strict=True)):
        reasons.append(
            f"{label} has FID {geometric_mean(values):.2f}, and the mean image, of which nothing "
            f"is left to see, {geometric_mean(mean):.2f}"
        )
    apart = [
        f"{label} has FID {min(values):.2f} to {max(values):.2f}"
        for rungs in steps.values()
        for label, values in rungs.items()
        if min(values) > 2 * max(real) and max(values) > APART * min(values)
    ]
    if apart:
        reasons.append(f"the judges disagree: {', '.join(apart)}")
    return reasons


def _of_ladder(ladder: str, rungs: dict[str, list[float]], real: list[float]) -> str | None:
    """Why the judges cannot rank this kind of damage; None if they can."""
    (first, least), *_, (last, most) = [*rungs.items(), *rungs.items()]

    def blind(values: list[float], factor: float) -> int:
        return sum(b < factor * a for a, b in zip(real, values, strict=True))

    for label, values, factor in ((last, most, SEEN), (first, least, MISSING)):
        if (label == last or ladder == "missing") and blind(values, factor):
            return (
                f"{blind(values, factor)} of {len(real)} judges hardly see {label}: FID "
                f"{geometric_mean(values):.2f}, and real images have {geometric_mean(real):.2f}"
            )
    for one, other in pairwise([("real images", real), *rungs.items()]):
        pairs = zip(one[1], other[1], real, strict=True)
        if any(after < before - SLACK * floor for before, after, floor in pairs):
            return (
                f"{other[0]} scores better than {one[0]}: FID {geometric_mean(other[1]):.2f} after "
                f"{geometric_mean(one[1]):.2f}"
            )
    return None


def _halves(total: int, n: int, seed: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two sets that share no image, of n each or of half of all if these are fewer."""
    keys = np.random.Philox(seeds.derive(seed, "halves", k)).random_raw(total)
    order, m = np.argsort(keys, kind="stable"), min(n, total // 2)
    return order[:m], order[m : 2 * m]


def _halved(train: Seen, evaluated: Seen, seed: int) -> tuple[list[float], list[float]]:
    """FIDs between halves of the training images, and between such a half and the others."""
    within, across = [], []
    for k in range(HALVES):
        one, other = (train.take(each) for each in _halves(len(train), len(evaluated), seed, k))
        chosen = seeds.subset(len(evaluated), len(one), seed, "halves", k)
        within.append(distance(one, other))
        across.append(distance(one, evaluated.take(chosen)))
    return within, across
