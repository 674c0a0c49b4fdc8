import json
import os
import re
from pathlib import Path

import pytest
from compared import HOME, NOTHING, PROTOCOL, metrics, reference, rewrite, verdict

from pipeline.comparison import results
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).parents[2]
WHOLE = {**PROTOCOL, "model": "vae", "family": "vae", **metrics()["zeta"]}
JUNK = {
    "empty": b"",
    "cut": b'{"fid": 3.',
    "conflict": b'<<<<<<< HEAD\n{"fid": 3}\n=======\n{"fid": 4}\n>>>>>>> theirs\n',
    "HTML": b"<!DOCTYPE html><html>404</html>",
    "not UTF-8": b"\xff\xfe{}",
    "NUL": b"\x00" * 64,
    "array": b"\x93NUMPY",
    "NaN": b'{"fid": NaN}',
    "infinity": b'{"fid": -Infinity}',
    "beyond floats": b'{"fid": 1e999}',
    "beyond integers": b'{"fid": ' + b"9" * 5000 + b"}",
    "twice": b'{"fid": 3, "fid": 3}',
    "deep": b"[" * 100_000,
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "nothing": b"{}",
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = HOME.model_metrics("vae")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(WHOLE))
    return path


def refused(read, path):
    """What is said of a file, each line of which must name it and end with what to do."""
    with pytest.raises(PipelineError) as raised:
        read()
    lines = str(raised.value).splitlines()
    assert lines and len(lines) == len(set(lines))
    for line in lines:
        assert line.startswith(f"{path}: ") and "; " in line and len(line) < 400, line
    return lines


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("kind", ["model", "external", "references"])
def test_what_is_no_result_is_named(file, kind, content):
    file.write_bytes(content)
    read = {
        "model": lambda: results.of_model("vae", HOME.model_metrics("vae")),
        "external": lambda: results.of_external(file),
        "references": lambda: results.of_references(file),
    }[kind]
    refused(read, file)


def test_what_cannot_be_opened_is_named(file):
    file.unlink()
    with pytest.raises(FileNotFoundError):
        results.of_model("vae", HOME.model_metrics("vae"))
    file.mkdir()
    refused(lambda: results.of_model("vae", HOME.model_metrics("vae")), file)
    file.rmdir()
    os.symlink(file.name, file)
    refused(lambda: results.of_model("vae", HOME.model_metrics("vae")), file)


def test_a_result_is_what_stands_in_its_file(file):
    found = results.of_model("vae", HOME.model_metrics("vae"))
    assert found == WHOLE
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in WHOLE.items()
    }


@pytest.mark.parametrize("path", sorted((ROOT / "metrics/mnist-5k/models").glob("*.json")), ids=str)
def test_committed_results_are_read_as_they_are(path):
    found, wanted = results.of_model(path.stem, path), json.loads(path.read_text())
    assert found == wanted
    assert [type(found[key]) for key in wanted] == [type(each) for each in wanted.values()]


def test_committed_references_are_read_as_they_are():
    path = ROOT / "metrics/mnist-5k/reference.json"
    assert results.of_references(path) == json.loads(path.read_text())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"fid": "5.9"}, "fid = '5.9': should be a finite number"),
        ({"fid": True}, "fid = True: should be a finite number"),
        ({"fid": [5.9]}, "fid = [5.9]: should be a finite number"),
        ({"fid": -1.0}, "fid = -1.0: should be 0 or more"),
        ({"fid": 1e200}, "fid = 1e+200: should be a finite number"),
        ({"coverage": 1.2}, "coverage = 1.2: should be a share, from 0 to 1"),
        ({"label_accuracy": 90}, "label_accuracy = 90: should be a share, from 0 to 1"),
        ({"translation_label_accuracy": -0.1}, "should be a share, from 0 to 1"),
        ({"reconstruction_mse": -0.1}, "reconstruction_mse = -0.1: should be 0 or more"),
        ({"parameters": None}, "parameters = None: should be a finite number"),
        ({"images_seen": None}, "images_seen = None: should be a finite number"),
        ({"sampling_flops": "many"}, "sampling_flops = 'many': should be a finite number"),
        ({"n_samples": 0}, "n_samples = 0: should be greater than or equal to 1"),
        ({"inception_fid": "x"}, "inception_fid = 'x': should be a finite number"),
        ({"imagenet_kid": []}, "imagenet_kid = []: should be a finite number"),
        ({"likelihood_bound": 5}, "likelihood_bound = 5: should be text"),
        ({"own_error": [1]}, "own_error = [1]: should be a number, text, true, false or null"),
        ({"own_error": {}}, "own_error = {}: should be a number, text, true, false or null"),
        ({"model": ...}, "model: missing"),
        ({"family": ...}, "family: missing"),
        ({"dataset": None}, "dataset = None: should be a valid string"),
        ({"protocol": 5}, "protocol = 5: should be a valid string"),
        ({"model": "gan"}, "model = 'gan': should be 'vae', as the file is called"),
        # A number that is gone, though what was measured with it is there.
        ({"fid": None}, "fid is null, though fid_min is there"),
        ({"fid": ...}, "fid is missing, though fid_min is there"),
        ({"fid_max": ...}, "fid_max is missing, though fid is there"),
        ({"bits_per_dim": None}, "bits_per_dim is null, though nats_per_image is there"),
        ({"bits_per_dim_stderr": None}, "bits_per_dim_stderr is missing, though bits_per_dim is"),
        ({"reconstruction_mse": None}, "reconstruction_mse is null, though reconstruction_psnr is"),
        ({"images_seen": ..., "training_flops_per_image": 9}, "images_seen is missing, though"),
        (dict.fromkeys(("coverage", "coverage_min", "coverage_max")), "coverage is null, though"),
        ({"label_accuracy": None, "label_accuracy_real": 0.9}, "label_accuracy is null, though"),
        ({"iwae_samples": 3}, "iwae_bits_per_dim is missing, though iwae_samples is there"),
        ({"fid_max": 1.0}, "fid = 6.0 should be between fid_min and fid_max, 5.4 and 1.0"),
    ],
)
def test_what_a_hand_has_spoilt_is_named(file, values, told):
    rewrite(file, **values)
    (line,) = refused(lambda: results.of_model("vae", HOME.model_metrics("vae")), file)
    assert told in line and line.endswith("restore it from git, or run `make repro`")


