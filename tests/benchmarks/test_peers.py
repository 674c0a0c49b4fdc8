import random
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contenders, page, peers, peers_page, results
from benchmarks.contenders import timing
from benchmarks.peers_page import time_to
from pipeline.core import params
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).parents[2]
PEERS = [each for each in contenders.KNOWN.values() if not each.ours]


class Clock:
    """Goes on when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(timing.Watch.__init__, "__defaults__", (found,))
    return found


class Steady:
    """Sees 8 images in each step of 2 seconds, and takes 100 seconds to draw."""

    parameters = network_evaluations = 1

    def __init__(self, clock, count):
        self.clock, self.left, self.seen = clock, count, 0

    def train(self, stepped):
        while self.left > 0:
            self.clock.now += 2
            self.seen += 8
            self.left -= 8
            stepped(8)

    def draw(self, n):
        self.clock.now += 100
        return np.full((n, 1, 2, 2), self.seen % 256, np.uint8)


def test_an_interrupted_training_is_drawn_from_at_its_times_and_goes_on(clock):
    made = []

    def make(count):
        made.append(Steady(clock, count))
        return made[-1]

    found = list(timing._interrupted(make, [3.0, 10.0], 5))
    assert len(made) == 1
    assert [facts["seconds"] for facts, _ in found] == [3.0, 10.0]
    assert [facts["trained_seconds"] for facts, _ in found] == [4.0, 10.0]
    assert [facts["images_seen"] for facts, _ in found] == [16, 40]
    assert [facts["images_per_second"] for facts, _ in found] == [4.0, 4.0]
    assert [drawn[0, 0, 0, 0] for _, drawn in found] == [16, 40]
    assert [len(drawn) for _, drawn in found] == [5, 5]


def test_a_scheduled_training_is_given_the_images_that_fit_into_each_time(clock):
    counts = []

    def make(count):
        counts.append(count)
        return Steady(clock, count)

    found = list(timing._each(make, [30.0, 60.0], 5))
    assert counts == [timing.FOREVER, 120, 240]  # 4 images a second
    assert [facts["trained_seconds"] for facts, _ in found] == [30.0, 60.0]
    assert [facts["images_seen"] for facts, _ in found] == [120, 240]


# --- time to quality -----------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [50.0, 33.3, 10.1, 7.0])
def test_a_power_of_time_is_hit_exactly(wanted):
    points = [(x, 900.0 / x) for x in (16.0, 64.0, 256.0)]
    found = time_to(wanted, points)
    assert found.how == "at"
    assert found.seconds == pytest.approx(900.0 / wanted)


def test_a_curve_that_is_there_at_first_has_no_more_than_its_first_time():
    assert time_to(12.0, [(30, 12.0), (60, 8.0)]) == peers_page.Reached(30, "by")


def test_a_curve_that_never_comes_there_has_more_than_its_last_time():
    assert time_to(7.9, [(30, 12.0), (60, 8.0)]) == peers_page.Reached(60, "after")


def test_the_first_time_counts_of_a_curve_that_rises_again():
    found = time_to(10.0, [(30, 20.0), (60, 5.0), (120, 50.0)])
    assert found.seconds == pytest.approx(30 * 2**0.5)  # half of the way, in logarithms


@pytest.mark.parametrize(
    ("seconds", "how", "told"), [(40, "at", "3.0"), (30, "by", "≥ 4.0"), (120, "after", "< 1.0")]
)
def test_ratios_are_told_with_what_is_known_of_them(seconds, how, told):
    assert peers_page.Reached(seconds, how).times(120) == told


# --- the page ------------------------------------------------------------------------------------


def row(name, seed, seconds, fid):
    return {
        "contender": name,
        "seed": seed,
        "seconds": seconds,
        "trained_seconds": seconds,
        "images_per_second": 1234.0,
        "images_seen": 5,
        "parameters": 678_901,
        "network_evaluations": 20,
        "seconds_per_sample": 0.0123,
        "fid": fid,
        "second_fid": 2 * fid,
        "coverage": 0.5,
    }


@pytest.fixture
def found():
    curves = {
        "ddpm": {30.0: 40.0, 60.0: 20.0, 120.0: 10.0},
        "torchcfm-unet": {30.0: 90.0, 60.0: 60.0, 120.0: 25.0},
        "diffusers-unet": {30.0: 80.0, 60.0: 50.0, 120.0: 30.0},
        "vae": {30.0: 9.0, 60.0: 8.0, 120.0: 7.0},
    }
    rows = [
        row(name, seed, seconds, fid * factor)
        for name, curve in curves.items()
        for seed, factor in ((0, 0.8), (1, 1.2))
        for seconds, fid in curve.items()
    ]
    random.Random(0).shuffle(rows)
    return {
        "dataset": "toy",
        "n_samples": 300,
        "packages": {"torchcfm": "1.0.7"},
        "real": {"fid": 0.71, "second_fid": 1.22, "coverage": 0.9},
        "rows": rows,
    }


def cells(text, title):
    """The cells of the rows that begin with a title."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() == title]


def test_the_page_has_means_ranges_and_the_race_against_the_best_peer(found):
    text = peers_page.part(found)
    row_of_it, race = cells(text, "ours: ddpm")
    assert row_of_it[1:6] == [
        *("678,901", "1,234"),
        *("40.0 (32.0..48.0)", "20.0 (16.0..24.0)", "10.0 (8.0..12.0)"),
    ]
    assert row_of_it[6:] == ["20.0", "12.3", "20"]
    # torchcfm ends at 25: between 30 s (40) and 60 s (20), at 30 * 1.6 seconds as FID ~ 1/t.
    assert race[1:] == ["torchcfm: OT flow", "25.0", "48", "2.5"]
    assert len(cells(text, "ours: vae")) == 1  # it has no peer here
    assert "0.71" in text and "torchcfm 1.0.7" in text


