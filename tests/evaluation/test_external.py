import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import some_images
from PIL import Image

from pipeline.__main__ import main
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation import external, judge, protocol, quality
from pipeline.orchestration import repro

GREY, COLOUR = ImageSpec(1, 12, 10, 4), ImageSpec(3, 12, 10, 4)
N = 20
ROOT = Path(__file__).parents[2]


def grey(n, seed=0):
    return some_images(n, GREY, seed).numpy()


def colour(n, seed=0):
    return some_images(n, COLOUR, seed).numpy()


def save_folder(folder, images, suffix=".png"):
    folder.mkdir()
    for i, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
        Image.fromarray(pixels).save(folder / f"{i:05}{suffix}")
    return folder


def save_array(path, array):
    np.save(path, array)
    return path


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "images"), [(GREY, grey(12)), (COLOUR, colour(12))])
def test_a_folder_is_read_in_the_order_of_its_names(tmp_path, spec, images):
    folder = save_folder(tmp_path / "mine", images)
    (folder / "notes.txt").write_text("no image")
    np.testing.assert_array_equal(external.read_images(folder, spec), images)


def test_folders_inside_count_too(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(2):
        save_folder(folder / str(i), grey(3, i))
    expected = np.concatenate([grey(3, 0), grey(3, 1)])
    np.testing.assert_array_equal(external.read_images(folder, GREY), expected)


@pytest.mark.parametrize(
    ("spec", "array", "expected"),
    [
        (GREY, grey(5), grey(5)),
        (GREY, grey(5)[:, 0], grey(5)),
        (GREY, np.moveaxis(grey(5), 1, 3), grey(5)),
        (COLOUR, colour(5), colour(5)),
        (COLOUR, np.moveaxis(colour(5), 1, 3), colour(5)),
    ],
)
def test_arrays_may_have_their_channels_first_or_last(tmp_path, spec, array, expected):
    found = external.read_images(save_array(tmp_path / "a.npy", array), spec)
    np.testing.assert_array_equal(found, expected)


def test_a_grey_picture_stands_for_equal_channels_and_back(tmp_path):
    folder = save_folder(tmp_path / "grey", grey(3))
    found = external.read_images(folder, COLOUR)
    np.testing.assert_array_equal(found, np.repeat(grey(3), 3, axis=1))
    folder = save_folder(tmp_path / "rgb", np.repeat(grey(3), 3, axis=1))
    np.testing.assert_array_equal(external.read_images(folder, GREY), grey(3))


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (grey(5).astype(np.float32) / 127.5 - 1, "float32 values, but images are uint8"),
        (grey(5)[:, :, :8], r"shape \[5, 1, 8, 10\]"),
        (colour(5), r"shape \[5, 3, 12, 10\]"),
        (grey(5)[0, 0], r"shape \[12, 10\]"),
        (grey(5)[:0], r"shape \[0, 1, 12, 10\]"),
    ],
)
def test_arrays_that_are_no_such_images_are_refused(tmp_path, array, told):
    with pytest.raises(PipelineError, match=told):
        external.read_images(save_array(tmp_path / "a.npy", array), GREY)


