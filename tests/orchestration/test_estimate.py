import json

import pytest

from pipeline.core import files, paths
from pipeline.orchestration import estimate
from pipeline.orchestration.estimate import Durations, clock, left

HOME = paths.Results("toy")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_was_measured_here_is_expected_again():
    durations = Durations(HOME)
    durations.took("train@vae", 12.0)
    durations.save()
    assert Durations(HOME).expected("train@vae") == 12.0


def test_what_is_unknown_is_guessed_by_its_operations():
    HOME.models.mkdir(parents=True)
    for model, images in (("small", 1_000), ("large", 100_000)):
        facts = {"training_flops_per_image": 10_000_000, "images_seen": images}
        HOME.model_metrics(model).write_text(json.dumps(facts))
    found = Durations(HOME)
    assert found.expected("train@large") > found.expected("train@small")
    assert found.expected("train@nobody") == estimate.TYPICAL["train"]


def test_guesses_follow_what_others_took():
    durations = Durations(HOME)
    before = durations.expected("evaluate@vae")
    durations.took("train@gan", 3 * estimate.guess("train@gan", HOME))
    assert durations.expected("evaluate@vae") == pytest.approx(3 * before)


def test_short_stages_say_nothing_of_long_ones():
    durations = Durations(HOME)
    before = durations.expected("train@vae")
    durations.took("download", 0.1)
    assert durations.expected("train@vae") == before


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[1]", '"a"', "\x00", '{"a": NaN}', "9" * 5000),
        *(f'{{"train@vae": {value}}}' for value in ('"1"', "true", "-1", "null", "1e300")),
    ],
)
def test_a_damaged_memory_is_none_and_is_made_anew(text):
    files.write_text(paths.DURATIONS / f"{HOME.title}.json", text)
    durations = Durations(HOME)
    assert durations.known == {}
    durations.took("train@vae", 3.0)
    durations.save()
    assert Durations(HOME).known == {"train@vae": 3.0}


def test_of_a_damaged_memory_the_rest_is_known():
    text = '{"train@vae": 3.0, "judge": "soon"}'
    files.write_text(paths.DURATIONS / f"{HOME.title}.json", text)
    assert Durations(paths.Results("other")).known == {}
    assert Durations(HOME).known == {"train@vae": 3.0}


def test_a_memory_that_cannot_be_written_is_no_error():
    paths.WORK.write_text("a file")
    durations = Durations(HOME)
    durations.took("train@vae", 3.0)
    durations.save()


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "null", '{"images_seen": 3}'),
        '{"training_flops_per_image": "many", "images_seen": 3}',
        '{"training_flops_per_image": -5, "images_seen": 3}',
    ],
)
def test_damaged_metrics_are_no_guide(text):
    HOME.models.mkdir(parents=True)
    HOME.model_metrics("vae").write_text(text)
    assert estimate.guess("train@vae", HOME) == estimate.TYPICAL["train"]


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
