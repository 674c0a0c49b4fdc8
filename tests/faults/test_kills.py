"""Stages that are killed or stopped at any point, and what the next run makes of what is left.

A process is killed right before a change that it makes on the disk (of which a training of three
checkpoints makes 30: before, inside and after the writing of a checkpoint, and while weights and
curve are put in their places), within the writing of tensors or an array, and at random times.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from faults import harness

from pipeline.core import tensors

pytestmark = pytest.mark.slow
OUTPUTS = {
    "download": ("data/raw",),
    "preprocess": ("data/processed",),
    "domains": ("data/domains",),
    "judge": ("data/judge",),
    "reference": ("metrics/mnist-5k/reference.json",),
    "train": ("data/models/{}", "metrics/mnist-5k/curves/{}.csv"),
    "sample": ("data/samples/{}", "metrics/mnist-5k/pictures/{}"),
    "evaluate": ("data/scores/{}", "metrics/mnist-5k/models/{}.json"),
}
TORN = {"train": 4, "sample": 1, "evaluate": 1, "judge": 1, "preprocess": 6, "domains": 9}
"""How many times a stage writes tensors or an array, at the least."""


class Workshop:
    """A small project with its data, in which stages are run without DVC."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = harness.small(folder, harness.FAMILIES).folder
        self.whole = {}
        for stage in ("download", "preprocess", "domains", "judge"):
            self.run(f"stages.{stage}").succeeded()

    def run(self, *command, **options):
        return self.server.call(self.folder, *command, **options)

    def outputs(self, stage, model):
        return [self.folder / each.format(model) for each in OUTPUTS[stage]]

    def undisturbed(self, stage, model=""):
        """What a run without faults leaves, and how often it changes the disk."""
        if (stage, model) not in self.whole:
            record = self.folder / "work" / "record"
            record.parent.mkdir(exist_ok=True)
            self.run(*self.command(stage, model), record=str(record)).succeeded()
            steps = [line for line in record.read_text().splitlines() if "/record" not in line]
            record.unlink()
            left = harness.hashes(*self.outputs(stage, model))
            assert left
            assert harness.temporaries(self.folder) == []
            self.whole[stage, model] = left, len(steps)
        return self.whole[stage, model]

    @staticmethod
    def command(stage, model):
        return [f"stages.{stage}", *([model] if model else [])]

    def kill(self, stage, model, chance, how):
        """Run a stage that is killed, then run it again; fail unless that makes up for it.

        Whether it was killed: where nothing is replaced, it changes the disk less often.
        """
        left, _ = self.undisturbed(stage, model)
        if chance.random() < 0.5:  # DVC removes what was there; who calls a stage does not
            for path in self.outputs(stage, model):
                harness.remove(path)
        told = f"{stage} {model} {how}, FAULT_SEED={harness.SEED}"
        done = self.run(*self.command(stage, model), **how)
        assert done.code in (0, -signal.SIGKILL), f"{told}\n{done}"
        again = self.run(*self.command(stage, model))
        assert again.code == 0, f"{told}\n{again}"
        again.calm()
        assert not again.warnings, f"{told}\n{again}"
        assert harness.hashes(*self.outputs(stage, model)) == left, told
        assert harness.temporaries(self.folder) == [], told
        return done.code != 0


@pytest.fixture(scope="module")
def workshop(server, tmp_path_factory):
    return Workshop(server, tmp_path_factory.mktemp("kills") / "project")


def points(chance, stage, changes, most):
    """Ways to kill a stage: at changes of the disk, all or some, and within writes."""
    places = list(range(1, changes + 1))
    places = places if len(places) <= most else sorted(chance.sample(places, most))
    yield from ({"kill_at": place} for place in places)
    for _ in range(3 if stage in TORN else 0):
        yield {"torn": [chance.randint(1, TORN[stage]), chance.random()]}


@pytest.mark.parametrize("model", harness.FAMILIES)
def test_a_training_that_is_killed_ends_as_one_that_was_not(workshop, model, chance, count):
    _, changes = workshop.undisturbed("train", model)
    every = model in ("vae", "vqvae")  # trainings of one part and of two
    for how in points(chance, "train", changes, changes if every else 8):
        count("kills of trainings", workshop.kill("train", model, chance, how))
    for _ in range(2):
        how = {"kill_after": chance.uniform(0.05, 0.4)}
        count("kills of trainings", workshop.kill("train", model, chance, how))


