import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import some_images
from PIL import Image

from pipeline.__main__ import main
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation import classifier, external, judge, protocol, quality
from pipeline.orchestration import repro

HOME = paths.Results("toy")

GREY, COLOUR = ImageSpec(1, 12, 10, 4), ImageSpec(3, 12, 10, 4)
N = 20
CLASSES = list("abcd")
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
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "00003.png", folder / ".ipynb_checkpoints" / "00003-checkpoint.png")
    np.testing.assert_array_equal(external.read_images(folder, spec), images)


def test_numbers_in_names_are_compared_as_numbers(tmp_path):
    folder = save_folder(tmp_path / "mine", grey(12))
    for i in range(12):
        (folder / f"{i:05}.png").rename(folder / f"sample_{i}.png")
    np.testing.assert_array_equal(external.read_images(folder, GREY), grey(12))


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


def npz(path):
    np.savez(path.with_suffix(".npz"), a=grey(3))
    path.with_suffix(".npz").rename(path)


def objects(path):
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)


def claiming(path):
    """A header of ten billion images, and next to nothing behind it."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**10, 1, 12, 10)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(b"x" * 1000)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: path.write_text("no array"), r"no \.npy file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), r"not a readable \.npy file"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff{"), r"not a readable \.npy"),
        (npz, r"an \.npz archive"),
        (objects, r"not a readable \.npy file"),
        (claiming, r"not a readable \.npy file"),
    ],
)
def test_what_is_no_array_is_refused(tmp_path, write, told):
    bad = tmp_path / "a.npy"
    write(bad)
    with pytest.raises(
        PipelineError, match=rf"a\.npy: {told}.*; write it by numpy\.save"
    ) as caught:
        external.read_images(bad, GREY)
    assert "\n" not in str(caught.value)
    with pytest.raises(PipelineError, match=told):
        external.read_labels(bad, bad, 5, CLASSES)


def test_an_array_is_not_read_before_images_are_chosen(tmp_path):
    assert isinstance(
        external.read_images(save_array(tmp_path / "a.npy", grey(5)), GREY), np.memmap
    )


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (Image.new("L", (8, 12)), "8x12 pixels"),
        (Image.new("RGB", (10, 12), (1, 2, 3)), "in colour"),
        (Image.new("RGBA", (10, 12), (5, 90, 5, 128)), "in colour"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_by_name(tmp_path, picture, told):
    folder = save_folder(tmp_path / "mine", grey(2))
    picture.save(folder / "odd.png")
    with pytest.raises(PipelineError, match=rf"odd\.png: .*{told}"):
        external.read_images(folder, GREY)


def test_the_decoding_is_that_of_all_images(tmp_path):
    folder = save_folder(tmp_path / "mine", grey(2))
    Image.new("LA", (10, 12), (5, 0)).save(folder / "a.png")
    Image.fromarray(np.full((12, 10), 65535, np.uint16)).save(folder / "b.png")
    images = external.read_images(folder, GREY, (9, 9, 9))
    assert set(images[-2].ravel()) == {9} and set(images[-1].ravel()) == {255}
    Image.new("L", (10, 12)).save(
        folder / "c.gif", save_all=True, append_images=[Image.new("L", (10, 12), 9)]
    )
    with pytest.raises(PipelineError, match="2 pictures in one file"):
        external.read_images(folder, GREY)


def test_a_damaged_picture_and_an_empty_folder_are_refused(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(PipelineError, match="no image files"):
        external.read_images(folder, GREY)
    (folder / "a.png").write_bytes(b"\x89PNG\r\n broken")
    with pytest.raises(PipelineError, match=r"a\.png: cannot be read as an image"):
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
        external.read_labels(save_array(tmp_path / "y.npy", labels), Path("a.npy"), 5, CLASSES)


def folder_of(tmp_path, n=12):
    """Images by class: sample_<i>.png and more/sample_<i>.png, whose classes are i % 4."""
    folder = tmp_path / "mine"
    for i in range(n):
        file = folder / ("more" if i % 2 else ".") / f"sample_{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(n)[i, 0]).save(file)
    return folder


def table(tmp_path, lines):
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def rows(n=12, call="abcd".__getitem__):
    return [f"{'more/' if i % 2 else ''}sample_{i}.png,{call(i % 4)}" for i in range(n)]


@pytest.mark.parametrize(
    "lines",
    [
        rows(),
        rows(call=str),
        ["file,class", *rows()],
        ["\ufefffile,class", *rows()],
        rows()[::-1],
        ["", *rows(), ""],
        [f"./{row}".replace(",", " , ") for row in rows()],
        ['"' + row.replace(",", '","') + '"' for row in rows()],
        [row + "\r" for row in rows()],
    ],
)
def test_classes_are_paired_by_name(tmp_path, lines):
    folder = folder_of(tmp_path)
    found = external.read_labels(table(tmp_path, lines), folder, 12, CLASSES)
    # Folders come after the files beside them: m before s.
    assert found.dtype == np.int64
    assert found.tolist() == [1, 3, 1, 3, 1, 3, 0, 2, 0, 2, 0, 2]
    np.testing.assert_array_equal(
        external.read_images(folder, GREY), grey(12)[[1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10]]
    )


def test_a_name_that_is_a_number_is_a_name(tmp_path):
    folder = save_folder(tmp_path / "mine", grey(2))
    lines = table(tmp_path, ["00000.png,1", "00001.png,2"])
    assert external.read_labels(lines, folder, 2, ["1", "2"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (rows()[:-1], r"no class for 1 of 12 images, such as 'more/sample_11\.png'"),
        ([], "no class for 12 of 12 images"),
        (["file,class"], "no class for 12 of 12 images"),
        ([*rows(), "sample_0.png,a"], r"labels\.csv:13: 'sample_0\.png' stands there twice"),
        ([*rows(), "sample_99.png,a"], r":13: .* has no image 'sample_99\.png'; did you mean"),
        (["x,a", *rows()], r":1: .* has no image 'x'; names are those below the folder"),
        ([*rows()[:-1], "more/sample_11.png,e"], r":12: unknown class 'e'; .*a, b, c, d"),
        ([*rows()[:-1], "more/sample_11.png,4"], r":12: unknown class '4'"),
        ([*rows()[:-1], "more/sample_11.png,-1"], r":12: unknown class '-1'"),
        ([*rows()[:-1], "more/sample_11.png"], r":12: 1 columns, but there are two"),
        ([*rows()[:-1], "more/sample_11.png,a,b"], r":12: 3 columns"),
        ([*rows()[:-1], 'more/sample_11.png,"a'], "cannot be read as a table"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(tmp_path, lines, told):
    with pytest.raises(PipelineError, match=told) as caught:
        external.read_labels(table(tmp_path, lines), folder_of(tmp_path), 12, CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a\0b,1\n", b"x" * 200_000 + b",1"])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(PipelineError, match=r"labels\.csv") as caught:
        external.read_labels(file, folder_of(tmp_path), 12, CLASSES)
    assert "\n" not in str(caught.value)


# --- judging -----------------------------------------------------------------------------------

SETTINGS = params.Judge(seeds=[1], batch=16, features=4, classifier=params.Classifier(steps=4))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data, judges and reference rows, where the model ``vae`` failed."""
    monkeypatch.chdir(tmp_path)
    raw = params.read(ROOT / "params.yaml")
    raw["data"]["title"] = HOME.title
    raw["sample"]["n"], raw["models"] = N, {"vae": raw["models"]["vae"]}
    paths.PARAMS.write_text(json.dumps(raw))
    parts = {
        name: Split(grey(64, seed), np.arange(64) % 4)
        for seed, name in enumerate(("train", "val", "test"), start=1)
    }
    write(paths.PROCESSED, "toy", list("abcd"), parts)
    images, labels = torch.from_numpy(grey(64, 1)), torch.arange(64) % 4
    net = classifier.train(images, labels, GREY, SETTINGS, 1, torch.device("cpu"))
    facts = judge.facts(net, "classifier", 1, parts["train"], parts["test"], torch.device("cpu"))
    judge.save(paths.JUDGE, [judge.Trained("classifier", {1: net}, [facts])], SETTINGS)
    (tmp_path / "made").mkdir()
    monkeypatch.setattr(repro, "make_judges", lambda: (tmp_path / "made" / "judges").touch())
    HOME.folder.mkdir(parents=True)
    common = protocol.protocol(Store(), protocol.judge_facts(), N, "test", 0)
    common["protocol"] = protocol.protocol_id(common)
    HOME.reference.write_text(json.dumps({**common, "rows": []}))
    return tmp_path


