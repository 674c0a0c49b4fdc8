import json
from pathlib import Path

import pytest

from pipeline import __main__ as cli
from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.gate import floors

HOME = paths.Results("toy")

METRICS = {
    "model": "vae",
    "family": "vae",
    "dataset": "toy",
    "protocol": "p",
    "bits_per_dim": 1.3,
    "bits_per_dim_stderr": 0.01,
    "nats_per_image": 700.0,
    "likelihood_bound": "elbo",
    "fid": None,
    "right": 0.9,
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths.PARAMS.write_text(
        "data: {title: toy}\nmodels: {vae: {family: vae}, gan: {family: gan}}\n"
    )
    files.write_json(HOME.model_metrics("vae"), METRICS)
    set_floors({"vae": {"at_most": {"bits_per_dim": 1.38}}})


def set_floors(value):
    Path("floors.json").write_text(json.dumps(value))


def test_a_result_at_its_floor_passes(results, capsys):
    set_floors({"vae": {"at_most": {"bits_per_dim": 1.3}, "at_least": {"right": 0.9}}})
    assert cli.main(["floors", "floors.json"]) == 0
    assert capsys.readouterr().out == (
        "ok     vae right 0.9 (at least 0.9)\nok     vae bits_per_dim 1.3 (at most 1.3)\n"
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"vae": {"at_most": {"bits_per_dim": 1.29}}}, "bits_per_dim is 1.3, must be at most 1.29"),
        ({"vae": {"at_least": {"right": 0.91}}}, "right is 0.9, must be at least 0.91"),
        ({"vae": {"at_most": {"fid": 10}}}, "fid is null, must be at most 10"),
        ({"vae": {"at_most": {"bits_per_din": 10}}}, "did you mean 'bits_per_dim'?"),
        ({"vae": {"at_most": {"likelihood_bound": 10}}}, "likelihood_bound is 'elbo', must be"),
        ({"gan": {"at_most": {"fid": 10}}}, "gan.json: fid is missing, must be at most 10; the"),
    ],
)
def test_a_missed_floor_a_null_and_a_missing_metric_fail(results, value, told, capsys):
    set_floors(value)
    assert cli.main(["floors", "floors.json"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("MISSED ")
    (line,) = shown.err.splitlines()
    assert line.startswith("error: metrics/toy/models/") and told in line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "floors.json: not valid JSON"),
        ("", "floors.json: not valid JSON"),
        ("[]", "floors.json: "),
        ("{}", "floors.json: "),
        ("5", "floors.json: "),
        ('{"vae": {}}', "floors.json: vae = {}: has no limit"),
        ('{"vae": 5}', "floors.json: vae = 5: should be a valid dictionary"),
        ('{"vae": {"at_most": []}}', "floors.json: vae.at_most = []: should be"),
        ('{"vae": {"at_most": {"fid": "x"}}}', "vae.at_most.fid = 'x': should be a finite number"),
        ('{"vae": {"at_most": {"fid": true}}}', "vae.at_most.fid = True: should be a finite"),
        ('{"vae": {"at_most": {"fid": NaN}}}', "NaN is no finite number"),
        ('{"vae": {"at_most": {"fid": 1e999}}}', "1e999 is no finite number"),
        ('{"vae": {"at_most": {"fid": 1, "fid": 2}}}', "the key 'fid' stands there twice"),
        ('{"vae": {"atmost": {"fid": 1}}}', "vae = {'atmost': {'fid': 1}}: atmost: must be at_mo"),
        ('{"vaee": {"at_most": {"fid": 1}}}', "unknown model 'vaee'; did you mean 'vae'?"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_are_no_floors_is_told_in_one_line(results, content, told, capsys):
    Path("floors.json").write_text(content)
    assert cli.main(["floors", "floors.json"]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: floors.json: ") and told in line
    assert shown.out == ""


def test_a_file_that_is_not_there_is_told(results):
    with pytest.raises(PipelineError, match=r"nowhere\.json: no such file"):
        floors.check("nowhere.json")
    with pytest.raises(PipelineError, match="cannot be read: Is a directory"):
        floors.check("metrics")


def test_floors_among_what_the_tools_remove_are_refused(results):
    with pytest.raises(PipelineError, match="lies in data/samples"):
        floors.check("data/samples/floors.json")


def test_nan_never_passes(results):
    HOME.model_metrics("vae").write_text('{"bits_per_dim": NaN}')
    with pytest.raises(PipelineError, match=r"vae\.json: not valid JSON \(NaN is no finite number"):
        floors.check("floors.json")
