"""A run that ends in so many minutes: what is proposed, refused and written."""

import copy
from pathlib import Path

import pytest

from pipeline import __main__ as cli
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.sources import Expected
from pipeline.orchestration import estimate, forecast, plan, time_budget
from pipeline.orchestration.check_params import Images
from pipeline.orchestration.estimate import Pace
from pipeline.orchestration.forecast import Forecast, Run
from pipeline.orchestration.time_budget import fitted, values

RAW = params.read(Path(__file__).parents[2] / "params.yaml")
TEXT = (Path(__file__).parents[2] / "params.yaml").read_text()
IMAGES = Images(
    "toy", Expected(ImageSpec(1, 28, 28, 10), {s: [50] * 10 for s in ("train", "val", "test")})
)


STARTING = 5.0


@pytest.fixture(autouse=True)
def _starting(monkeypatch):
    """The numbers below are of stages that take so long to start, as where none is a copy."""
    for module in (estimate, forecast):
        monkeypatch.setattr(module, "STARTING", STARTING)


class Fixed:
    def __init__(self, seconds):
        self.seconds = seconds

    def expected(self, stage):
        return self.seconds.get(stage, 0.0)


def run(slots=2, **trainings):
    """A run whose models take so long to train, and each 5 seconds to start and 10 to score."""
    kinds = ("train", "evaluate")
    chains = {name: [f"{kind}@{name}" for kind in kinds] for name in trainings}
    seconds = {f"train@{name}": STARTING + each for name, each in trainings.items()}
    seconds |= {f"evaluate@{name}": 10.0 for name in trainings} | {"download": 4.0, "report": 6.0}
    every = {plan.DATA: ["download"], **chains, plan.COMPARISON: ["report"]}
    return Run(every, Fixed(seconds), slots)


def test_trainings_of_one_slot_fill_the_time_exactly():
    # 10 s of data and report, 2 * 15 s that no training is: 60 s of 100 are for 120 s of trainings.
    found = fitted(run(slots=1, vae=40.0, gan=80.0), 100.0)
    assert found.budget == pytest.approx(0.5, rel=1e-6) and found.images == {}
    assert found.seconds == pytest.approx(100.0)


def test_what_takes_longer_than_the_whole_run_is_cut_and_the_others_fill_the_rest():
    long = run(slots=2, ddpm=1000.0, vae=100.0, gan=100.0)
    found = fitted(long, 125.0)
    # 115 s beside data and report: 100 of training for ddpm; 85 in all for the other two.
    assert found.budget == pytest.approx(0.425, rel=1e-6)
    assert found.images == pytest.approx({"ddpm": 0.1 / found.budget}, rel=1e-6)
    assert found.seconds == pytest.approx(125.0)
    assert long.total(budget=found.budget, images=found.images) == pytest.approx(125.0)


@pytest.mark.parametrize("seconds", [40.5, 60.0, 300.0, 5000.0])
@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_no_run_is_longer_than_asked_and_none_could_be_trained_more(seconds, slots):
    every = run(slots, a=7.0, b=300.0, c=41.0, d=0.5)
    found = fitted(every, seconds)
    if slots == 1 and seconds < 70:
        assert found is None, "4 models of 15 s beside data and report"
        return
    if found is None:
        assert every.total(budget=0.0) > seconds
        return
    assert found.seconds <= seconds + 1e-6
    if found.budget < time_budget.MOST:
        more = 1.01 * found.budget
        assert not time_budget._fits(every, more, seconds)


def test_where_not_even_scores_fit_nothing_is_proposed():
    assert fitted(run(slots=1, vae=40.0, gan=80.0), 39.0) is None
    assert fitted(run(slots=2, vae=40.0), 24.9) is None
    assert fitted(run(slots=2, vae=40.0), 25.1) is not None


def test_images_are_whole_and_other_counts_keep_their_share():
    raw = copy.deepcopy(RAW)
    raw["train"]["budget"] = 0.5
    said = values(raw, time_budget.Fitted(0.333, {"began": 0.5, "vae": 0.123}, 1.0))
    assert said["train.budget"] == 0.16
    assert said["models.vae.training.images"] == 4100
    began = RAW["models"]["began"]["training"]
    assert said["models.began.training.images"] == began["images"] / 2
    assert said["models.began.training.alone"] == began["alone"] / 2
    assert all(isinstance(n, int) for key, n in said.items() if key != "train.budget")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """params.yaml, whose models all have a pace that is known."""
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text(TEXT)
    raw = params.read()
    known = Forecast(raw, IMAGES)
    for name in raw["models"]:
        known.paces.keep(name, Pace(train=0.002, draw=0.001, show=0.0, score=0.0))
    known.paces.keep(plan.JUDGES, Pace(train=10.0))
    monkeypatch.setattr(forecast, "prepared", lambda raw: known)
    return known


def test_the_command_shows_and_on_write_it_writes(here, capsys):
    assert cli.main(["plan", "--minutes", "8", "--jobs", "2"]) == 0
    told = capsys.readouterr().out
    assert "2 models at a time" in told and "With this, about 8 minutes" in told
    assert "@ train\n-  budget: 1.0" in told and "left as it was" in told
    assert paths.PARAMS.read_text() == TEXT
    assert cli.main(["plan", "--minutes", "8", "--jobs", "2", "--write"]) == 0
    budget = params.section(params.read(), "train").budget
    assert 0 < budget < 1 and f"+  budget: {budget}" in capsys.readouterr().out


def test_what_could_not_be_measured_is_named_the_judges_too(here, monkeypatch, capsys):
    known = here.known
    slow = {plan.JUDGES, "vae"}
    monkeypatch.setattr(
        here, "known", lambda stage: known(stage) and forecast.whose(stage) not in slow
    )
    monkeypatch.setattr(here, "measure", lambda stages, slots: None)
    assert cli.main(["plan", "--minutes", "8", "--jobs", "2"]) == 0
    told = capsys.readouterr().out
    assert f"guessed by the others: {plan.JUDGES}, vae." in told


def test_too_little_time_is_one_line_that_says_what_would_help(here, capsys):
    assert cli.main(["plan", "--minutes", "0.5", "--jobs", "1", "--write"]) == 1
    told = capsys.readouterr().err
    assert "--minutes 0.5: data, judges, samples and scores of 20 models take" in told
    assert "lower sample.n" in told and len(told.splitlines()) == 1
    assert paths.PARAMS.read_text() == TEXT


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "inf"])
def test_minutes_that_are_none_are_refused(here, text, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", "--minutes", text])
    assert caught.value.code == 2
    assert "must be a number of minutes, above 0" in capsys.readouterr().err


def test_images_that_nobody_knows_yet_are_told(here, monkeypatch):
    monkeypatch.setattr(forecast, "prepared", lambda raw: None)
    with pytest.raises(PipelineError, match="nothing is known of the images"):
        time_budget.propose(8, 1, lambda path: None, write=False)
