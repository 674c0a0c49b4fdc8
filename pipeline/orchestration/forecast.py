"""How long a run will take here, and what would halve that: said before it trains anything."""

import math
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pipeline.core import params, paths
from pipeline.evaluation import protocol
from pipeline.orchestration import check_params, estimate, plan
from pipeline.orchestration.estimate import STARTING, Durations, Load, Pace
from pipeline.orchestration.pace import Paces

LONG = 600.0
"""Seconds. What is guessed to be shorter, such as the committed run, is not worth measuring, which
takes half a minute; and where the guess is good, at 28x28, it is shorter."""
JUDGE = plan.JUDGE_STAGES[0]
WORTH_HALVING = 300.0
"""Of a run that takes less seconds nobody asks for half."""
SMALLER = (128, 64, 32)
"""Sizes that images of one's own may have instead of a larger one."""
LONGEST = 3
"""Models that are named."""
WIDTH = 100
MEASURING = "Measuring how fast these models are here, half a minute at most ..."


class Forecast:
    """What is known of the stages of one run before they start; see `estimate.Expects`."""

    def __init__(self, raw: dict[str, Any], images: check_params.Images) -> None:
        """``raw`` is params.yaml's, which `check_params` accepts, and ``images`` what it names."""
        self.raw, self.images = raw, images
        split = params.section(raw, "evaluate").split
        n = protocol.sample_count(params.section(raw, "sample").n, images.counts, split)
        self.load = Load(images.spec, n, images.counts[split])
        self.paces = Paces(raw, images.spec)
        self.factor = 1.0
        """So many times longer than guessed did those models take that were measured."""
        self.resumed = {
            model
            for model in params.model_blocks(raw)
            if any(paths.WORK.glob(f"{model}-*{paths.CHECKPOINT}"))
        }
        """Models of which this run trains but a part, if it goes on with what is there."""

    def measured(self, stage: str) -> float | None:
        """Seconds of a model's stage, or of the judges' training, if their pace is known."""
        if not self.known(stage):
            return None
        kind, _, model = stage.partition("@")
        if stage == JUDGE:
            return STARTING + self.paces[plan.JUDGES].train
        return self._of(kind, model, self.paces[model])

    def known(self, stage: str) -> bool:
        """Whether it is one of those, and how long they take here was measured."""
        name = whose(stage)
        return bool(name) and self.paces[name].train is not None

    def rough(self, stage: str) -> float | None:
        """Seconds of a model's or the judges' stage, as on the machine of the committed run."""
        kind, _, model = stage.partition("@")
        if model:
            return self.factor * self._of(kind, model, Pace())
        return estimate.of_judges(self.load.spec, sum(self.images.counts.values())).get(stage)

    def _of(self, kind: str, model: str, pace: Pace) -> float:
        return estimate.of_model(self.raw, model, self.load, pace)[kind]

    def took(self, stage: str, seconds: float) -> None:
        """Keep the pace of a real stage, in which all its parts were as they are."""
        kind, _, model = stage.partition("@")
        spent = max(0.0, seconds - STARTING)
        if stage == JUDGE:
            self.paces.keep(plan.JUDGES, Pace(train=spent))
        if kind == "train" and model not in self.resumed:
            self.paces.keep(model, Pace(train=spent / estimate.images_of(self.raw, model)))
        if kind == "sample":
            self.paces.keep(model, Pace(draw=spent / self.load.drawn, show=0.0))
        if kind == "evaluate":
            looking = estimate.looking(self.load)
            self.paces.keep(model, Pace(score=max(0.0, spent - looking) / self.load.scored))
        self.paces.save()

    def measure(self, stages: Sequence[str], slots: int) -> None:
        """Find the paces of those whose trainings these are, as far as half a minute allows."""
        with suppress(Exception):  # where it cannot, guesses are left
            self.paces.measure([whose(stage) for stage in stages], slots)
        self.paces.save()
        found = [stage for stage in stages if stage != JUDGE and self.known(stage)]
        self.factor = 1.0
        if found:
            guessed = sum(self.rough(stage) for stage in found)
            self.factor = sum(self.measured(stage) for stage in found) / guessed


def trainings(chains: Mapping[str, Sequence[str]]) -> list[str]:
    """The stages of chains that train, models or the judges."""
    stages = [stage for chain in chains.values() for stage in chain]
    return [stage for stage in stages if stage.startswith("train@") or stage == JUDGE]


def whose(stage: str) -> str:
    """The model of a stage, `plan.JUDGES` of their training, or ''."""
    return plan.JUDGES if stage == JUDGE else stage.partition("@")[2]


