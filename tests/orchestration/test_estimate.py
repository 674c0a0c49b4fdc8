import json

import pytest

from pipeline.core import paths
from pipeline.orchestration import estimate
from pipeline.orchestration.estimate import Durations, clock, left


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_was_measured_here_is_expected_again():
    durations = Durations()
    durations.took("train@vae", 12.0)
    durations.save()
    assert Durations().expected("train@vae") == 12.0


def test_what_is_unknown_is_guessed_by_its_operations():
    paths.MODEL_METRICS.mkdir(parents=True)
    for model, images in (("small", 1_000), ("large", 100_000)):
        facts = {"training_flops_per_image": 10_000_000, "images_seen": images}
        paths.model_metrics(model).write_text(json.dumps(facts))
    found = Durations()
    assert found.expected("train@large") > found.expected("train@small")
    assert found.expected("train@nobody") == estimate.TYPICAL["train"]


def test_guesses_follow_what_others_took():
    durations = Durations()
    before = durations.expected("evaluate@vae")
    durations.took("train@gan", 3 * estimate.guess("train@gan"))
    assert durations.expected("evaluate@vae") == pytest.approx(3 * before)


def test_short_stages_say_nothing_of_long_ones():
    durations = Durations()
    before = durations.expected("train@vae")
    durations.took("download", 0.1)
    assert durations.expected("train@vae") == before


def test_a_damaged_memory_is_none():
    paths.WORK.mkdir()
    paths.DURATIONS.write_text("{")
    assert Durations().known == {}


@pytest.mark.parametrize(
    ("chains", "slots", "seconds"),
    [
        ([], 2, 0.0),
        ([[1.0, 2.0], [4.0]], 1, 7.0),
        ([[1.0, 2.0], [4.0]], 2, 4.0),
        ([[5.0], [1.0], [1.0], [1.0]], 2, 5.0),
    ],
)
def test_chains_take_the_first_free_slot(chains, slots, seconds):
    assert left(chains, slots) == seconds


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (61, "1:01"), (3725, "1:02:05")])
def test_clocks(seconds, told):
    assert clock(seconds) == told
