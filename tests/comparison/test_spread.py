import json

import numpy as np
import pytest

from pipeline.comparison import spread, ties
from pipeline.core.errors import PipelineError

RAW = {
    "train": {"seed": 0, "budget": 1.0},
    "sample": {"seed": 0, "n": 20},
    "evaluate": {"split": "test", "inception": {"weights": ""}},
    "models": {"vae": {"family": "vae", "network": {"latent": 3}}, "gan": {"family": "gan"}},
}


def metrics(fid, **more):
    return {"model": "vae", "protocol": "p", "fid": fid, "kid": 0.1 * fid, **more}


RUNS = {
    (0, 0): metrics(4.0, bits_per_dim=1.3),
    (1, 1): metrics(5.0, bits_per_dim=1.4),
    (2, 2): metrics(3.0, bits_per_dim=1.2),
    (0, 1): metrics(4.1, bits_per_dim=1.3),
    (0, 2): metrics(3.9, bits_per_dim=1.3),
}


def test_trainings_and_sample_sets_are_kept_apart():
    found = spread.summary(RUNS, (0, 0))
    assert (found["trainings"], found["sample_sets"]) == (3, 3)
    fid = found["spread"]["fid"]
    over = ties.of_mean([4.0, 5.0, 3.0], relative=True)
    assert fid["trained_mean"] == pytest.approx(60 ** (1 / 3))
    assert (fid["trained_low"], fid["trained_high"]) == pytest.approx((over.low, over.high))
    assert fid["trained_sd"] == pytest.approx(over.deviation)
    drawn = ties.of_mean([4.0, 4.1, 3.9], relative=True)
    assert fid["sample_sets_sd"] == pytest.approx(drawn.deviation)
    assert found["spread"]["kid"]["trained_mean"] == pytest.approx(0.4), "KID may be negative"
    assert found["spread"]["bits_per_dim"]["sample_sets_sd"] == 0
    assert "coverage" not in found["spread"]
    assert found["runs"][0] == {
        "train_seed": 0, "sample_seed": 0, "fid": 4.0, "kid": 0.4, "bits_per_dim": 1.3,
    }  # fmt: skip


def test_runs_of_other_rules_are_not_mixed():
    with pytest.raises(PipelineError, match="vae: its runs were judged by other rules"):
        spread.summary({**RUNS, (3, 3): {**RUNS[0, 0], "protocol": "q"}}, (0, 0))


def changed(**sections):
    raw = json.loads(json.dumps(RAW))
    for name, values in sections.items():
        raw[name] |= values
    return raw


def test_configuration_names_what_moves_metrics():
    own = spread.configuration(RAW, "vae")
    assert len(own) == 16
    for raw in (
        changed(train={"budget": 2.0}),
        changed(sample={"n": 30}),
        changed(evaluate={"split": "val"}),
        changed(models={"vae": {"family": "vae", "network": {"latent": 4}}}),
    ):
        assert spread.configuration(raw, "vae") != own
    for raw in (
        changed(train={"seed": 7}, sample={"seed": 7}),
        changed(evaluate={"inception": {"weights": "w.pth"}}),
        changed(evaluate={"imagenet": True}),
        changed(models={"gan": {"family": "wgan"}}),
    ):
        assert spread.configuration(raw, "vae") == own


def test_a_key_that_was_added_and_changes_nothing_makes_no_other_configuration():
    plain = changed(models={"vae": {"family": "vae", "training": {"images": 8}}})
    own = spread.configuration(plain, "vae")
    for key, value in spread.ADDED.items():
        for section in (plain["train"], plain["models"]["vae"]["training"]):
            section[key] = value
            assert spread.configuration(plain, "vae") == own
            section[key] = "another"
            assert spread.configuration(plain, "vae") != own
            del section[key]
    assert spread.configuration(plain, "vae") == own


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "vae.json"
    found = {
        "protocol": "p",
        "configuration": spread.configuration(RAW, "vae"),
        **spread.summary(RUNS, (0, 0)),
        "inversion_mse": 0.01,
    }
    path.write_text(json.dumps(found))
    return path


def test_what_is_read_is_flat_and_known_by_name(written):
    found = spread.read(written, RUNS[0, 0], RAW)
    assert found["trainings"] == 3 and found["inversion_mse"] == 0.01
    assert found["fid_trained_low"] < found["fid_trained_mean"] < found["fid_trained_high"]
    assert found.keys() <= set(spread.COLUMNS)


