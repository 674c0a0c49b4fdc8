"""Paces of models: what is measured in a process of its own, and what is remembered."""

import copy
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import TINY, Stub, tiny_model, tiny_params

from pipeline.core import cost, files, params, paths
from pipeline.core.images import ImageSpec
from pipeline.models import entries
from pipeline.orchestration import pace, plan
from pipeline.orchestration.estimate import Pace
from pipeline.orchestration.pace import Paces

ROOT = Path(__file__).parents[2]
RAW = params.read(ROOT / "params.yaml")
WALL = {**RAW, "runtime": {**RAW["runtime"], "threads": 2}}
"""With several threads the clock on the wall counts, also what a test sleeps."""
SPEC = ImageSpec(1, 8, 8, 10)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def small(*names):
    """params.yaml with these models, made small."""
    raw = copy.deepcopy(RAW)
    raw["models"] = {name: raw["models"][name] for name in names}
    raw["runtime"] |= {"device": "cpu"}
    raw["sample"]["batch"], raw["evaluate"]["batch"] = 8, 4
    for entry in raw["models"].values():
        entry["network"] |= TINY.get(entry["family"], {})
        if "steps" in entry["sampling"]:
            entry["sampling"]["steps"] = 3
    return raw


@pytest.fixture
def files_of(folder):
    return lambda: sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def test_models_of_all_kinds_are_measured_and_nothing_is_written(files_of):
    """One of each kind: alternating players, phases, a second domain, pixels in turn, chains."""
    names = ("wgan_gp", "began", "cyclegan", "gpt", "ddpm", "cvae", "ae")
    found = Paces(small(*names), SPEC)
    found.measure([plan.JUDGES, *names], 2)
    assert files_of() == []
    assert found[plan.JUDGES].train > 1
    for name in names:
        assert 0 < found[name].train < 1, name
        # An autoencoder draws from what is fitted when its training ends.
        assert name == "ae" or (0 < found[name].draw < 1 and found[name].show > 0), name
        likely = name in ("gpt", "ddpm", "cvae")
        assert (found[name].score > 0) == likely, name


def test_what_is_measured_is_remembered_for_the_same_model_alone():
    raw = small("vae", "gan")
    kept = Paces(raw, SPEC)
    kept.keep("vae", Pace(train=0.5))
    kept.keep("vae", Pace(draw=0.25))
    kept.save()
    assert Paces(raw, SPEC)["vae"] == Pace(train=0.5, draw=0.25)
    assert Paces(raw, SPEC)["gan"] == Pace()
    assert Paces(raw, ImageSpec(3, 8, 8, 10))["vae"] == Pace()
    for block, key, value, same in (
        ("models.vae.training", "images", 7, True),
        ("models.vae.training", "learning_rate", 0.5, True),
        ("train", "budget", 0.1, True),
        ("models.vae.training", "batch", 7, False),
        ("models.vae.network", "channels", 7, False),
        ("models.vae.scoring", "posterior_samples", 7, False),
        ("runtime", "threads", 2, False),
        ("sample", "batch", 7, False),
    ):
        other = copy.deepcopy(raw)
        inner = other
        for part in block.split("."):
            inner = inner[part]
        inner[key] = value
        assert (Paces(other, SPEC)["vae"].train == 0.5) == same, (block, key)


def test_a_pace_is_that_of_the_code(folder):
    raw = small("vae")
    files.write_text(folder / "pipeline/families/vae.py", "one")
    files.write_text(folder / "pipeline/blocks/nets.py", "one")
    kept = Paces(raw, SPEC)
    kept.keep("vae", Pace(train=0.5))
    kept.save()
    files.write_text(folder / "pipeline/families/gan.py", "another family's")
    assert Paces(raw, SPEC)["vae"] == Pace(train=0.5)
    for name in ("families/vae.py", "blocks/nets.py"):
        files.write_text(folder / "pipeline" / name, "two")
        assert Paces(raw, SPEC)["vae"] == Pace()
        files.write_text(folder / "pipeline" / name, "one")


@pytest.mark.parametrize(
    "value", ["null", "[]", "3", '{"train": "soon", "draw": -1}', '{"train": true}', "nonsense"]
)
def test_a_damaged_memory_is_none(value):
    raw = small("vae")
    kept = Paces(raw, SPEC)
    files.write_text(paths.PACES, f'{{"{kept._key("vae")}": {value}}}')
    again = Paces(raw, SPEC)
    assert again["vae"] == Pace()
    again.keep("vae", Pace(train=1.0))
    again.save()
    assert Paces(raw, SPEC)["vae"] == Pace(train=1.0)


def test_the_oldest_give_way_and_a_memory_that_cannot_be_written_is_no_error(monkeypatch):
    monkeypatch.setattr(pace, "KEPT", 2)
    raw = small("vae", "gan", "ae")
    kept = Paces(raw, SPEC)
    for name in ("vae", "gan", "vae", "ae"):
        kept.keep(name, Pace(train=1.0))
    kept.save()
    assert [Paces(raw, SPEC)[name].train for name in raw["models"]] == [1.0, None, 1.0]
    paths.PACES.unlink()
    paths.WORK.rmdir()
    paths.WORK.write_text("a file")
    kept.save()