def test_the_picture_has_a_panel_for_each_kind_that_is_there(found, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    shown = []
    real = results.dress
    monkeypatch.setattr(
        results, "dress", lambda axes, **titles: (shown.append(axes), real(axes, **titles))
    )
    peers_page.draw(found)
    assert [axes.get_title() for axes in shown] == ["VAE", "diffusion and flows"]
    names = shown[1].get_legend_handles_labels()[1]
    assert sorted(names) == [
        *("diffusers: UNet2D + DDIM", "ours: ddpm", "real images", "torchcfm: OT flow")
    ]
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_the_page_is_made_without_measurements(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert page.text() == page.HEAD


# --- what is refused -----------------------------------------------------------------------------


def asked(**other):
    return Namespace(
        **{"one": None, "contenders": ["vae"], "seeds": [0], "seconds": [1.0], "samples": 20}
        | other
    )


def test_peers_that_are_not_installed_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr(
        contenders.metadata,
        "version",
        lambda name: (_ for _ in ()).throw(contenders.metadata.PackageNotFoundError(name)),
    )
    with pytest.raises(PipelineError) as refused:
        peers._chosen(list(contenders.KNOWN))
    told = str(refused.value)
    assert "\n" not in told
    for each in PEERS:
        assert (f"{each.name} ({each.package})" in told) == (each.package is not None)
    assert peers.INSTALL in told
    assert [each.name for each in peers._chosen(["vae", "dcgan-loop"])] == ["vae", "dcgan-loop"]


def test_what_installs_them_brings_every_package():
    import tomllib

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extra["optional-dependencies"]["bench"]) == {
        each.package for each in PEERS if each.package
    }
    assert "'.[bench]'" in peers.INSTALL and "'.[bench]'" in (ROOT / "Makefile").read_text()
    pinned = (ROOT / "constraints.txt").read_text()
    assert all(f"\n{each.package}==" in pinned for each in PEERS if each.package)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"contenders": ["vea"]}, "unknown contender 'vea'; did you mean 'vae'?"),
        ({"samples": 5}, "--samples 5: metrics need 6"),
        ({"seconds": [30.0, 0.0]}, "--seconds: must be above 0"),
        ({"seconds": [float("nan")]}, "--seconds: must be above 0"),
        ({"seeds": [-1]}, "--seeds: must be 0 or above"),
    ],
)
def test_arguments_without_a_meaning_are_refused(wrong, told):
    with pytest.raises(PipelineError, match=told.replace("?", r"\?")):
        peers.run(asked(**wrong))


# --- processes -----------------------------------------------------------------------------------


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    return [peers.Task("vae", seed, [1.0], 6, "0" * 16) for seed in range(5)]


def started(monkeypatch, script):
    """Have `peers._start` start a script, which is given the record that it should write.

    Returns the seeds of the tasks that were begun, with their processes.
    """
    begun = {}

    def start(task):
        command = [sys.executable, "-c", script, str(task.record), str(task.seed)]
        begun.setdefault(task.seed, []).append(subprocess.Popen(command))
        return begun[task.seed][-1]

    monkeypatch.setattr(peers, "_start", start)
    return begun


DONE = """
import json, sys
facts = {"seed": int(sys.argv[2]), "parameters": 1, "network_evaluations": 1}
open(sys.argv[1], "w").write(json.dumps([facts]))
"""


def test_what_is_there_is_not_measured_again(tasks, monkeypatch, capsys):
    begun = started(monkeypatch, DONE)
    peers._do_all(tasks[:2])
    peers._do_all(tasks)
    assert {seed: len(processes) for seed, processes in begun.items()} == dict.fromkeys(range(5), 1)
    assert "2 of 5 trainings are there" in capsys.readouterr().out
    other = peers.Task("vae", 0, [1.0], 6, "1" * 16)  # other code
    peers._do_all([other])
    assert len(begun[0]) == 2


def test_a_process_that_fails_ends_the_others_and_is_named(tasks, monkeypatch):
    fails = "import sys, time\nif sys.argv[2] == '1': sys.exit(3)\ntime.sleep(60)"
    begun = started(monkeypatch, fails)
    with pytest.raises(PipelineError, match="vae, seed 1: its process ended with exit code 3"):
        peers._do_all(tasks)
    assert list(begun) == [0, 1]
    assert begun[0][0].returncode < 0  # it was ended, and waited for


def test_the_code_of_a_contender_is_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "Store", lambda: Namespace(sha256="0"))
    before = {name: peers._code(each) for name, each in contenders.KNOWN.items()}
    assert len(set(before.values())) == len(before)
    raw = params.read()
    raw["models"]["vae"]["training"]["learning_rate"] = 0.5
    monkeypatch.setattr(params, "read", lambda: raw)
    after = {name: peers._code(each) for name, each in contenders.KNOWN.items()}
    assert [name for name in before if before[name] != after[name]] == ["vae"]


# --- contenders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [each.name for each in PEERS])
def test_a_peer_trains_and_draws(name):
    contender = contenders.KNOWN[name]
    if contender.missing:
        pytest.skip(f"{contender.package} is not installed; {peers.INSTALL}")
    images = np.random.default_rng(0).integers(256, size=(70, 1, 28, 28), dtype=np.uint8)
    with results.quiet():
        first, again = (timing.measure(contender, images, 3, [0.01], 7)[0] for _ in range(2))
    facts, drawn = first
    assert drawn.dtype == np.uint8 and drawn.shape == (7, 1, 28, 28)
    assert drawn.std() > 1
    assert facts["images_seen"] > 0 and facts["parameters"] > 100_000
    np.testing.assert_array_equal(drawn, again[1])