@pytest.mark.parametrize(
    ("now", "raw", "told"),
    [
        ({**RUNS[0, 0], "protocol": "q"}, RAW, "other rules"),
        (RUNS[0, 0], changed(sample={"n": 30}), "other parameters"),
        ({**RUNS[0, 0], "fid": 4.05}, RAW, "other code"),
        ({**RUNS[0, 0], "fid": None}, RAW, "other code"),
        ({"model": "vae", "protocol": "p"}, RAW, "other code"),
    ],
)
def test_what_is_of_others_is_left_out_and_says_so(written, now, raw, told):
    assert spread.read(written, now, raw) == {spread.STALE: told}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ("[]", "should be a valid dictionary"),
        ("{}", "protocol: missing"),
        ("<<<<<<< ours", "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_a_damaged_file_is_named(written, content, told):
    written.write_text(content)
    with pytest.raises(PipelineError, match=r"vae\.json: ") as raised:
        spread.read(written, RUNS[0, 0], RAW)
    assert told in str(raised.value)
    assert all(
        line.endswith("restore it from git, or delete it")
        for line in str(raised.value).splitlines()
    )


def put(value, *keys):
    """A change of a JSON value: ``value`` at the place that keys lead to; ``...`` removes it."""

    def change(found):
        *way, last = keys
        for key in way:
            found = found[key]
        if value is ...:
            del found[last]
        else:
            found[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put(..., "protocol"), "protocol: missing"),
        (put(5, "configuration"), "configuration = 5: should be a valid string"),
        (put(1, "trainings"), "trainings = 1: should be greater than or equal to 2"),
        (put(True, "sample_sets"), "sample_sets = True: should be a valid integer"),
        (put([], "runs"), "runs = []: "),
        (put([5], "runs"), "runs.0 = 5: should be a valid dictionary"),
        (put("x", "runs", 0, "fid"), "should be a finite number"),
        (put(None, "runs", 0, "fid"), "should be a finite number"),
        (put([1], "runs", 1, "kid"), "runs.1.kid = [1]: should be a number, text"),
        (put(..., "spread"), "spread: missing"),
        (put({}, "spread", "fid"), "spread.fid.trained_mean: missing"),
        (put("x", "spread", "fid", "trained_low"), "spread.fid.trained_low = 'x': should be a fin"),
        (put(99, "spread", "fid", "trained_low"), "trained_mean should be between trained_low"),
        (put(-1, "spread", "fid", "trained_sd"), "should be 0 or more"),
        (put({}, "spread", "fidd"), "spread.fidd.trained_mean: missing"),
        (put("x", "inversion_mse"), "inversion_mse = 'x': should be a finite number"),
    ],
)
def test_what_is_wrong_in_it_is_named(written, change, told):
    found = json.loads(written.read_text())
    change(found)
    written.write_text(json.dumps(found))
    with pytest.raises(PipelineError, match=r"vae\.json: ") as raised:
        spread.read(written, RUNS[0, 0], RAW)
    assert told in str(raised.value)


def test_a_metric_of_another_name_is_refused(written):
    found = json.loads(written.read_text())
    found["spread"]["fidd"] = found["spread"].pop("fid")
    written.write_text(json.dumps(found))
    with pytest.raises(PipelineError, match="unknown metric 'fidd'; did you mean 'fid'"):
        spread.read(written, RUNS[0, 0], RAW)


def test_parameters_without_a_section_are_named(written):
    for key in ("train", "sample", "evaluate"):
        for value in (None, 5):
            with pytest.raises(PipelineError, match=f"params.yaml: {key}: missing section"):
                spread.read(written, RUNS[0, 0], {**RAW, key: value})


def test_another_processor_is_no_other_code(written):
    assert "fid_trained_mean" in spread.read(written, {**RUNS[0, 0], "fid": 4.03}, RAW)


def test_nothing_is_read_where_nothing_was_written(tmp_path):
    assert spread.read(tmp_path / "vae.json", RUNS[0, 0], RAW) == {}


def test_numpy_is_not_needed_to_write_it():
    json.dumps(spread.summary({k: {**v, "fid": np.float64(v["fid"])} for k, v in RUNS.items()},
                              (0, 0)))  # fmt: skip