@pytest.mark.parametrize("model", harness.FAMILIES)
def test_a_training_that_is_killed_again_and_again_ends_the_same(workshop, model, chance, count):
    left, changes = workshop.undisturbed("train", model)
    for path in workshop.outputs("train", model):
        harness.remove(path)
    for _ in range(3):
        done = workshop.run("stages.train", model, kill_at=chance.randint(3, changes // 2))
        assert done.code in (0, -signal.SIGKILL), done
        count("kills of trainings")
    workshop.run("stages.train", model).succeeded()
    assert harness.hashes(*workshop.outputs("train", model)) == left
    assert harness.temporaries(workshop.folder) == []


@pytest.mark.parametrize("model", ["dcgan", "vae", "cyclegan"])
@pytest.mark.parametrize("stage", ["sample", "evaluate"])
def test_what_a_killed_stage_left_is_made_good(workshop, stage, model, chance, count):
    workshop.undisturbed("train", model)
    workshop.undisturbed("sample", model)
    _, changes = workshop.undisturbed(stage, model)
    for how in points(chance, stage, changes, 6):
        if stage == "evaluate" and model != "vae" and "torn" in how:
            continue  # it writes no array
        count(f"kills of {stage}", workshop.kill(stage, model, chance, how))


@pytest.mark.parametrize("stage", ["download", "preprocess", "domains", "judge", "reference"])
def test_what_a_killed_stage_of_the_data_left_is_made_good(workshop, stage, chance, count):
    _, changes = workshop.undisturbed(stage)
    for how in points(chance, stage, changes, 6):
        count(f"kills of {stage}", workshop.kill(stage, "", chance, how))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("stage", "model"), [("train", "dcgan"), ("sample", "vae"), ("judge", "")])
def test_a_stage_that_is_stopped_says_so_and_leaves_nothing(
    workshop, stage, model, name, chance, count
):
    if stage == "sample":
        workshop.undisturbed("train", model)
    left, _ = workshop.undisturbed(stage, model)
    for _ in range(4):
        for path in workshop.outputs(stage, model):
            harness.remove(path)
        longest = {"judge": 1.2}.get(stage, 0.35)
        how = {"kill_after": chance.uniform(0.03, longest), "interrupt": getattr(signal, name)}
        done = workshop.run(*workshop.command(stage, model), **how)
        told = f"{how}, FAULT_SEED={harness.SEED}\n{done}"
        assert harness.temporaries(workshop.folder) == [], told
        if done.code != 0:  # else it was done before it was told
            assert done.code == 130, told
            assert done.calm().err.splitlines()[-1] == "stopped", told
            assert not done.errors, told
            count(f"{name}s")
        workshop.run(*workshop.command(stage, model)).succeeded()
        assert harness.hashes(*workshop.outputs(stage, model)) == left, told


def test_an_interrupt_while_tensors_are_read_is_no_damage(tmp_path, count):
    """Libraries in other languages may turn an interrupt into an error of theirs.

    Taken for damage it would set a good checkpoint aside, and the interrupt would be lost.
    """
    path = tmp_path / "some.safetensors"
    tensors.save(path, {f"{place}": torch.zeros(50, 50) for place in range(40)})
    tensors.load(path, "")
    began = time.perf_counter()
    tensors.load(path, "")
    whole = time.perf_counter() - began
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for place in range(300):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, whole * place / 300))
                tensors.load(path, "delete it")
                time.sleep(10)
            count("interrupts of reading")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def process(folder, *command):
    """A process of its own, started as a person or DVC would."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def longer(server, tmp_path_factory):
    """A project whose model takes some seconds to train, and what comes of it."""
    clone = harness.small(tmp_path_factory.mktemp("longer") / "project", ("vae",))
    clone.params["train"]["budget"] = 50
    clone.write_params()
    for stage in ("download", "preprocess"):
        server.call(clone.folder, f"stages.{stage}").succeeded()
    outputs = [clone.folder / each.format("vae") for each in OUTPUTS["train"]]
    server.call(clone.folder, "stages.train", "vae").succeeded()
    left = harness.hashes(*outputs)
    for path in outputs:
        harness.remove(path)
    return clone.folder, outputs, left


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT", "SIGTERM"])
@pytest.mark.parametrize("moment", ["while it starts", "while it trains"])
def test_a_real_process_goes_on_where_it_was_ended(longer, server, name, moment, chance, count):
    folder, outputs, left = longer
    shutil.rmtree(folder / "work", ignore_errors=True)
    with process(folder, "stages.train", "vae") as child:
        if moment == "while it starts":
            time.sleep(chance.uniform(0.3, 1.0))
        else:
            deadline = time.monotonic() + 60
            while not list((folder / "work").glob("vae-*.ckpt")) and child.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
        child.send_signal(getattr(signal, name))
        out, err = child.communicate(timeout=60)
    count("real processes")
    done = harness.Done(["stages.train", "vae", name], child.returncode, out, err)
    assert done.code != 0, "it was faster; give it more to do"
    # What is asked to end before its first line of Python has run says nothing.
    silent = [-signal.SIGTERM] if moment == "while it starts" else []
    ends = [-signal.SIGKILL] if name == "SIGKILL" else [130, *silent]
    assert done.code in ends, done
    done.calm()
    if done.code == 130:
        assert done.err.splitlines()[-1] == "stopped", done
    if name != "SIGKILL":
        assert harness.temporaries(folder) == []
    server.call(folder, "stages.train", "vae").succeeded()
    assert harness.hashes(*outputs) == left
    assert harness.temporaries(folder) == []
    for path in outputs:
        harness.remove(path)