def test_every_mistake_has_a_line(file):
    rewrite(file, fid="x", coverage=2, dataset=...)
    found = refused(lambda: results.of_model("vae", HOME.model_metrics("vae")), file)
    assert len(found) == 3


@pytest.mark.parametrize(
    "values",
    [
        {"kid": -0.01, "kid_min": -0.02, "kid_max": 0.01},
        # Of equal images, whose geometric mean has a floor that its range has not.
        {"fid": 1e-12, "fid_min": 0.0, "fid_max": 0.0},
        # Images that are too small for it.
        {"reconstruction_ssim": None},
        # Without a truth to compare with.
        {
            **dict.fromkeys(("translation_fid_ab", "translation_fid_ba", "cycle_mse"), 1.0),
            **{"translation_fid_identity": 1.0, "translation_n": 9, "translation_mse": None},
            "translation_fid_ab_floor": None,
        },
        {"own_error": 0.5, "prior": "a Gaussian", "flag": True, "nothing": None},
        {"inception_kid": -0.001, "inception_warnings": None},
        {"imagenet_kid": -0.001, "imagenet_fid": 3.0, "imagenet_warnings": "few"},
        {"label_gain_nats": -1.0, "bits_per_dim_given_label": 1.0, "nats_per_image_given_label": 9},
    ],
)
def test_what_is_measured_so_is_no_mistake(file, values):
    rewrite(file, **values)
    assert results.of_model("vae", HOME.model_metrics("vae")) == WHOLE | values


def test_a_model_that_only_translates_has_nothing_of_the_rest(file):
    found = {key: PROTOCOL[key] for key in ("dataset", "protocol")}
    file.write_text(json.dumps({**found, "model": "vae", "family": "cyclegan", **NOTHING}))
    assert results.of_model("vae", HOME.model_metrics("vae"))["fid"] is None


def test_images_of_others_are_named_with_what_helps(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**WHOLE, "model": "mine", "fid": None}))
    (line,) = refused(lambda: results.of_external(path), path)
    assert "evaluate-images" in line and "delete the file" in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": ...}, "rows: missing"),
        ({"rows": 5}, "rows = 5: should be a valid list"),
        ({"protocol": ...}, "protocol: missing"),
        ({"n_samples": "20"}, "n_samples = '20': should be a valid integer"),
        ({"n_reference": 0}, "n_reference = 0: should be greater than or equal to 1"),
        ({"reference_split": "tset"}, "reference_split = 'tset': "),
        ({"fid_features": None}, "fid_features = None: should be a valid string"),
        ({"rows": [{"name": "real"}]}, "rows.0.label: missing"),
        ({"rows": [{"name": "a", "label": "b", "fid": -1}]}, "rows.0.fid = -1: should be 0 or"),
        ({"rows": [{"name": "a", "label": "b", "fid": 1}]}, "fid_min is missing, though fid is"),
        ({"own": [1]}, "own = [1]: should be a number, text, true, false or null"),
    ],
)
def test_what_is_wrong_with_the_references_is_named(tmp_path, change, told):
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference()))
    assert results.of_references(path) == reference()
    rewrite(path, **change)
    (line,) = refused(lambda: results.of_references(path), path)
    assert told in line


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"shape": [28, 28]}, "images.shape"),
        ({"classes": []}, "images.classes"),
        ({"train": 0}, "images.train"),
        ({"test": "150"}, "images.test"),
    ],
)
def test_what_images_these_are_is_checked(tmp_path, wrong, told):
    path = tmp_path / "reference.json"
    images = {"shape": [1, 28, 28], "classes": ["a", "b"], "train": 360, "val": 40, "test": 100}
    path.write_text(json.dumps(reference() | {"images": images}))
    assert results.of_references(path)["images"] == images
    rewrite(path, images=images | wrong)
    (line,) = refused(lambda: results.of_references(path), path)
    assert told in line


