"""How long stages take: as long as last time here, or what their cost suggests."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec

SECONDS_PER_TFLOP = 30.0
"""Of a training on one core, about; measured times replace it as soon as there are some."""
TYPICAL = {"train": 30.0, "sample": 8.0, "evaluate": 8.0, "judge": 20.0, "reference": 15.0}
"""Seconds of stages of which nothing else is known."""
OTHER = 5.0
PER_PIXEL = {
    "ae": (0.9, 0.0),
    "began": (0.8, 0.0),
    "cyclegan": (9.0, 0.0),
    "ddpm": (3.5, 40.0),
    "flow_matching": (3.5, 20.0),
    "flow": (30.0, 12.0),
    "gan": (2.0, 0.0),
    "gpt": (10.0, 15.0),
    "lstm": (10.0, 17.0),
    "pixelcnn": (14.0, 22.0),
    "vae": (2.2, 0.0),
    "vdm": (5.0, 45.0),
    "vqvae": (5.0, 8.0),
    "wgan": (2.2, 0.0),
}
"""Microseconds for each pixel of a training image, and of a sample, on one core, in colour."""
GREY = 0.6
"""Of that, where images have one channel."""
STARTING = 1.0
"""Seconds until a stage does something: it is a copy of a process that has imported libraries."""
SCORING = 10.0
"""Microseconds for each pixel of a sample that is judged, of the likelihoods of images, too."""
LOOKING = 2.0
"""Likewise without the likelihoods."""
JUDGING = 32_000.0
"""Microseconds for each pixel of an image, for the judges, whose cost is the same for any number of
images."""
REFERENCES = 1.0
"""Microseconds for each pixel of all images, for the reference rows."""


@dataclass(frozen=True)
class Pace:
    """How fast a model is here, in seconds; None where that is not known.

    Attributes:
        train: for an image that it is trained on.
        draw: for a sample, or a translated image.
        show: for all its pictures.
        score: for an image whose likelihood is asked for.
    """

    train: float | None = None
    draw: float | None = None
    show: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Load:
    """What a run has to do with each model.

    Attributes:
        spec: of the images.
        drawn: images that are sampled and judged.
        scored: images whose likelihood is asked for.
    """

    spec: ImageSpec
    drawn: int
    scored: int


def images_of(raw: dict[str, Any], model: str) -> float:
    """How many images a model of params.yaml is trained on, with repetition."""
    training = params.entry(raw, model)["training"]
    images = training.get("images") if isinstance(training, dict) else None
    budget = params.section(raw, "train").budget
    return budget * (float(images) if _is_number(images) else 20_000.0)


def of_model(
    raw: dict[str, Any], model: str, load: Load, pace: Pace | None = None
) -> dict[str, float]:
    """Seconds of each stage of a model, by kind: by its pace, or roughly where that is unknown."""
    entry = params.entry(raw, model)
    pace = pace or Pace()
    train, draw = PER_PIXEL.get(entry["family"], (2.0, 5.0))
    pixels = 1e-6 * load.spec.height * load.spec.width
    if load.spec.channels == 1:
        train, draw = GREY * train, GREY * draw
    train, draw, score = (pixels * each for each in (train, draw, SCORING))
    drawing = draw if pace.draw is None else pace.draw
    scoring = score * load.drawn
    if pace.score is not None:
        scoring = looking(load) + pace.score * load.scored
    return {
        "train": STARTING + (train if pace.train is None else pace.train) * images_of(raw, model),
        "sample": STARTING + drawing * load.drawn + (pace.show or 0.0),
        "evaluate": STARTING + scoring,
    }


def looking(load: Load) -> float:
    """Seconds of what judges all models alike with, which no likelihood is."""
    return LOOKING * 1e-6 * load.spec.height * load.spec.width * load.drawn


def of_judges(spec: ImageSpec, images: int) -> dict[str, float]:
    """Seconds of the stages of judges, roughly, by name; ``images`` are those of all splits."""
    pixels = 1e-6 * spec.height * spec.width
    return {
        "judge": STARTING + JUDGING * pixels,
        "reference": STARTING + REFERENCES * pixels * images,
    }


class Expects(Protocol):
    """What knows stages better than their names tell."""

    def measured(self, stage: str) -> float | None:
        """Seconds by the pace of the very model, if that is known."""
        ...

    def rough(self, stage: str) -> float | None:
        """Seconds by its kind and the images, if it is that of a model or of judges."""
        ...

    def took(self, stage: str, seconds: float) -> None:
        """Remember it for the very model."""
        ...


class Durations:
    """Seconds that stages took for a data set in this folder, remembered below ``work/``."""

    def __init__(self, home: paths.Results, expects: Expects | None = None) -> None:
        """``home`` has the metrics of the last run, by which trainings are guessed."""
        self.home = home
        self.expects = expects
        self.place = paths.DURATIONS / f"{home.title}.json"
        known = _read(self.place)
        self.known = {name: value for name, value in known.items() if _is_number(value)}
        self._guessed = 0.0
        self._measured = 0.0

    def expected(self, stage: str) -> float:
        """Seconds that a stage will take, as far as one can know."""
        measured = self.expects.measured(stage) if self.expects else None
        if measured is not None:
            return measured
        if stage in self.known:
            return self.known[stage]
        # What was guessed of others turned out to be so much too short or too long.
        factor = self._measured / self._guessed if self._guessed else 1.0
        return factor * self._guess(stage)

    def _guess(self, stage: str) -> float:
        rough = self.expects.rough(stage) if self.expects else None
        return guess(stage, self.home) if rough is None else rough

    def took(self, stage: str, seconds: float) -> None:
        """Remember what a stage took."""
        if stage.partition("@")[0] in TYPICAL:  # of short ones the guess says nothing
            self._guessed += self._guess(stage)
            self._measured += seconds
        self.known[stage] = round(seconds, 1)
        if self.expects is not None:
            self.expects.took(stage, seconds)

    def save(self) -> None:
        """Keep it for the next run, if it can be written: all that is lost are estimates."""
        with suppress(PipelineError):
            files.write_json(self.place, self.known)


def guess(stage: str, home: paths.Results) -> float:
    """Seconds by the stage's kind, or, of a training, by the operations of the last one."""
    kind, _, model = stage.partition("@")
    if kind == "train":
        found = _read(home.model_metrics(model))
        flops, images = (found.get(key) for key in ("training_flops_per_image", "images_seen"))
        if _is_number(flops) and _is_number(images) and flops * images:
            return 10.0 + SECONDS_PER_TFLOP * flops * images / 1e12
    return TYPICAL.get(kind, OTHER)


