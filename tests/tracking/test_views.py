import base64
import json
import zlib

from tracked import client, track
from tracked import fresh as fresh
from tracked import migrated as migrated
from tracked import project as project

from pipeline.tracking import mirror
from pipeline.tracking import views as tracking_views


def test_experiment_explains_the_metrics_and_shows_them(project):
    track()
    (experiment,) = [each for each in client().search_experiments() if each.name != "Default"]
    assert experiment.name == "mnist-5k · a1b2c3d4"
    note = experiment.tags["mlflow.note.content"]
    assert all(f"`{key}`" in note for key in tracking_views.COLUMNS)
    start = "http://x/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey="
    assert mirror.view_urls("http://me:secret@x/", "7") == {
        "Leaderboard": f"{start}leaderboard".replace("//x", "//***@x"),
        "Families": f"{start}families&compareRunsMode=CHART".replace("//x", "//***@x"),
    }
    states = {}
    for name in ("leaderboard", "families"):
        view = json.loads(experiment.tags[f"mlflow.sharedViewState.{name}"])
        kind, _, packed = view["state"].partition(";")
        assert kind == "deflate"
        states[name] = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert states["leaderboard"]["runsHiddenMode"] == "SHOW_ALL"
    charts = states["families"]["compareRunCharts"]
    sections = {each["uuid"] for each in states["families"]["compareRunSections"]}
    assert {each["metricSectionId"] for each in charts} < sections
    assert len({each["uuid"] for each in charts}) == len(charts)
    assert {each["type"] for each in charts} == {"BAR", "SCATTER", "IMAGE", "LINE"}