def test_what_is_no_array_is_refused(tmp_path):
    bad = tmp_path / "a.npy"
    bad.write_text("no array")
    with pytest.raises(PipelineError, match=r"not an \.npy file"):
        external.read_images(bad, GREY)
    np.save(bad, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(PipelineError, match=r"not an \.npy file"):
        external.read_images(bad, GREY)


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (Image.new("L", (8, 12)), "8x12 pixels"),
        (Image.new("RGB", (10, 12), (1, 2, 3)), "in colour"),
        (Image.new("RGBA", (10, 12), (5, 5, 5, 128)), "transparent"),
        (Image.new("I;16", (10, 12)), "8 bits per channel"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_by_name(tmp_path, picture, told):
    folder = save_folder(tmp_path / "mine", grey(2))
    picture.save(folder / "odd.png")
    with pytest.raises(PipelineError, match=rf"odd\.png: .*{told}"):
        external.read_images(folder, GREY)


def test_a_damaged_picture_and_an_empty_folder_are_refused(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(PipelineError, match="no image files"):
        external.read_images(folder, GREY)
    (folder / "a.png").write_bytes(b"\x89PNG\r\n broken")
    with pytest.raises(PipelineError, match=r"a\.png: not a readable image"):
        external.read_images(folder, GREY)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.zeros(4, np.int64), "one for each of the 5 images"),
        (np.zeros(5), "whole numbers"),
        (np.array([0, 1, 2, 3, 4]), "the classes 0 to 3"),
        (np.array([0, 1, -1, 3, 2]), "labels from -1 to 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, told):
    with pytest.raises(PipelineError, match=told):
        external.read_labels(save_array(tmp_path / "y.npy", labels), 5, 4)


# --- judging -----------------------------------------------------------------------------------

SETTINGS = params.Judge(seeds=[1], epochs=1, batch=16, learning_rate=0.01, features=4)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data, judges and reference rows, where the model ``vae`` failed."""
    monkeypatch.chdir(tmp_path)
    raw = params.read(ROOT / "params.yaml")
    raw["sample"]["n"], raw["models"] = N, {"vae": raw["models"]["vae"]}
    paths.PARAMS.write_text(json.dumps(raw))
    parts = {
        name: Split(grey(64, seed), np.arange(64) % 4)
        for seed, name in enumerate(("train", "val", "test"), start=1)
    }
    write(paths.PROCESSED, "toy", list("abcd"), parts)
    images, labels = torch.from_numpy(grey(64, 1)), torch.arange(64) % 4
    net = judge.train_classifier(images, labels, GREY, SETTINGS, 1, torch.device("cpu"))
    facts = judge.facts(net, 1, parts["train"], parts["test"], torch.device("cpu"))
    judge.save(paths.JUDGE, {1: net}, SETTINGS, [facts])
    (tmp_path / "made").mkdir()
    monkeypatch.setattr(repro, "make_judges", lambda: (tmp_path / "made" / "judges").touch())
    paths.METRICS.mkdir()
    common = protocol.protocol(Store(), protocol.judge_facts(), N, "test", 0)
    common["protocol"] = protocol.protocol_id(common)
    paths.REFERENCE.write_text(json.dumps({**common, "rows": []}))
    return tmp_path


def test_images_are_judged_like_those_of_a_model(project, capsys):
    source = save_array(project / "mine.npy", grey(N, 5))
    assert main(["evaluate-images", str(source), "--name", "mine"]) == 0
    found = json.loads(paths.external_metrics("mine").read_text())
    assert (found["model"], found["family"]) == ("mine", "external")
    assert found["n_samples"] == N
    assert set(quality.KEYS) | set(quality.COPYING_KEYS) <= set(found)
    assert found["label_accuracy"] is None
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine "))
    assert f"{found['fid']:.2f}" in line


def test_images_of_another_protocol_leave_a_table_without_numbers(project):
    other = json.loads(paths.REFERENCE.read_text()) | {"protocol": "other"}
    paths.REFERENCE.write_text(json.dumps(other))
    source = save_array(project / "mine.npy", grey(N, 5))
    assert main(["evaluate-images", str(source), "--name", "mine"]) == 0


def test_labels_are_judged_where_they_are_given(project):
    source = save_array(project / "mine.npy", grey(N, 5))
    labels = save_array(project / "y.npy", np.arange(N) % 4)
    command = ["evaluate-images", str(source), "--name", "mine", "--labels", str(labels)]
    assert main(command) == 0
    found = json.loads(paths.external_metrics("mine").read_text())
    assert 0 <= found["label_accuracy"] <= 1
    assert found["class_fid_n"] == N // 4


def test_judges_are_made_first_and_nothing_is_said_but_by_the_command(project, capsys):
    source = save_array(project / "mine.npy", grey(N, 5))
    external.evaluate(source, "alone")
    assert not (project / "made" / "judges").exists()
    assert capsys.readouterr().out == ""
    assert main(["evaluate-images", str(source), "--name", "mine"]) == 0
    assert (project / "made" / "judges").exists()
    alone, mine = (
        json.loads(paths.external_metrics(name).read_text()) for name in ("alone", "mine")
    )
    assert alone | {"model": "mine"} == mine


def test_without_judges_nothing_is_judged(project):
    shutil.rmtree(paths.JUDGE)
    source = save_array(project / "mine.npy", grey(N, 5))
    with pytest.raises(PipelineError, match="dvc repro judge"):
        external.evaluate(source, "mine")
    assert not paths.EXTERNAL.exists()


def test_of_more_images_than_needed_the_same_ones_are_chosen(project):
    source = save_array(project / "mine.npy", grey(3 * N, 5))
    found = []
    for name in ("one", "two"):
        external.evaluate(source, name)
        found.append(json.loads(paths.external_metrics(name).read_text())["fid"])
    assert found[0] == found[1]


EARLY = [
    ("nowhere", "mine", "nowhere: no such file or folder"),
    ("few.npy", "vae", "a model of params.yaml is called so"),
    ("few.npy", "My images", "use up to 40 small letters"),
]
"""Mistakes that are known before there are judges."""


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [*EARLY, ("few.npy", "mine", "5 images, but all models are judged by 20")],
)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(project, source, name, told, capsys):
    save_array(project / "few.npy", grey(5))
    assert main(["evaluate-images", source, "--name", name]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not paths.EXTERNAL.exists()


@pytest.mark.parametrize(("source", "name", "told"), EARLY)
def test_what_can_be_refused_at_once_is_refused_before_judges_are_trained(
    project, source, name, told
):
    save_array(project / "few.npy", grey(5))
    for refuse in (external.check, external.evaluate):
        with pytest.raises(PipelineError, match=re.escape(told)):
            refuse(Path(source), name)
    assert main(["evaluate-images", source, "--name", name]) == 1
    assert not (project / "made" / "judges").exists()


def test_a_good_source_and_name_pass(project):
    external.check(save_array(project / "few.npy", grey(5)), "mine")