class Run:
    """The stages of one run and their seconds, and what these would be with less to do."""

    def __init__(
        self, chains: Mapping[str, Sequence[str]], durations: Durations, slots: int
    ) -> None:
        self.chains, self.slots = chains, slots
        self.seconds = {
            stage: durations.expected(stage) for chain in chains.values() for stage in chain
        }
        self.models = [
            name for name in chains if name not in (plan.DATA, plan.JUDGES, plan.COMPARISON)
        ]

    def total(
        self,
        *,
        budget: float = 1.0,
        pixels: float = 1.0,
        without: Collection[str] = (),
        images: Mapping[str, float] | None = None,
    ) -> float:
        """Seconds until all is done.

        Args:
            budget: factor on what models are trained with.
            pixels: factor on the pixels of an image.
            without: models that are left out.
            images: further factors on what some models are trained with.
        """
        images = images or {}
        beside = [plan.JUDGES, *(name for name in self.models if name not in without)]
        seconds = [
            [self.of_chain(name, budget=budget * images.get(name, 1.0), pixels=pixels)]
            for name in beside
        ]
        return (
            self.of_chain(plan.DATA, pixels=pixels)
            + estimate.left(seconds, max(1, self.slots))
            + self.of_chain(plan.COMPARISON, pixels=pixels)
        )

    def of_chain(self, name: str, *, budget: float = 1.0, pixels: float = 1.0) -> float:
        """Seconds of a chain's stages, one after the other; as of `total`."""
        return sum(self._scaled(stage, budget, pixels) for stage in self.chains.get(name, ()))

    def _scaled(self, stage: str, budget: float, pixels: float) -> float:
        seconds = self.seconds[stage]
        kind = stage.partition("@")[0]
        if kind not in estimate.TYPICAL:
            return seconds
        factor = pixels * (budget if kind == "train" else 1.0)
        return min(seconds, STARTING) + factor * max(0.0, seconds - STARTING)

    def longest(self) -> list[tuple[str, float]]:
        """Models and their seconds, the longest first."""
        spent = {
            name: sum(self.seconds[each] for each in self.chains[name]) for name in self.models
        }
        return sorted(spent.items(), key=lambda each: -each[1])


def prepared(raw: dict[str, Any]) -> Forecast | None:
    """What can be known of the models and images of params.yaml; None if that is nothing."""
    # Whatever is wrong, a run does not depend on it, and says better what it is.
    with suppress(Exception):
        images = check_params.images_of(params.section(raw, "data"), paths.PARAMS)
        return None if images is None else Forecast(raw, images)
    return None


def announce(
    found: Forecast | None, chains: Mapping[str, Sequence[str]], home: paths.Results, slots: int
) -> None:
    """Say how long a run will take, if it trains; measure that before if it may be long.

    Args:
        found: from `prepared`.
        chains: the stages to run, from `plan.chains`.
        home: where the times of the last run are.
        slots: models at a time.
    """
    if found is None:
        return
    with suppress(Exception):  # as above
        for text in _told(found, chains, home, slots):
            print(text, flush=True)


def _told(
    found: Forecast, chains: Mapping[str, Sequence[str]], home: paths.Results, slots: int
) -> Iterator[str]:
    training = trainings(chains)
    if not any(stage != JUDGE for stage in training):
        return
    unknown = [stage for stage in training if not found.known(stage)]
    run = Run(chains, Durations(home, found), slots)
    how = ""
    if unknown and run.total() > LONG:
        yield MEASURING
        found.measure(unknown, slots)
        run = Run(chains, Durations(home, found), slots)
        unknown = [stage for stage in unknown if not found.known(stage)]
        if unknown:
            names = ", ".join(map(whose, unknown))
            how = f"; not measured, being slow, and guessed by the others: {names}"
    elif unknown:
        how = " (roughly, as on another machine)"
    yield _wrapped(
        f"This will take about {estimate.roughly(run.total())}, {slots} "
        f"model{'s' * (slots > 1)} at a time and nothing else computing{_longest(run)}{how}."
    )
    if run.total() > WORTH_HALVING:
        data: params.Data = params.section(found.raw, "data")
        budget = params.section(found.raw, "train").budget
        found_halves = halves(run, budget, data)
        if found_halves:
            yield _wrapped(f"Half of that: {'; or '.join(found_halves)}.")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _longest(run: Run) -> str:
    longest = run.longest()[:LONGEST]
    if len(run.models) < 2:
        return ""
    return "; longest: " + ", ".join(
        f"{name} {estimate.roughly(seconds)}" for name, seconds in longest
    )


def halves(run: Run, budget: float, data: params.Data) -> list[str]:
    """What would make a run take half as long at the most, one by one.

    Args:
        run: the run.
        budget: its ``train.budget``.
        data: its images.
    """
    half = run.total() / 2
    found = []
    least = run.total(budget=0.0)
    if least <= half:
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if run.total(budget=middle) <= half else (low, middle)
        if low > 0:
            found.append(f"train.budget: {rounded_down(budget * low):g}")
    smaller = next((size for size in SMALLER if size < data.size), None)
    if data.folder and smaller is not None:
        then = run.total(pixels=(smaller / data.size) ** 2)
        if then <= half:
            found.append(
                f"data.size: {smaller}, about {estimate.roughly(then)} by the number of pixels"
            )
    left_out: list[str] = []
    for name, _ in run.longest()[: len(run.models) // 3]:
        left_out.append(name)
        if run.total(without=left_out) <= half:
            kept = [each for each in run.models if each not in left_out]
            names = " and ".join(filter(None, [", ".join(left_out[:-1]), name]))
            found.append(f"without {names}: MODELS={','.join(kept)}")
            break
    if least > half:
        found.append(f"not train.budget alone, as about {estimate.roughly(least)} are no training")
    return found


def rounded_down(value: float) -> float:
    """``value`` to two significant digits, and not above it; it is above 0."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.floor(value / unit) * unit, 12)