def test_images_are_judged_like_those_of_a_model(project, capsys):
    source = save_array(project / "mine.npy", grey(N, 5))
    assert main(["evaluate-images", str(source), "--name", "mine"]) == 0
    found = json.loads(HOME.external_metrics("mine").read_text())
    assert (found["model"], found["family"]) == ("mine", "external")
    assert found["n_samples"] == N
    assert set(quality.KEYS) | set(quality.COPYING_KEYS) <= set(found)
    assert found["label_accuracy"] is None and found["conditional"] is False
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine "))
    assert f"{found['fid']:.2f}" in line


def test_images_of_another_protocol_leave_a_table_without_numbers(project):
    other = json.loads(HOME.reference.read_text()) | {"protocol": "other"}
    HOME.reference.write_text(json.dumps(other))
    source = save_array(project / "mine.npy", grey(N, 5))
    assert main(["evaluate-images", str(source), "--name", "mine"]) == 0


def test_labels_are_judged_where_they_are_given(project):
    source = save_array(project / "mine.npy", grey(N, 5))
    labels = save_array(project / "y.npy", np.arange(N) % 4)
    command = ["evaluate-images", str(source), "--name", "mine", "--labels", str(labels)]
    assert main(command) == 0
    found = json.loads(HOME.external_metrics("mine").read_text())
    assert 0 <= found["label_accuracy"] <= 1 and found["conditional"] is True
    assert found["class_fid_n"] == N // 4


