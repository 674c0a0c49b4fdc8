"""How fast models are here: seconds for an image, by a few steps of the very model, remembered.

``python -m pipeline.orchestration.pace`` measures, in processes of its own and with images of
noise, so that no training, sample or metric is another one for it. A pace is kept below ``work/``
under all that it depends on; a run that was real replaces what was tried.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import families
from pipeline.core import cost, files, params, paths, stage
from pipeline.core.contract import Batch, Family, HasLikelihood, Samples, Translates
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.evaluation import classifier, label_free, likelihood
from pipeline.models import entries, weights
from pipeline.orchestration.estimate import Pace
from pipeline.orchestration.plan import JUDGES
from pipeline.sampling import drawing, illustration
from pipeline.training.trainer import Trainer

STEPS = 8
"""Of a training, at most; its first is not counted."""
JUDGED = 3
"""Steps of a judge."""
ENOUGH = 0.6
"""Seconds for each of training, drawing and scoring, about."""
SLOW = 4.0
"""Seconds after which nothing is repeated that gets quicker when it is."""
LAST = 25.0
"""Seconds after which no further model is begun."""
DEADLINE = 35.0
"""Seconds after which what is not measured stays so."""
WORKER = (sys.executable, "-m", "pipeline.orchestration.pace")
KEPT = 500
"""Paces that are remembered; the oldest give way."""


class Paces:
    """Paces of models of params.yaml, and of the judges, remembered in a file.

    Of `plan.JUDGES`, ``train`` are the seconds of all their trainings.
    """

    def __init__(self, raw: dict[str, Any], spec: ImageSpec) -> None:
        """``raw`` is params.yaml's, which `check_params` accepts; ``spec`` that of the images."""
        self.raw, self.spec = raw, spec
        self._keys: dict[str, str] = {}
        self._kept: dict[str, Any] = {}
        with suppress(FileNotFoundError, files.Unreadable):
            found = files.read_json(paths.PACES)
            self._kept = found if isinstance(found, dict) else {}

    def __getitem__(self, model: str) -> Pace:
        """What is known; nothing, as of a model never seen or a damaged file."""
        found = self._kept.get(self._key(model))
        return _pace(found if isinstance(found, dict) else {})

    def keep(self, model: str, pace: Pace) -> None:
        """Remember what is known of a pace, beside what was known before."""
        known = {k: v for k, v in asdict(pace).items() if v is not None}
        kept = asdict(self[model]) | known
        self._kept.pop(self._key(model), None)  # so that it is the newest
        self._kept[self._key(model)] = kept

    def save(self) -> None:
        """Write the file, if that can be done: all that is lost are estimates."""
        kept = dict(list(self._kept.items())[-KEPT:])
        with suppress(PipelineError):
            # In their order, which says how old they are.
            files.write_text(paths.PACES, json.dumps(kept, indent=1) + "\n")

    def _key(self, model: str) -> str:
        """All that a pace depends on: network, batches, images, devices, threads and code."""
        if model not in self._keys:
            if model == JUDGES:
                entry, code = self.raw["judge"], [paths.CODE / "evaluation"]
            else:
                entry = params.entry(self.raw, model)
                training = entry["training"] if isinstance(entry["training"], dict) else {}
                training = {k: v for k, v in training.items() if k not in NO_MATTER}
                family = paths.CODE / "families" / f"{entry['family']}.py"
                entry, code = {**entry, "training": training}, [paths.CODE / "blocks", family]
            runtime: params.Runtime = params.section(self.raw, "runtime")
            self._keys[model] = files.sha256_of(
                [
                    entry,
                    list(self.spec.shape),
                    self.spec.classes,
                    params.section(self.raw, "sample").batch,
                    params.section(self.raw, "evaluate").batch,
                    stage.device_name(stage.device_of(runtime)),
                    runtime.threads,
                    runtime.devices,
                    torch.__version__,
                    [files.sha256(path, ".py") for path in code if path.exists()],
                ]
            )[:16]
        return self._keys[model]

    def measure(self, models: Sequence[str], processes: int) -> None:
        """Measure models and keep what is found, as many side by side as there will be.

        What is too slow, or fails, stays unknown.
        """
        shape = [*self.spec.shape, self.spec.classes]
        running: list[subprocess.Popen] = []
        end = time.monotonic() + DEADLINE
        try:
            for first in range(min(processes, len(models))):
                task = {"params": self.raw, "spec": shape, "models": models[first::processes]}
                running.append(
                    subprocess.Popen(
                        WORKER,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
                )
                running[-1].stdin.write(json.dumps(task))
                running[-1].stdin.close()
                running[-1].stdin = None
            for process in running:
                for line in _said(process, end - time.monotonic()):
                    with suppress(ValueError, TypeError, KeyError):
                        name, found = json.loads(line)
                        self.keep(name, _pace(found))
        finally:
            for process in running:
                process.kill()
                process.wait()


NO_MATTER = ("images", "learning_rate")
"""Keys of a training that leave the time of an image as it is."""


def _said(process: subprocess.Popen, seconds: float) -> list[str]:
    """The lines that a process printed until its end, or until it is ended."""
    try:
        out, _ = process.communicate(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
    return out.splitlines()


def _pace(found: dict[str, Any]) -> Pace:
    """What of a pace was found that can be one."""
    return Pace(**{k: found[k] for k in Pace.__dataclass_fields__ if _is_time(found.get(k))})


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def main() -> None:
    """Measure the models that standard input names, and print a line of JSON for each."""
    task = json.load(sys.stdin)
    raw, (*shape, classes) = task["params"], task["spec"]
    spec = ImageSpec(*shape, classes=classes)
    device = stage.prepare_torch(params.section(raw, "runtime"))
    end = time.monotonic() + LAST
    # Trainings first: they are most of a run, and of many models the rest is short.
    names = task["models"]
    if JUDGES in names:
        with suppress(Exception):
            print(json.dumps([JUDGES, {"train": _judges(raw, spec, device)}]), flush=True)
    models = [entries.read(raw, name) for name in names if name != JUDGES]
    longest = sorted(models, key=lambda model: not _has_likelihood(model))
    for part, order in ((_trained, models), (_used, longest)):
        for model in order:
            if time.monotonic() > end:
                return
            # Phases of a training, where it has some, are then as long as in the whole of it.
            short = entries.scaled(model, STEPS * model.training.batch / model.training.images)
            with suppress(Exception):
                for found in part(weights.build(short, spec, 0, device), raw):
                    print(json.dumps([model.name, found]), flush=True)


def _seconds_of(raw: dict[str, Any], device: torch.device) -> Callable[[], float]:
    """The clock to time with.

    That of the process where it computes in one thread: whatever else the machine does just now
    says nothing of the hour to come.
    """
    alone = device.type == "cpu" and params.section(raw, "runtime").threads == 1
    return time.process_time if alone else time.perf_counter


def _judges(raw: dict[str, Any], spec: ImageSpec, device: torch.device) -> float:
    """Seconds in which the judges are trained, by some steps of one of each kind."""
    section: params.Judge = params.section(raw, "judge")
    images = torch.zeros(section.batch, *spec.shape, dtype=torch.uint8)
    labels = torch.arange(section.batch) % spec.classes
    seconds = 0.0
    for kind in ("label_free", "classifier")[: 1 + (spec.classes > 1)]:
        chosen = getattr(section, kind).model_copy(update={"steps": JUDGED})
        short = section.model_copy(update={kind: chosen})
        for _ in range(2):  # the first time is slow
            clock = cost.Clock(_seconds_of(raw, device))
            if kind == "classifier":
                classifier.train(images, labels, spec, short, 0, device)
            else:
                label_free.train(images, spec, short, 0, device)
            took = clock.total
        seconds += took / JUDGED * getattr(section, kind).steps * len(section.seeds)
    return seconds


def _has_likelihood(model: params.ModelParams) -> bool:
    return issubclass(families.load(model.family), HasLikelihood)


def _noise(family: Family, n: int) -> Tensor:
    """Images uint8 [n, C, H, W]."""
    rng = torch.Generator().manual_seed(n)
    return torch.randint(256, (n, *family.spec.shape), generator=rng, dtype=torch.uint8)


def _trained(family: Family, raw: dict[str, Any]) -> Iterator[dict[str, float]]:
    """What of a `Pace` is its training's."""
    n = family.params.training.batch
    trainer = _Uncounted(
        family,
        _noise(family, n),
        torch.arange(n) % family.spec.classes,
        others=_noise(family, n) if family.data == "domains" else None,
        seed=0,
        steps=STEPS + 1,  # so that none is the last, which more would follow
    )
    now = _seconds_of(raw, family.device)
    took: dict[str, list[float]] = {}
    order: list[str] = []
    spent = 0.0
    while len(order) < STEPS and spent < (SLOW if len(order) < 2 else ENOUGH):
        before = dict(trainer.kinds)
        clock, began = cost.Clock(now), time.monotonic()
        trainer.run(stop_at=trainer.step + 1)
        seconds = clock.total
        spent += time.monotonic() - began
        order += [kind for kind, n in trainer.kinds.items() if n > before.get(kind, 0)]
        took.setdefault(order[-1], []).append(seconds)
    first = took[order[0]]
    if len(first) > 1:
        del first[0]  # it has to find its memory
    yield {"train": statistics.mean(statistics.median(took[kind]) for kind in order) / n}
    if not _has_likelihood(family.params):
        yield {"score": 0.0}


def _used(family: Family, raw: dict[str, Any]) -> Iterator[dict[str, float]]:
    """What of a `Pace` is not its training's, one after the other."""
    spec = family.eval().spec
    now = _seconds_of(raw, family.device)

    def labels(n: int) -> np.ndarray:
        return np.arange(n) % spec.classes

    def draw(n: int) -> None:
        if isinstance(family, Samples):
            told = labels(n) if family.conditional else None
            drawing.draw(family, n, seed=0, batch=n, labels=told)
        elif isinstance(family, Translates):
            drawing.translate(family, _noise(family, n).numpy(), "ab", n)

    def score(n: int) -> None:
        shares = np.full(spec.classes, 1 / spec.classes)
        likelihood.measure(family, _noise(family, n).numpy(), labels(n), shares, seed=0, batch=n)

    drawn, took = _each(draw, params.section(raw, "sample").batch, now)
    yield {"draw": drawn}
    if _has_likelihood(family.params):
        yield {"score": _each(score, params.section(raw, "evaluate").batch, now)[0]}
    n = illustration.EXAMPLES
    if n * took > ENOUGH:
        yield {"show": n * drawn}  # most of them show samples on their way
        return
    given = Batch(_noise(family, n), torch.from_numpy(labels(n)), _noise(family, n))
    with cost.clocked(now) as clock:
        illustration.pictures(family, given, 0)
        yield {"show": clock.total}


class _Uncounted(Trainer):
    """Does not count operations, as of all its steps a real training does for a few."""

    def _count_one_step(self) -> None:
        pass


def _each(
    call: Callable[[int], None], most: int, now: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Seconds for an image, in all and without those for steps that a `cost.Clock` leaves out.

    Of as many images as can be tried, since what the first few take is mostly the same for any
    number of them; not the first time, which is slow.

    Args:
        call: does it for so many images.
        most: as many at a time.
        now: tells the seconds.
    """
    n, again = min(2, most), False
    while True:
        began = now()
        with cost.clocked(now) as clock:
            call(n)
            seconds = clock.total
        took = now() - began
        # Of many small steps those that are executed take little longer for many images.
        small = seconds > 2 * took
        more = most if small else min(most, max(2 * n, int(n * ENOUGH / took)))
        slow = took > SLOW if small else took > ENOUGH or (again and took * more / n > ENOUGH)
        if slow or (again and n == most):
            return seconds / n, took / n
        n, again = more, True


if __name__ == "__main__":
    main()
