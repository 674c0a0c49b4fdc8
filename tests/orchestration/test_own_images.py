"""What `inspect` says of a folder, what is chosen for it, and how params.yaml comes to say so."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clone import Clone
from params_files import COMMITTED, validate
from PIL import Image
from ruamel.yaml import YAML

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.orchestration import estimate, own_images, params_text, preset


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    shutil.copy(COMMITTED, "params.yaml")


def put(place, count, size=(60, 50), first=0, mode="RGB"):
    folder = Path("../photos", place)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).convert(mode).save(folder / f"{seed}.png")


def inspected(folder="../photos"):
    return own_images.inspect(folder, params.read())


def test_what_is_said_of_a_folder():
    put("cat", 60)
    put("dog", 60, (80, 50), 100)
    image = Image.new("RGBA", (70, 50), (1, 2, 3, 40))
    image.save("../photos/dog/clear.png")
    image.save("../photos/dog/copy.webp", lossless=True)
    image.save("../photos/dog/anim.gif", save_all=True, append_images=[Image.new("RGB", (70, 50))])
    Path("../photos/dog/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    Path("../photos/read.me").write_text("mine")
    told = own_images.told(inspected())
    assert told.startswith("../photos: 123 images\n")
    for text in (
        "formats     PNG 121, GIF 1, WEBP 1",
        "RGBA 2",
        "; partly transparent, and put on white: 2",
        "60x50 to 80x50, most often",
        "labels      2 classes, the folders cat (60) and dog (63)",
        "splits      used: 88 train, 10 val, 25 test",
        "1 image is a copy of another",
        "1 image that cannot be read:\n              ../photos/dog/broken.jpg: cannot be",
        "all but the first picture of 1 file with several",
        "1 file that is no image",
        "size 64, since the shorter sides of the images have 50 pixels",
        "3 channels, since 121 of 123 images are in colour",
        "preset 64, networks and trainings for images of this size",
        "sample.n auto: 25, all images of the test split",
        "judge.features 8, as FIDs of 25 images tell no more apart",
    ):
        assert text in told, told
    assert re.search(r"time        about \d+ minutes for all 20 models on \d+ core", told)
    assert max(map(len, told.splitlines())) <= own_images.WIDTH


@pytest.mark.parametrize(
    ("size", "mode", "chosen", "channels"),
    [
        ((28, 28), "L", 28, 1),
        ((40, 30), "RGB", 32, 3),
        ((32, 32), "RGB", 32, 3),
        ((300, 200), "RGB", 64, 3),
    ],
)
def test_the_size_follows_the_images(size, mode, chosen, channels):
    put("", 20, size, mode=mode)
    found = inspected()
    assert found.values["data.size"] == chosen
    assert found.scan.channels == channels


def test_a_folder_that_cannot_be_used_says_why():
    put("", 5)
    found = inspected()
    assert "put at least 7 different images there" in found.problem
    assert "problem" in own_images.told(found)
    with pytest.raises(PipelineError, match="at least 7"):
        own_images.adopt("../photos", validate)
    assert Path("params.yaml").read_text() == COMMITTED.read_text()


def test_params_name_the_folder_and_what_it_allows(capsys):
    put("", 120)
    own_images.adopt("../photos", validate)
    raw = YAML(typ="safe").load(Path("params.yaml").read_text())
    wanted = YAML(typ="safe").load(COMMITTED.read_text())
    wanted = params_text.with_values(wanted, preset.values("64", wanted))
    wanted["data"] |= {"name": "folder", "title": "photos", "folder": "../photos"}
    wanted["judge"]["features"] = 8  # of sample.n: auto, here 24
    assert raw == wanted
    assert raw["models"]["vae"]["network"]["latent"] == 64
    told = capsys.readouterr().out
    assert "@ sample\n-  n: 1000" in told and "+  n: auto  " in told
    assert "@ models.vae.network\n-      latent: 24" in told
    validate(Path("params.yaml"))
    before = Path("params.yaml").read_text()
    own_images.adopt(str(Path("../photos").resolve()), validate)
    assert "says so already" in capsys.readouterr().out
    assert Path("params.yaml").read_text() == before


def test_a_folder_with_results_comes_back_as_it_was(capsys):
    put("", 120)
    own_images.adopt("../photos", validate)
    mine = Path("params.yaml").read_text().replace("latent: 64 ", "latent: 5 ")
    home = paths.Results("photos")
    home.folder.mkdir(parents=True)
    home.params.write_text(mine)
    shutil.copy(COMMITTED, "params.yaml")
    own_images.adopt("../photos/.", validate)
    assert Path("params.yaml").read_text() == mine
    assert "params.yaml: as it was for metrics/photos" in capsys.readouterr().out
    assert Path("metrics/mnist-5k/params.yaml").read_text() == COMMITTED.read_text()


def test_what_params_said_for_other_images_is_kept_with_their_results():
    put("", 120)
    Path("metrics/mnist-5k").mkdir(parents=True)
    own_images.adopt("../photos", validate)
    assert Path("metrics/mnist-5k/params.yaml").read_text() == COMMITTED.read_text()
    mine = Path("params.yaml").read_text()
    Path("metrics/photos").mkdir()  # of a run that failed, so that nothing else is there
    shutil.copytree("../photos", "../more")
    own_images.adopt("../more", validate)
    assert Path("metrics/photos/params.yaml").read_text() == mine
    own_images.adopt("../photos", validate)
    assert Path("params.yaml").read_text() == mine


def test_another_folder_of_the_same_name_has_another_title():
    put("", 120)
    own_images.adopt("../photos", validate)
    paths.Results("photos").folder.mkdir(parents=True)
    shutil.copy("params.yaml", paths.Results("photos").params)
    shutil.copy(COMMITTED, "params.yaml")
    Path("../more").mkdir()
    shutil.copytree("../photos", "../more/photos")
    own_images.adopt("../more/photos", validate)
    assert params.section(params.read(), "data").title == "photos-2"


def test_a_limit_is_counted_with():
    put("", 120)
    own_images.adopt("../photos", validate)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(
        re.sub("limit: 0 ", "limit: 50 ", text, count=1).replace("test_limit: 0 ", "test_limit: 9 ")
    )
    found = inspected()
    assert found.splits["train"] == 50 and found.splits["test"] == 9
    assert "sample.n auto: 9, all images of the test split" in own_images.told(found)


def test_what_a_person_set_for_the_folder_stays():
    put("", 120)
    own_images.adopt("../photos", validate)
    text = Path("params.yaml").read_text()
    text = text.replace("size: 64 ", "size: 32 ").replace("n: auto ", "n: 9 ")
    text = text.replace("features: 8 ", "features: 9 ").replace("latent: 64 ", "latent: 5 ")
    Path("params.yaml").write_text(text)
    own_images.adopt("../photos", validate)
    assert Path("params.yaml").read_text() == text
    told = own_images.told(inspected())
    assert "networks and trainings of no preset, as params.yaml has it" in told
    assert "sample.n 9, of 24 images of the test split" in told
    assert "judge.features 9, not below sample.n: covariances of 9 images are" in told
    assert "8 would be better" in told
    Path("params.yaml").write_text(text.replace("n: 9 ", "n: 99 "))
    own_images.adopt("../photos", validate)
    assert params.section(params.read(), "sample").n == 24  # more cannot be had


def test_few_images_take_a_smaller_batch_of_the_judge(capsys):
    put("", 60)
    own_images.adopt("../photos", lambda path: None)
    assert params.section(params.read(), "judge").batch == 32


def test_what_check_refuses_leaves_everything_as_it_was():
    put("", 40)  # of which 29 are trained on: fewer than the models' batches
    with pytest.raises(PipelineError) as caught:
        own_images.adopt("../photos", validate)
    told = str(caught.value)
    assert "params.yaml: models.ddpm.training.batch = 32: there are only 29" in told
    assert told.endswith("params.yaml: left as it was") and "work/" not in told
    assert Path("params.yaml").read_text() == COMMITTED.read_text()
    assert not (paths.WORK / "params.yaml").exists()


@pytest.mark.parametrize("place", ["data/raw", "metrics", "work/mine", "."])
def test_what_the_tools_own_is_refused(place):
    Path(place).mkdir(parents=True, exist_ok=True)
    with pytest.raises(PipelineError, match=rf"^{place}: it (is|lies in|contains) .*removes"):
        own_images.adopt(place, validate)


def test_home_is_known_and_odd_names_are_shown(monkeypatch):
    put("", 20)
    monkeypatch.setenv("HOME", str(Path("..").resolve()))
    assert inspected("~/photos").values["data.folder"] == "~/photos"
    Path("../photos").rename("../a\nb #1: 'x'")
    found = inspected("../a\nb #1: 'x'")
    assert own_images.told(found).splitlines()[0] == "../a\\nb #1: 'x': 20 images"
    assert own_images.slug(Path("../a\nb #1: 'x'")) == "a-b-1-x"
    for folder in ("~/nowhere", "/nowhere"):
        with pytest.raises(PipelineError, match=f"^{folder}: there is no such folder"):
            inspected(folder)


def test_a_run_begins_with_what_is_in_the_folder(capsys):
    own_images.introduce()
    assert capsys.readouterr().out == ""
    put("", 120)
    own_images.adopt("../photos", validate)
    capsys.readouterr()
    own_images.introduce()
    told = capsys.readouterr().out
    assert told.startswith("../photos: 120 images\n")
    assert "preset 64, as params.yaml has it" in told
    assert "sample.n auto: 24, all images of the test split" in told
    Path("../photos").rename("../elsewhere")
    with pytest.raises(PipelineError, match=r"^params.yaml: data\.folder = '../photos': there is"):
        own_images.introduce()


def test_the_time_is_of_what_params_will_say():
    put("", 60, (160, 150))
    before = inspected().seconds
    text = COMMITTED.read_text().replace("images: 52000", "images: 900000")
    Path("params.yaml").write_text(text)
    assert inspected().seconds == before  # the preset has 52,000
    own_images.adopt("../photos", lambda path: None)
    assert inspected().seconds == before
    text = Path("params.yaml").read_text().replace("images: 52000", "images: 900000")
    Path("params.yaml").write_text(text)
    assert inspected().seconds > 3 * before


@pytest.mark.parametrize(
    ("n", "features"),
    [(1000, 64), (512, 64), (511, 32), (256, 32), (255, 16), (64, 16), (63, 8), (7, 8)],
)
def test_few_images_take_fewer_features(n, features):
    counted = {"train": 4 * n, "val": n, "test": n}
    found, values, why = own_images._numbers(counted, params.read(), known=False)
    assert found == n
    assert values["sample.n"] == "auto" and values["judge.features"] == features
    assert any("judge.features" in each for each in why) == (features < 64)
    assert any("not below" in each for each in why) == (n < 8)


def test_larger_and_more_images_take_longer():
    raw = params.read()
    spec = ImageSpec
    small = estimate.of_all(raw, spec(1, 28, 28, 10), 5000, 1000, 2)
    assert 200 < small < 800  # the committed run takes six minutes on two cores
    assert 3 < estimate.of_all(raw, spec(3, 64, 64, 1), 5000, 1000, 2) / small < 12
    assert estimate.of_all(raw, spec(1, 28, 28, 10), 5000, 1000, 1) > 1.5 * small


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(5, "1 minute"), (400, "7 minutes"), (2000, "35 minutes"), (9000, "2.5 hours")],
)
def test_times_are_told_roughly(seconds, told):
    assert estimate.roughly(seconds) == told


@pytest.mark.slow
def test_one_command_from_a_folder_to_results(tmp_path):
    (tmp_path / "clone").mkdir()
    clone = Clone(tmp_path / "clone", ("ae",))
    put("cat", 40, (16, 16), mode="L")
    put("dog", 40, (16, 16), 100, mode="L")
    command = ("pipeline", "repro", "--images", "../photos", "--models", "ae")
    told = clone.run(*command).stdout
    assert "labels      2 classes, the folders cat (40) and dog (40)" in told
    assert "+  n: auto" in told
    metrics = json.loads(clone.text("metrics/photos/models/ae.json"))
    assert metrics["n_samples"] == metrics["n_reference"] == 16
    assert clone.text("metrics/photos/comparison.md").startswith("# Comparison\n\nphotos: 16 ")
    assert "ae " in told and "the report: " in told
    before = clone.text("dvc.lock")
    again = clone.run(*command).stdout
    assert "params.yaml says so already" in again and "Nothing changed" in again
    assert clone.text("dvc.lock") == before
    for place, file in enumerate(sorted(Path("../photos").rglob("*.png"))):
        file.rename(file.with_name(f"{-place % 7}-{place}.png"))
    clone.run(*command)  # other names, the same images
    assert clone.lock()["train@ae"] == YAML(typ="safe").load(before)["stages"]["train@ae"]
    (clone.folder / "params.yaml").unlink()
    assert "no such file" in clone.run("pipeline", "inspect", "../photos", check=False).stderr