def test_judges_are_made_first_and_nothing_is_said_but_by_the_command(project, capsys):
    source = save_array(project / "mine.npy", grey(N, 5))
    external.evaluate(source, "alone")
    assert not (project / "made" / "judges").exists()
    assert capsys.readouterr().out == ""
    assert main(["evaluate-images", str(source), "--name", "mine"]) == 0
    assert (project / "made" / "judges").exists()
    alone, mine = (
        json.loads(HOME.external_metrics(name).read_text()) for name in ("alone", "mine")
    )
    assert alone | {"model": "mine"} == mine


def test_without_judges_nothing_is_judged(project):
    shutil.rmtree(paths.JUDGE)
    source = save_array(project / "mine.npy", grey(N, 5))
    with pytest.raises(PipelineError, match="dvc repro judge"):
        external.evaluate(source, "mine")
    assert not HOME.external.exists()


def test_of_more_images_than_needed_the_same_ones_are_chosen(project):
    source = save_array(project / "mine.npy", grey(3 * N, 5))
    found = []
    for name in ("one", "two"):
        external.evaluate(source, name)
        found.append(json.loads(HOME.external_metrics(name).read_text())["fid"])
    assert found[0] == found[1]


def test_many_sets_are_judged_alike_and_the_real_images_looked_at_once(project, monkeypatch):
    sources = [save_array(project / f"{seed}.npy", grey(N, seed)) for seed in (5, 6)]
    alone = []
    for source in sources:
        external.evaluate(source, "alone")
        alone.append(json.loads(HOME.external_metrics("alone").read_text()))
    looked = []
    real = quality.real_images
    monkeypatch.setattr(
        quality, "real_images", lambda *given: (looked.append(given), real(*given))[1]
    )
    judging = external.Judging(params.read())
    together = [judging.of(source) for source in sources]
    assert len(looked) == 1
    assert together[0]["fid"] != together[1]["fid"]
    for one, other in zip(alone, together, strict=True):
        assert files.rounded(other).items() <= one.items()


