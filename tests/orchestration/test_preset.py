"""Presets set what params.yaml has, leave the rest, and replace each other without a trace."""

import subprocess
import sys
from pathlib import Path

import pytest
from params_files import COMMITTED, changed, validate
from ruamel.yaml import YAML

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.orchestration import estimate, params_text, preset

TEXT = COMMITTED.read_text()
RAW = params.read(COMMITTED)


def keys(name):
    return preset.values(name, RAW).keys()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(TEXT)


def test_28_is_the_committed_file():
    assert params_text.edited(TEXT, preset.values("28", RAW)) == TEXT
    assert preset.present(RAW) == "28"


@pytest.mark.parametrize("name", preset.names())
def test_every_preset_has_the_same_keys_which_are_those_of_the_file(name):
    assert keys(name) == keys("28")
    written = YAML(typ="safe").load((preset.FOLDER / f"{name}.yaml").read_text())
    assert len(list(preset._flat(written, written))) == len(keys(name))
    for model in RAW["models"]:
        assert f"models.{model}.training.images" in keys(name)


@pytest.mark.parametrize("name", preset.names())
def test_a_preset_is_valid_and_the_way_back_leaves_no_trace(name, tmp_path):
    made = params_text.edited(TEXT, preset.values(name, RAW))
    (tmp_path / "params.yaml").write_text(made)
    raw = params.read(tmp_path / "params.yaml")
    assert preset.present(raw) == name
    validate(tmp_path / "params.yaml")
    assert params_text.edited(made, preset.values("28", raw)) == TEXT


@pytest.mark.parametrize(
    ("size", "name"),
    [(8, "28"), (28, "28"), (32, "32"), (33, "64"), (90, "64"), (96, "128"), (1024, "128")],
)
def test_the_preset_follows_the_size(size, name):
    assert preset.of_size(size) == name
    assert name in preset.names()


@pytest.mark.parametrize(
    ("name", "size", "channels", "minutes"),
    [("32", 32, 3, 15), ("64", 64, 3, 55), ("128", 128, 3, 165)],
)
def test_a_preset_takes_no_longer_than_it_is_meant_to(name, size, channels, minutes):
    raw = params_text.with_values(RAW, preset.values(name, RAW))
    seconds = estimate.of_all(raw, ImageSpec(channels, size, size, 3), 5000, 1000, 2)
    assert minutes / 2 < seconds / 60 < minutes


def test_only_what_is_there_is_set(tmp_path):
    models = {"mine": RAW["models"]["vae"], "ae": {**RAW["models"]["ae"], "network": {}}}
    raw = params.read(changed(tmp_path, models=models))
    assert preset.values("64", raw) == {
        "sample.n": "auto",
        "sample.batch": 250,
        "evaluate.batch": 25,
        "models.ae.training.images": 18000,
        "models.ae.training.batch": 4,
        "models.ae.training.learning_rate": 0.0015,
        "models.ae.training.weight_decay": 0.2,
    }


def test_a_dry_run_shows_and_changes_nothing(here, capsys):
    preset.apply("64", validate, write=False)
    told = capsys.readouterr().out
    assert "@ models.vae.network\n-      latent: 24 " in told and "\n+      latent: 64 " in told
    assert "left as it was" in told
    assert Path("params.yaml").read_text() == TEXT
    preset.apply("64", validate)
    assert params.read()["models"]["vae"]["network"]["latent"] == 64
    assert capsys.readouterr().out.count("left as it was") == 0
    preset.apply("64", validate)
    assert "says so already" in capsys.readouterr().out


def test_what_would_be_refused_changes_nothing(here):
    text = TEXT.replace("name: mnist-5k ", "name: mnist-5l ")
    Path("params.yaml").write_text(text)
    with pytest.raises(PipelineError, match=r"data.name[\s\S]*params.yaml: left as it was"):
        preset.apply("64", validate)
    assert Path("params.yaml").read_text() == text
    assert not list(paths.WORK.glob("*"))
    with pytest.raises(PipelineError, match="unknown preset '33'; known: 28, 32, 64, 128"):
        preset.apply("33", validate)


def test_own_images_are_as_many_samples_as_there_are(here):
    Path("params.yaml").write_text(TEXT.replace('folder: "" ', "folder: x "))
    preset.apply("28", lambda path: None)
    assert params.read()["sample"]["n"] == "auto"


def test_what_a_preset_is_not_for_is_said(here, tmp_path, capsys):
    Path("params.yaml").write_text(
        TEXT.replace('folder: "" ', "folder: x ").replace("  ae:\n", "  mine:\n")
    )
    preset.apply("128", lambda path: None)
    told = capsys.readouterr().out
    assert "data.size = 64 stays as it is; preset 64 is meant for it" in told
    assert "that stay as they are: mine" in told


def test_the_command(here):
    command = (sys.executable, "-m", "pipeline", "preset", "64")
    done = subprocess.run(
        [*command, "--dry-run"],
        env={"PYTHONPATH": str(COMMITTED.parent), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "@ models.ae.network\n-      latent: 32 " in done.stdout
    assert Path("params.yaml").read_text() == TEXT