def test_columns_are_known_by_their_kind():
    named = (*results.SAID, *results.TEXT)
    assert {*results.NUMBERS, *named} == {*results.COLUMNS}
    for group in (*results.TOGETHER, results.DRAWN, results.COSTS):
        assert {*group} <= {*results.COLUMNS}
    assert results.kind_of("coverage_min") is results.share
    assert results.kind_of("kid_max") is results.number
    assert results.kind_of("class_fid_real") is results.size


# --- curves --------------------------------------------------------------------------------------


def test_a_curve_is_read_digit_by_digit(tmp_path):
    path = tmp_path / "vae.csv"
    path.write_text('step,images,model/loss,"a, b"\n10,160,1.50,\n20,320,-1e-05,nothing\n')
    refused(lambda: results.curve(path), path)
    path.write_text('step,images,model/loss,"a, b"\n10,160,1.50,\n20,320,-1e-05,7\n')
    assert results.curve(path) == [
        {"step": "10", "images": "160", "model/loss": "1.50", "a, b": ""},
        {"step": "20", "images": "320", "model/loss": "-1e-05", "a, b": "7"},
    ]
    path.write_text("step,images,model/loss\n")
    assert results.curve(path) == []
    with pytest.raises(FileNotFoundError):
        results.curve(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "its first line should be step,images and"),
        (b"step,loss\n1,2\n", "its first line should be step,images and"),
        (b"step,images,a,a\n1,2,3,4\n", "each once"),
        (b"step,images,\n1,2,3\n", "its first line should be"),
        (b"<html>\n", "its first line should be"),
        (b"<<<<<<< HEAD\nstep,images,a\n1,2,3\n", "its first line should be"),
        (b"step,images,a\n1,2\n", "line 2 has 2 cells, but 3 columns have names"),
        (b"step,images,a\n1,2,3,4\n", "line 2 has 4 cells"),
        (b"step,images,a\n1,2,3\n\n", "line 3 has 0 cells"),
        (b"step,images,a\n1,2,3\n=======\n", "line 3 has 1 cells"),
        (b"step,images,a\n1.5,2,3\n", "line 2: step = '1.5' should be a whole number"),
        (b"step,images,a\n1,,3\n", "line 2: images = '' should be a whole number"),
        (b"step,images,a\n1,2,nan\n", "line 2: a = 'nan' should be a finite number, or empty"),
        (b"step,images,a\n1,2,1e999\n", "line 2: a = '1e999' should be a finite number"),
        (b"step,images,a\n1,2,x\n", "line 2: a = 'x' should be a finite number"),
        ("step,images,a\n1,2,\u0663\n".encode(), "should be a finite number"),
        (b"step,images,a\n1,2,\x00\n", ""),
        (b'step,images,a\n1,2,"3\n', "not a table in UTF-8"),
        (b"step,images,\xff\n", "not a table in UTF-8"),
        (b"\xef\xbb\xbfstep,images,a\n1,2,3\n", "its first line should be"),
        (b"step,images,a\n1,2," + b"3" * 200_000, "not a table in UTF-8"),
    ],
)
def test_what_is_no_curve_is_named(tmp_path, content, told):
    path = tmp_path / "vae.csv"
    path.write_bytes(content)
    (line,) = refused(lambda: results.curve(path), path)
    assert told in line


def test_a_folder_is_no_curve(tmp_path):
    refused(lambda: results.curve(tmp_path), tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "metrics/mnist-5k/curves").glob("*.csv")), ids=str)
def test_committed_curves_are_curves(path):
    assert len(results.curve(path)) > 10


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda kind: kind["rungs"].pop(0), "should be real images, once, and damage to them"),
        (lambda kind: kind["rungs"][2]["fid"].pop(), "should have FIDs of as many judges each"),
        (lambda kind: kind["rungs"][1].update(fid=[-1.0, 1.0]), "fid.0 = -1.0: should be greater"),
        (lambda kind: kind.update(ranks=False), "reasons should be there if ranks is false"),
    ],
)
def test_a_verdict_on_judges_that_cannot_be_is_refused(tmp_path, spoil, told):
    found = verdict(second=[])
    spoil(found["kinds"][1])
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference() | {"judges": found}))
    with pytest.raises(PipelineError, match=re.escape(told)):
        results.of_references(path)