def says(monkeypatch, code):
    monkeypatch.setattr(pace, "WORKER", (sys.executable, "-c", f"import sys, time\n{code}"))


def test_what_was_found_before_time_is_up_counts(monkeypatch):
    line = json.dumps(["vae", {"train": 0.5, "draw": None, "score": "fast"}])
    says(monkeypatch, f"print({line!r}, flush=True)\nprint('[\\n')\ntime.sleep(60)")
    monkeypatch.setattr(pace, "DEADLINE", 1.0)
    found, began = Paces(small("vae", "gan"), SPEC), time.monotonic()
    found.measure(["vae", "gan"], 2)
    assert time.monotonic() - began < 5
    assert found["vae"] == Pace(train=0.5) and found["gan"] == Pace()


def test_processes_are_ended_with_whoever_waits(monkeypatch, folder):
    says(monkeypatch, "time.sleep(60)")
    began = []

    def stopped(process, seconds):
        began.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(pace, "_said", stopped)
    with pytest.raises(KeyboardInterrupt):
        Paces(small("vae"), SPEC).measure(["vae"], 1)
    assert began[0].poll() is not None


class Slow(Stub):
    """Steps of two kinds in turn, of 2 and 6 hundredths of a second, and a slow first one."""

    def training_step(self, batch, update, rng):
        number = len(self.seen)
        time.sleep(0.2 if number == 0 else 0.02 + 0.04 * (number % 2))
        found = super().training_step(batch, update, rng)
        if number % 2:
            update("model", self.weight.sum())
        return found


def test_a_pace_is_the_mean_over_kinds_of_steps_without_the_first(monkeypatch):
    monkeypatch.setattr(pace, "ENOUGH", 10.0)
    (found, *_) = pace._trained(Slow(), WALL)
    assert found["train"] == pytest.approx(0.04 / 8, rel=0.3)


def test_a_step_that_takes_long_is_not_repeated(monkeypatch):
    monkeypatch.setattr(pace, "SLOW", 0.1)
    family = Slow()
    (found, *_) = pace._trained(family, WALL)
    assert len(family.seen) == 1 and found["train"] > 0.2 / 8


def test_what_else_the_machine_does_is_no_part_of_a_pace():
    family = Slow()  # as if it waited for a processor
    (found, *_) = pace._trained(family, RAW)
    assert found["train"] < 0.01 / 8 and len(family.seen) > 2


def test_judges_are_timed_by_kind_and_seed():
    raw = small("ae")
    cpu = torch.device("cpu")
    one = pace._judges(raw, SPEC, cpu)
    raw["judge"]["seeds"] = [*range(30)]
    assert pace._judges(raw, SPEC, cpu) == pytest.approx(10 * one, rel=0.7)
    raw["judge"]["classifier"]["steps"] = 100_000
    many = pace._judges(raw, SPEC, cpu)
    assert many > 10 * one
    # Where there is nothing to tell apart, there is one kind alone.
    assert pace._judges(raw, ImageSpec(1, 8, 8, 1), cpu) < many / 2


def test_phases_of_a_training_are_as_long_as_in_the_whole(monkeypatch):
    """Of 8 steps BEGAN's discriminator is alone in 5, as in 20,000 of 36,000 images."""
    monkeypatch.setattr(pace, "ENOUGH", 60.0)
    model = tiny_params("began", training={"images": 36_000, "batch": 16, "alone": 20_000})
    short = entries.scaled(model, pace.STEPS * 16 / 36_000)
    family = tiny_model("began", training=short.training.model_dump())
    list(pace._trained(family, RAW))
    assert family.seen == 5 * 16


@pytest.mark.parametrize(("start", "each"), [(0.0, 0.004), (0.02, 0.0005)])
def test_as_many_images_are_tried_as_time_allows(monkeypatch, start, each):
    monkeypatch.setattr(pace, "ENOUGH", 0.2)
    tried = []

    def call(n):
        tried.append(n)
        time.sleep(start + each * n)

    seconds, _ = pace._each(call, 100)
    n = tried[-1]
    assert n <= 100 and (start + each * n) <= 0.3 and tried[0] == 2 and len(tried) > 1
    assert seconds == pytest.approx(start / n + each, rel=0.5)


def test_of_steps_that_are_alike_few_are_waited_for():
    """1,000 steps, which take the same time for any number of images, and all of them at once."""
    tried = []

    def call(n):
        tried.append(n)
        for _ in cost.alike(1000):
            time.sleep(0.01)

    began = time.perf_counter()
    seconds, took = pace._each(call, 100)
    assert time.perf_counter() - began < 2
    assert tried == [2, 100]
    assert 0.09 < seconds < 0.4, "1,000 of 10 ms, or more where a machine wakes late, of 100 images"
    assert took < 0.02
