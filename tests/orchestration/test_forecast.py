"""What is said of a run's time before it trains, and what would halve it."""

import copy
import re
from pathlib import Path

import pytest

from pipeline.core import files, params, paths
from pipeline.core.images import ImageSpec
from pipeline.datasets.sources import Expected
from pipeline.orchestration import estimate, forecast, plan, repro
from pipeline.orchestration.check_params import Images
from pipeline.orchestration.estimate import STARTING, Durations, Pace
from pipeline.orchestration.forecast import Forecast, Run, announce, halves

RAW = params.read(Path(__file__).parents[2] / "params.yaml")
HOME = paths.Results("toy")
SPEC = ImageSpec(3, 64, 64, 3)
EVERY = {"train": [180] * 3, "val": [20] * 3, "test": [50] * 3}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def known(**paces):
    """A forecast of params.yaml with so many seconds for each training image."""
    raw = copy.deepcopy(RAW)
    raw["sample"]["n"] = 100
    raw["runtime"]["device"] = "cpu"
    found = Forecast(raw, Images("toy", Expected(SPEC, EVERY)))
    for name, seconds in paces.items():
        found.paces.keep(name, Pace(train=seconds, draw=0.1, show=1.0, score=0.0))
    return found


def chains(*models):
    return {
        plan.DATA: ["download"],
        plan.JUDGES: ["judge"],
        **{name: [f"{kind}@{name}" for kind in ("train", "sample", "evaluate")] for name in models},
        plan.COMPARISON: ["compare", "report"],
    }


class Fixed:
    """Durations that a test chooses, by stage or by its kind."""

    def __init__(self, **seconds):
        self.seconds = seconds

    def expected(self, stage):
        return self.seconds.get(stage.replace("@", "_"), self.seconds.get(stage.split("@")[0], 0.0))


def test_a_pace_tells_of_each_stage():
    found = known(vae=0.01)
    images = RAW["models"]["vae"]["training"]["images"]
    assert found.measured("train@vae") == pytest.approx(STARTING + 0.01 * images)
    assert found.measured("sample@vae") == pytest.approx(STARTING + 0.1 * 100 + 1.0)
    looking = estimate.LOOKING * 1e-6 * 64 * 64 * 100
    assert found.measured("evaluate@vae") == pytest.approx(STARTING + looking)
    assert found.measured("train@gan") is None and found.measured("judge") is None


def test_half_the_budget_is_half_the_training_and_the_same_sampling():
    found = known(vae=0.01)
    before = {kind: found.measured(f"{kind}@vae") for kind in ("train", "sample")}
    found.raw["train"]["budget"] = 0.5
    assert found.measured("train@vae") - STARTING == pytest.approx((before["train"] - STARTING) / 2)
    assert found.measured("sample@vae") == before["sample"]


def test_what_is_measured_comes_before_what_was_and_that_before_guesses():
    found = known(vae=0.01)
    durations = Durations(HOME, found)
    durations.known = {"train@vae": 7.0, "train@gan": 8.0}
    assert durations.expected("train@vae") == found.measured("train@vae")
    assert durations.expected("train@gan") == 8.0
    assert durations.expected("train@ddpm") == found.rough("train@ddpm")


def test_what_a_run_takes_is_known_in_the_next_with_another_budget():
    found = known()
    durations = Durations(HOME, found)
    durations.took("train@vae", STARTING + 100.0)
    durations.took("sample@vae", 15.0)
    durations.took("judge", 50.0)
    again = known()
    assert again.measured("judge") == pytest.approx(50.0)
    assert again.measured("train@vae") == pytest.approx(STARTING + 100.0)
    assert again.measured("sample@vae") == pytest.approx(15.0)
    again.raw["train"]["budget"] = 0.1
    assert again.measured("train@vae") == pytest.approx(STARTING + 10.0)


def test_a_training_that_goes_on_says_nothing_of_a_whole_one():
    files.write_text(paths.checkpoint("vae", "0" * 64), "half of it")
    found = known()
    found.took("train@vae", 6.0)
    found.took("train@beta_vae", 105.0)
    assert found.measured("train@vae") is None
    assert found.measured("train@beta_vae") == pytest.approx(105.0)


def test_models_that_were_not_measured_follow_those_that_were(monkeypatch):
    found = known()
    before = found.rough("train@gan"), found.rough("train@vae")
    monkeypatch.setattr(
        found.paces,
        "measure",
        lambda models, slots: found.paces.keep(
            "vae", Pace(train=(3 * before[1] - STARTING) / estimate.images_of(found.raw, "vae"))
        ),
    )
    found.measure(["judge", "train@vae", "train@gan"], 2)
    assert found.rough("train@gan") == pytest.approx(3 * before[0])


def test_chains_of_models_run_beside_the_judges_and_between_data_and_comparison():
    durations = Fixed(
        download=10, judge=50, train_a=100, train_b=30, train_c=20, sample=5, compare=1, report=2
    )
    run = Run(chains("a", "b", "c"), durations, 2)
    # Judges, then b and c, in the one slot; a in the other.
    assert run.total() == 10 + (50 + 35 + 25) + 3
    assert run.total(without=["b"]) == 10 + 105 + 3
    assert run.longest()[0] == ("a", 105)
    assert Run(chains("a", "b", "c"), durations, 1).total() == 10 + 50 + 105 + 35 + 25 + 3


