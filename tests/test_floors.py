import json
from pathlib import Path

import pytest

from pipeline import files, floors, paths
from pipeline.errors import PipelineError


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_json(paths.model_metrics("vae"), {"bits_per_dim": 1.3, "fid": None})
    Path("floors.json").write_text(json.dumps({"vae": {"bits_per_dim": 1.38}}))


def set_floors(value):
    Path("floors.json").write_text(json.dumps(value))


def test_a_result_at_its_floor_passes(results):
    set_floors({"vae": {"bits_per_dim": 1.3}})
    floors.check("floors.json")


@pytest.mark.parametrize(
    "value",
    [{"vae": {"bits_per_dim": 1.29}}, {"vae": {"fid": 10}}, {"gone": {"fid": 10}}],
)
def test_a_missed_floor_a_null_and_a_missing_model_fail(results, value):
    set_floors(value)
    with pytest.raises(PipelineError):
        floors.check("floors.json")


def test_nan_never_passes(results):
    paths.model_metrics("vae").write_text('{"bits_per_dim": NaN}')
    with pytest.raises(PipelineError, match="nan"):
        floors.check("floors.json")


def test_a_file_that_is_no_json_is_told(results):
    Path("floors.json").write_text("{")
    with pytest.raises(PipelineError, match=r"floors\.json"):
        floors.check("floors.json")
