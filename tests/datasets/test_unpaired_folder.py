"""A folder with trainA, trainB, testA and testB as a data set with two classes."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from params_files import COMMITTED, complaint, edited
from PIL import Image

from pipeline.core import files, params
from pipeline.core.errors import PipelineError
from pipeline.core.params import Data, Domains
from pipeline.datasets import domains, sources, splits
from pipeline.datasets.store import Store, write

SHARED = Path(os.environ.get("GENERATIVE_SHARED", "../shared")) / "datasets" / "apple2tomato"
FOLDERS = ("trainA", "trainB", "testA", "testB")
COUNTS = {"trainA": 5, "trainB": 6, "testA": 2, "testB": 3}


def picture(seed, size=(20, 20), mode="RGB"):
    width, height = size
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.fixture
def folder(tmp_path):
    """cat2dog: lossless images of the size that they are read in."""
    made = tmp_path / "cat2dog"
    for place, (name, n) in enumerate(COUNTS.items()):
        (made / name).mkdir(parents=True)
        for i in range(n):
            picture(100 * place + i).save(made / name / f"{i}.png")
    return made


def configured(folder, size=20):
    data = Data(name="unpaired-folder", folder=str(folder), size=size)
    return sources.load(data.name).configured(data)


def fetched(folder, tmp_path, size=20):
    """What the two stages do, one after the other."""
    raw = tmp_path / "raw"
    with files.replacing_folder(raw) as temporary:
        configured(folder, size).fetch(temporary)
    return configured(folder, size).read(raw)


def test_images_are_read_by_domain_in_the_order_of_their_names(folder, tmp_path):
    raw = fetched(folder, tmp_path)
    assert raw.classes == ["cat", "dog"]
    for part, names in ((raw.train, FOLDERS[:2]), (raw.test, FOLDERS[2:])):
        expected = [
            np.asarray(Image.open(folder / name / f"{i}.png")).transpose(2, 0, 1)
            for name in names
            for i in range(COUNTS[name])
        ]
        np.testing.assert_array_equal(part.images, np.stack(expected))
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64
        assert part.labels.tolist() == [0] * COUNTS[names[0]] + [1] * COUNTS[names[1]]


def test_original_files_are_copied_as_they_are_and_nothing_else(folder, tmp_path):
    (folder / "trainA" / "notes.txt").write_text("mine")
    (folder / "trainA" / "._0.png").write_bytes(b"a file system's")
    (folder / "README.md").write_text("mine")
    fetched(folder, tmp_path)
    raw = tmp_path / "raw"
    assert {each.name for each in raw.iterdir()} == set(FOLDERS)
    for name in FOLDERS:
        assert len(list((raw / name).iterdir())) == COUNTS[name]
        for file in (raw / name).iterdir():
            assert file.read_bytes() == (folder / name / file.name).read_bytes()


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (41, 23)])
def test_the_centre_is_kept_and_the_aspect_ratio_too(folder, tmp_path, size):
    """A centred white square stays a centred square; a stretched one would not."""
    width, height = size
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (width // 2 - 5, height // 2 - 5, width // 2 + 5, height // 2 + 5))
    image.save(folder / "trainA" / "0.png")
    square = fetched(folder, tmp_path).train.images[0, 0] > 127
    scale = 20 / min(size)
    assert abs(square.any(axis=0).sum() - 10 * scale) <= 1
    assert abs(square.any(axis=1).sum() - 10 * scale) <= 1
    ys, xs = np.nonzero(square)
    assert ys.mean() == pytest.approx(9.5, abs=0.6) and xs.mean() == pytest.approx(9.5, abs=0.6)


def test_shrinking_averages_over_all_pixels(folder, tmp_path):
    """A checkerboard becomes grey; reading single pixels would leave it black and white."""
    board = np.indices((80, 80)).sum(axis=0) % 2 * np.uint8(255)
    Image.fromarray(board.astype(np.uint8)).save(folder / "trainA" / "0.png")
    found = fetched(folder, tmp_path).train.images[0]
    assert found.min() > 110 and found.max() < 145


def test_files_stay_in_the_order_of_their_names_as_text(folder, tmp_path):
    """Numbers in them do not count: another order would make other splits of the same images."""
    picture(7).save(folder / "trainA" / "10.png")
    picture(8).save(folder / "trainA" / "2.png")
    images = fetched(folder, tmp_path).train.images
    for place, seed in ((2, 7), (3, 8)):
        np.testing.assert_array_equal(images[place], np.asarray(picture(seed)).transpose(2, 0, 1))


def test_photographs_are_turned_upright(folder, tmp_path):
    image, exif = picture(7), Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    image.save(folder / "trainA" / "0.png", exif=exif)
    found = fetched(folder, tmp_path).train.images[0]
    turned = np.rot90(np.asarray(image), -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, turned)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("horse2zebra", ["horse", "zebra"]),
        ("summer2winter_yosemite", ["summer", "winter_yosemite"]),
        ("photos", ["A", "B"]),
        ("cat2dog2", ["A", "B"]),
        ("2dog", ["A", "B"]),
    ],
)
def test_domains_are_named_after_the_folder(tmp_path, name, classes):
    assert configured(tmp_path / name).classes() == classes


# Mistakes ----------------------------------------------------------------------------------


def refused(folder, tmp_path, match):
    """It fails in one line, and leaves nothing behind."""
    raw = tmp_path / "out" / "raw"
    with pytest.raises(PipelineError, match=match) as error, files.replacing_folder(raw) as made:
        configured(folder).fetch(made)
    assert "\n" not in str(error.value)
    assert not raw.exists() and not list(raw.parent.iterdir())


def test_a_folder_that_is_not_there(tmp_path):
    refused(tmp_path / "gone", tmp_path, r"params\.yaml: data\.folder = '.*gone': there is no such")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_part_that_is_not_there(folder, tmp_path, name):
    (folder / name).rename(folder / "renamed")
    refused(folder, tmp_path, rf"data\.folder = '.*cat2dog': it has no folder {name}$")


def test_a_part_without_images(folder, tmp_path):
    for file in (folder / "testB").iterdir():
        file.unlink()
    refused(folder, tmp_path, r"data\.folder = .*: testB holds no images, BMP, .* and WEBP")


@pytest.mark.parametrize("content", [b"", b"no image", "cut"])
def test_a_file_that_cannot_be_read(folder, tmp_path, content):
    file = folder / "trainB" / "3.png"
    file.write_bytes(file.read_bytes()[:200] if content == "cut" else content)
    refused(folder, tmp_path, r"trainB/3\.png: cannot be read as an image")


def test_several_pictures_in_one_file(folder, tmp_path):
    picture(1).save(folder / "trainB" / "3.png", save_all=True, append_images=[picture(2)])
    refused(folder, tmp_path, r"trainB/3\.png: 2 pictures in one file")


def test_what_is_transparent_is_put_on_the_background(folder, tmp_path):
    Image.new("RGBA", (20, 20), (1, 2, 3, 0)).save(folder / "trainA" / "0.png")
    assert (fetched(folder, tmp_path).train.images[0] == 255).all()


def test_a_link_that_leads_nowhere(folder, tmp_path):
    (folder / "testA" / "9.png").symlink_to("gone.png")
    refused(folder, tmp_path, r"testA/9\.png: a link that leads nowhere")


def test_originals_that_are_gone_name_the_command_that_gets_them(folder, tmp_path):
    with pytest.raises(PipelineError, match=r"raw/trainA: no images; run `dvc repro --force"):
        (tmp_path / "raw" / "trainA").mkdir(parents=True)
        configured(folder).read(tmp_path / "raw")


def test_params_must_name_the_folder(tmp_path):
    made = edited(tmp_path, "name: mnist-5k", "name: unpaired-folder")
    told = complaint(made)
    assert re.search(r"params\.yaml: data\.folder = '': .*trainA, trainB", told)
    assert "data.title = 'mnist-5k': another data set is called so" in told
    named = (
        made.read_text()
        .replace("title: mnist-5k", "title: cats")
        .replace('folder: ""', "folder: elsewhere/cat2dog", 1)
    )
    made.write_text(named)
    assert "data.folder = 'elsewhere/cat2dog': there is no such folder" in complaint(made)


@pytest.mark.parametrize(
    "place", ["data/raw", "data/raw/photos", "data", ".", "metrics", "work/photos", ".git"]
)
def test_a_folder_that_the_pipeline_removes_is_refused_and_nothing_happens(
    folder, tmp_path, monkeypatch, place
):
    """DVC would remove the photos before the stage that reads them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (tmp_path / place / name).mkdir(exist_ok=True)
    with pytest.raises(PipelineError, match=r"params\.yaml: data\.folder = .*removes"):
        configured(Path(place))