OWN = params.Data(name="folder", folder="photos", size=64)


def told(seconds, models="abcdef", data=OWN, budget=1.0):
    """What would halve a run, and the run."""
    run = Run(chains(*models), Fixed(**seconds), 2)
    return run, halves(run, budget, data)


@pytest.mark.parametrize("budget", [1.0, 0.3, 12.0])
def test_the_budget_that_is_told_halves_and_hardly_more(budget):
    run, found = told({"train": 400, "sample": 30, "evaluate": 20, "judge": 60}, budget=budget)
    value = float(re.match(r"train\.budget: (\S+)$", found[0])[1])
    half = run.total() / 2
    assert 0.9 * half < run.total(budget=value / budget) <= half
    assert 0 < value / budget < 0.5


def test_a_budget_cannot_halve_what_is_mostly_sampling():
    run, found = told({"train": 100, "sample": 300})
    assert not any(each.startswith("train.budget") for each in found)
    least = estimate.roughly(run.total(budget=0.0))
    assert found[-1] == f"not train.budget alone, as about {least} are no training"


def test_smaller_images_are_named_where_they_can_be_chosen():
    seconds = {"train": 400, "sample": 30}
    run, found = told(seconds)
    then = run.total(pixels=0.25)
    assert then < run.total() / 2
    wanted = f"data.size: 32, about {estimate.roughly(then)} by the number of pixels"
    assert wanted in found
    for data in (params.Data(), OWN.model_copy(update={"size": 32})):
        assert not any("data.size" in each for each in told(seconds, data=data)[1])


def test_the_fewest_models_that_halve_it_are_left_out():
    seconds = {"train_a": 500, "train_b": 400, "train": 80}
    run, found = told(seconds, models="abcdefgh")
    assert "without a and b: MODELS=c,d,e,f,g,h" in found
    assert run.total(without=["a", "b"]) <= run.total() / 2 < run.total(without=["a"])
    # Where all take the same, half of them would have to go.
    assert not any("without" in each for each in told({"train": 80}, models="abcdefgh")[1])


@pytest.fixture
def never(monkeypatch):
    def measure(self, models, slots):
        raise AssertionError("measured")

    monkeypatch.setattr(forecast.Paces, "measure", measure)


def test_without_a_training_nothing_is_said(never, capsys):
    announce(known(), {"vae": ["sample@vae", "evaluate@vae"]}, HOME, 2)
    announce(None, chains("vae"), HOME, 2)
    assert capsys.readouterr().out == ""


def test_a_short_run_is_guessed(never, capsys):
    announce(known(), chains("ae"), HOME, 2)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("This will take about ") and "(roughly, as on another machine)" in said


def test_what_is_known_is_not_measured_again(never, capsys):
    found = known(vae=0.1, gan=0.001)
    found.paces.keep(plan.JUDGES, Pace(train=60.0))
    announce(found, chains("vae", "gan"), HOME, 2)
    said = " ".join(capsys.readouterr().out.split())
    hour = estimate.roughly(known(vae=0.1).measured("train@vae") + 40)
    assert f"This will take about {hour}, 2 models at a time and nothing else computing; " in said
    assert f"longest: vae {hour}, gan " in said
    assert "roughly" not in said and "Half of that: train.budget: 0.4" in said


def test_a_long_run_is_measured_first(monkeypatch, capsys):
    asked = []

    def measure(self, models, slots):
        asked.append((models, slots))
        self.keep(plan.JUDGES, Pace(train=60.0))
        self.keep("ddpm", Pace(train=0.1, draw=0.1, show=1.0, score=0.1))

    monkeypatch.setattr(forecast.Paces, "measure", measure)
    announce(known(vae=0.01), chains("ddpm", "vae", "gpt"), HOME, 2)
    assert asked == [([plan.JUDGES, "ddpm", "gpt"], 2)]
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Measuring how fast these models are here, half a minute at most ... ")
    assert "longest: ddpm 85 minutes" in said
    assert "; not measured, being slow, and guessed by the others: gpt." in said
    assert known().measured("train@ddpm") > 5000  # the next run knows


def test_where_measuring_fails_guesses_are_left(never, capsys):
    announce(known(), chains("ddpm", "vae", "gpt"), HOME, 2)
    assert "This will take about " in capsys.readouterr().out


def test_a_run_does_not_depend_on_it(monkeypatch, capsys):
    assert forecast.prepared({"data": {"name": "nowhere"}}) is None
    monkeypatch.setattr(forecast, "_told", lambda *_: 1 / 0)
    announce(known(), chains("vae"), HOME, 2)
    assert capsys.readouterr().out == ""


def test_it_is_said_before_anything_runs(monkeypatch):
    order = []
    files.write_text(paths.PARAMS, "data: {title: toy}\nmodels: {vae: {}}")
    files.write_text(paths.DVC_LOCK, "schema: '2.0'\nstages: {}\n")
    monkeypatch.setattr(forecast, "announce", lambda *_: order.append("said"))

    class Slots:
        def run(self, arguments, line):
            order.append(arguments[-1])
            return 0

    repro._run({"vae": ["train@vae", "evaluate@vae"]}, Slots(), None, 2, False, False, "")
    assert order == ["said", "evaluate@vae"]
