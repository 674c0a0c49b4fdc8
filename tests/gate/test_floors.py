import json
from pathlib import Path

import pytest

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.gate import floors


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_json(paths.model_metrics("vae"), {"bits_per_dim": 1.3, "fid": None, "right": 0.9})
    Path("floors.json").write_text(json.dumps({"vae": {"at_most": {"bits_per_dim": 1.38}}}))


def set_floors(value):
    Path("floors.json").write_text(json.dumps(value))


def test_a_result_at_its_floor_passes(results):
    set_floors({"vae": {"at_most": {"bits_per_dim": 1.3}, "at_least": {"right": 0.9}}})
    floors.check("floors.json")


@pytest.mark.parametrize(
    "value",
    [
        {"vae": {"at_most": {"bits_per_dim": 1.29}}},
        {"vae": {"at_least": {"right": 0.91}}},
        {"vae": {"at_most": {"fid": 10}}},
        {"gone": {"at_most": {"fid": 10}}},
    ],
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


def test_a_limit_of_an_unknown_kind_is_refused_and_not_passed_over(results):
    set_floors({"vae": {"atmost": {"bits_per_dim": 1.29}}})
    with pytest.raises(PipelineError, match=r"vae\.atmost: must be at_most or at_least"):
        floors.check("floors.json")
