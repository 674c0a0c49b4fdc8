import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core import owned, paths
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    (folder / "data" / "raw").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("data/raw", "is data/raw"),
        ("data/raw/photos", "lies in data/raw"),
        ("data", "contains data/"),
        (".", "contains data/"),
        ("..", "contains data/"),
        ("/", "contains data/"),
        ("data/models/vae", "lies in data/models"),
        ("data/mine/../raw", "is data/raw"),
        ("metrics/models/vae.json", "lies in metrics"),
        ("work", "is work"),
        ("work/gate", "lies in work"),
        (".dvc/cache", "lies in .dvc"),
        ("mlflow.db", "is mlflow.db"),
    ],
)
def test_what_the_tools_remove_is_refused(project, path, how):
    for each in (Path(path), project / path):
        with pytest.raises(PipelineError) as caught:
            owned.refuse(each, "params.yaml: data.folder")
        assert f"params.yaml: data.folder = {str(each)!r}: it {how}" in str(caught.value)


@pytest.mark.parametrize("path", ["photos", "data/mine", "../photos", "data/raw.old", "workshop"])
def test_what_is_the_users_is_not(project, path):
    owned.refuse(Path(path), "params.yaml: data.folder")


def test_links_are_followed_both_ways(project, tmp_path):
    Path("photos").symlink_to("data/raw")
    with pytest.raises(PipelineError, match="it is data/raw"):
        owned.refuse(Path("photos"), "x")
    (tmp_path / "disk").mkdir()
    Path("metrics").symlink_to(tmp_path / "disk")
    with pytest.raises(PipelineError, match="it is metrics"):
        owned.refuse(tmp_path / "disk", "x")
    Path("loop").symlink_to("loop")
    owned.refuse(Path("loop"), "x")


def test_what_is_meant_for_it_is_allowed(project):
    owned.refuse(Path("work/gate"), "--out", allow=(paths.WORK,))


def test_no_path_is_a_mistake_and_no_traceback(project):
    with pytest.raises(PipelineError, match="not a path"):
        owned.refuse(Path("a\0b"), "x")


def test_every_output_of_the_graph_is_owned():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    outputs = []
    for stage in stages.values():
        body = stage.get("do", stage)
        for kind in ("outs", "metrics", "plots"):
            outputs += [next(iter(o)) if isinstance(o, dict) else o for o in body.get(kind, [])]
    assert len(outputs) > 10
    for output in outputs:
        path = Path(output.replace("${key}", "vae"))
        assert any(path.is_relative_to(each) for each in owned.OWNED), output


def test_hard_linked_and_renamed_files_are_the_same(project):
    Path("mlflow.db").write_text("")
    os.link("mlflow.db", "other.db")
    with pytest.raises(PipelineError):
        owned.refuse(Path("other.db"), "x")