def test_links_into_what_the_pipeline_removes_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "data" / "raw" / "trainA"
    inside.parent.mkdir(parents=True)
    (folder / "trainA").rename(inside)
    (folder / "trainA").symlink_to(inside)
    with pytest.raises(PipelineError, match=r"data\.folder = .*cat2dog/trainA'.* lies in data/raw"):
        configured(folder)


def test_what_will_come_of_it_is_known_from_the_names_alone(folder, tmp_path):
    for i in range(6, 20):
        picture(i).save(folder / "trainA" / f"{i}.png")
        picture(50 + i).save(folder / "trainB" / f"{i}.png")
    given = Data(name="unpaired-folder", folder=str(folder), size=20)
    found = configured(folder).expected(given)
    parts = splits.split(fetched(folder, tmp_path), given)
    assert found.spec.shape == parts["train"].images.shape[1:] and found.spec.classes == 2
    assert found.by_class == {
        name: np.bincount(part.labels).tolist() for name, part in parts.items()
    }
    assert found.counts == {name: len(part) for name, part in parts.items()}


def test_too_few_images_are_known_at_once(folder):
    given = Data(name="unpaired-folder", folder=str(folder), size=20, val_fraction=0.01)
    with pytest.raises(PipelineError, match="class 'cat' has 5 images to carve a val split"):
        configured(folder).expected(given)