def test_fewer_images_may_be_judged_than_of_models(project):
    source = save_array(project / "mine.npy", grey(N - 4, 5))
    found = external.Judging(params.read(), N - 4).of(source)
    assert found["n_samples"] == found["n_reference"] == N - 4
    with pytest.raises(PipelineError, match=f"{N - 4} images, but all models are judged by {N}"):
        external.Judging(params.read()).of(source)


def test_labels_of_a_folder_are_paired_by_name(project):
    """As an array in natural order, or as a table in any."""
    save_folder(project / "mine", grey(N, 5))
    for i in range(N):
        (project / "mine" / f"{i:05}.png").rename(project / "mine" / f"sample_{i}.png")
    save_array(project / "y.npy", np.arange(N) % 4)
    table(project, [f"sample_{i}.png,{CLASSES[i % 4]}" for i in reversed(range(N))])
    found = []
    for name, labels in (("one", "y.npy"), ("two", "labels.csv")):
        command = ["evaluate-images", "mine", "--name", name, "--labels", labels]
        assert main(command) == 0
        found.append(json.loads(HOME.external_metrics(name).read_text()))
    assert found[0] | {"model": "two"} == found[1]


def test_what_a_model_drew_may_be_judged_again(project):
    folder = paths.samples_dir("vae")
    folder.mkdir(parents=True)
    source = save_array(folder / "samples.npy", grey(N, 5))
    labels = save_array(folder / "labels.npy", np.arange(N) % 4)
    external.check(source, "again", labels)


def test_a_name_that_is_not_utf_8_does_not_stop_the_hash(project):
    folder = save_folder(project / "mine", grey(N, 5))
    (folder / "notes.txt").write_text("mine")
    os.rename(bytes(folder / "notes.txt"), bytes(folder) + b"/caf\xe9.txt")
    external.evaluate(folder, "mine")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("nowhere.npy", "nowhere.npy: no such file"),
        ("data/raw/y.npy", "--labels = 'data/raw/y.npy': it lies in data/raw"),
        ("labels.csv", "labels.csv: a table says the class of each file of a folder"),
        ("mine", "mine: cannot be read"),
        ("empty.npy", "empty.npy: empty"),
    ],
)
def test_labels_that_cannot_be_are_refused_before_judges_are_trained(project, labels, told):
    save_array(project / "few.npy", grey(5))
    (project / "mine").mkdir()
    (project / "empty.npy").touch()
    table(project, ["a.png,0"])
    with pytest.raises(PipelineError, match=re.escape(told)):
        external.check(Path("few.npy"), "mine", Path(labels))


EARLY = [
    ("nowhere", "mine", "nowhere: no such file or folder"),
    ("made", "mine", "made: no image files"),
    ("pipe.npy", "mine", "pipe.npy: neither a file nor a folder"),
    ("metrics", "mine", "source = 'metrics': it is metrics"),
    ("data/raw", "mine", "source = 'data/raw': it is data/raw"),
    (".", "mine", "source = '.': it contains"),
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
    os.mkfifo(project / "pipe.npy")
    assert main(["evaluate-images", source, "--name", name]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not HOME.external.exists()


@pytest.mark.parametrize(("source", "name", "told"), EARLY)
def test_what_can_be_refused_at_once_is_refused_before_judges_are_trained(
    project, source, name, told
):
    save_array(project / "few.npy", grey(5))
    os.mkfifo(project / "pipe.npy")
    for refuse in (external.check, external.evaluate):
        with pytest.raises(PipelineError, match=re.escape(told)):
            refuse(Path(source), name)
    assert main(["evaluate-images", source, "--name", name]) == 1
    assert not (project / "made" / "judges").exists()


def test_a_good_source_and_name_pass(project):
    external.check(save_array(project / "few.npy", grey(5)), "mine")
