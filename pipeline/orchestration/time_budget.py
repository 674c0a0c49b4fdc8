"""How much to train, so that a run of all models ends in so many minutes on this machine.

``train.budget`` scales all trainings alike, which keeps what the models' ``images`` say of each
other. Models run side by side, so a model may also take longer than the whole run should: of such
ones ``images`` are lowered, too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import families
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.orchestration import estimate, forecast, params_text, plan
from pipeline.orchestration.estimate import Durations
from pipeline.orchestration.forecast import Run

MOST = 1000.0
"""No training becomes longer than so many times."""
HALVINGS = 40
"""Of the range in which the factor is looked for."""
LEFT_OUT = 3
"""Models that are named where there is no time for all."""


@dataclass(frozen=True)
class Fitted:
    """What to train with.

    Attributes:
        budget: a factor on ``train.budget``.
        images: of some models, a further factor on their images.
        seconds: how long the run takes then.
    """

    budget: float
    images: Mapping[str, float]
    seconds: float


def fitted(run: Run, seconds: float) -> Fitted | None:
    """The longest trainings with which ``run`` ends in so many seconds; None if none are so short.

    Of two runs that take as long, the one whose models keep their shares.
    """
    if run.total(budget=0.0) > seconds or _capped(run, 0.0, seconds) is None:
        return None
    low, high = 0.0, 1.0
    while high < MOST and _fits(run, high, seconds):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _fits(run, middle, seconds) else (low, middle)
    return Fitted(low, _capped(run, low, seconds), _total(run, low, seconds))


def _fits(run: Run, budget: float, seconds: float) -> bool:
    # What was cut takes all of the time, to the last bits.
    return _total(run, budget, seconds) <= seconds + 1e-6


def _total(run: Run, budget: float, seconds: float) -> float:
    return run.total(budget=budget, images=_capped(run, budget, seconds))


def _capped(run: Run, budget: float, seconds: float) -> dict[str, float] | None:
    """Factors on the images of models whose stages alone would take longer than there is time.

    None if one does so without any training.
    """
    room = seconds - run.of_chain(plan.DATA) - run.of_chain(plan.COMPARISON)
    found = {}
    for name in run.models:
        rest, whole = run.of_chain(name, budget=0.0), run.of_chain(name, budget=budget)
        if rest > room:
            return None
        if whole > room:
            found[name] = (room - rest) / (whole - rest)
    return found


def values(raw: Mapping[str, Any], found: Fitted) -> dict[str, Any]:
    """What of params.yaml says so, by key.

    Images are rounded to two digits, and down; a family's other counts of images stay in
    proportion to them.
    """
    budget = params.section(raw, "train").budget * found.budget
    said: dict[str, Any] = {"train.budget": forecast.rounded_down(budget)}
    for name, factor in found.images.items():
        entry = params.entry(raw, name)
        training = families.load(entry["family"]).Training.model_validate(entry["training"])
        images = max(training.batch, int(forecast.rounded_down(training.images * factor)))
        exact = images / training.images
        said[f"models.{name}.training.images"] = images
        for key in training.counts:
            said[f"models.{name}.training.{key}"] = int(getattr(training, key) * exact)
    return said


def propose(
    minutes: float, jobs: int | None, check: Callable[[Path | None], None], *, write: bool
) -> None:
    """Show what params.yaml would say for a run that ends in so many minutes, or have it say so.

    Args:
        minutes: from nothing to the report.
        jobs: models at a time; as many as a run takes, if None.
        check: refuses a file with mistakes.
        write: False only shows it.

    Raises:
        PipelineError: if params.yaml has a mistake, its images are not known yet, or there is no
            time for all models.
    """
    check(None)
    raw = params.read()
    known = forecast.prepared(raw)
    if known is None:
        raise PipelineError(
            f"{paths.PARAMS}: nothing is known of the images of data.name = "
            f"{params.section(raw, 'data').name} yet; run `dvc repro preprocess` first"
        )
    every = params.model_blocks(raw)
    chains = plan.chains(list(every), every, None, compare=True)
    slots = jobs or plan.default_jobs()[0]
    training = forecast.trainings(chains)
    unknown = [stage for stage in training if not known.known(stage)]
    if unknown:
        print(forecast.MEASURING, flush=True)
        known.measure(unknown, slots)
    run = Run(chains, Durations(params.results(raw), known), slots)
    side = f"{slots} model{'s' * (slots > 1)} at a time and nothing else computing"
    print(f"All of it takes about {estimate.roughly(run.total())} here, {side}.")
    found = fitted(run, 60 * minutes)
    if found is None:
        raise PipelineError(_impossible(run, minutes))
    guessed = [forecast.whose(stage) for stage in training if not known.known(stage)]
    if guessed:
        print(f"Not measured, being slow, and guessed by the others: {', '.join(guessed)}.")
    print(f"With this, about {estimate.roughly(found.seconds)}:\n")
    changed = params_text.change(values(raw, found), check, write=write)
    if changed and not write:
        print(f"{paths.PARAMS}: left as it was; with --write it says so")


def _impossible(run: Run, minutes: float) -> str:
    least = run.total(budget=0.0)
    longest = sorted(run.models, key=lambda name: -run.of_chain(name, budget=0.0))[:LEFT_OUT]
    return (
        f"--minutes {minutes:g}: data, judges, samples and scores of {len(run.models)} models take "
        f"about {estimate.roughly(math.ceil(least))} without any training; lower sample.n or "
        f"data.size, or run fewer models (longest: {', '.join(longest)})"
    )