def test_other_data_sets_take_no_notice_of_the_folder():
    data = Data(name="mnist", folder="somewhere")
    assert sources.load("mnist").configured(data) is sources.load("mnist")


def test_every_key_of_the_section_has_a_default_that_the_file_shows():
    section = params.section(params.read(COMMITTED), "data")
    assert (section.folder, section.size) == ("", 64)


# The real thing ----------------------------------------------------------------------------


def test_a_real_folder_becomes_two_domains(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"needs the real files in {SHARED}; GENERATIVE_SHARED may name ../shared")
    raw = fetched(SHARED, tmp_path, size=32)
    assert raw.classes == ["apple", "tomato"]
    assert raw.train.images.shape == (1200, 3, 32, 32)
    assert raw.test.images.shape == (240, 3, 32, 32)
    corners = raw.train.images[:, :, 0, 0]
    assert (corners > 200).all()  # a white background
    red, green = raw.train.images[:, :2, 16, 16].mean(axis=0)
    assert red > green
    parts = splits.split(raw, Data(name="unpaired-folder", folder=str(SHARED), size=32))
    write(tmp_path / "processed", "unpaired-folder", raw.classes, parts)
    made, names = domains.make(Store(tmp_path / "processed"), Domains(transformation="classes"))
    assert names == ["apple", "tomato"]
    sizes = {part: (len(each.images), len(each.others)) for part, each in made.items()}
    assert sizes == {"train": (540, 540), "val": (60, 60), "test": (120, 120)}