def of_all(
    raw: dict[str, Any],
    spec: ImageSpec,
    images: int,
    n: int,
    slots: int,
    paces: dict[str, Pace] | None = None,
) -> float:
    """Seconds that a run of all models takes, roughly; measured times of other images do not count.

    Args:
        raw: what params.yaml holds.
        spec: of the images.
        images: how many there are.
        n: how many are sampled and judged.
        slots: models at a time.
        paces: of models, where they are known.
    """
    load, paces = Load(spec, n, n), paces or {}
    chains = [list(of_judges(spec, images).values())]
    for name in params.model_blocks(raw):
        chains.append(list(of_model(raw, name, load, paces.get(name)).values()))
    return left(chains, max(1, slots)) + 4 * STARTING


def roughly(seconds: float) -> str:
    """A time for people, of one or two digits."""
    minutes = seconds / 60
    if minutes < 1.5:
        return "1 minute"
    if minutes < 90:
        return f"{round(minutes) if minutes < 20 else 5 * round(minutes / 5)} minutes"
    return f"{minutes / 60:.1f} hours"


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if that cannot be told, as of a damaged one."""
    try:
        found = files.read_json(path)
    except (FileNotFoundError, files.Unreadable):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: Any) -> bool:
    """Whether a value is one that a time or a count may have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18


def left(chains: Iterable[Sequence[float]], slots: int) -> float:
    """Seconds until all chains are through, each the seconds of its stages in their order.

    As many chains at a time as there are slots, the next one in the first slot that is free.
    """
    ends = [0.0] * slots
    for chain in chains:
        first = min(range(slots), key=ends.__getitem__)
        ends[first] += sum(chain)
    return max(ends, default=0.0)


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
