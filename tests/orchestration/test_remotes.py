"""What another clone takes from a remote: nothing is trained again, and damage does not pass."""

import json
import re
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from clone import Clone
from remotes import Bucket, Directory, buckets

MODEL = "vae"
OUTPUT = f"data/models/{MODEL}"
WEIGHTS = "weights.safetensors"
ALWAYS = {"inputs", "report", "track"}
"""What runs whatever is there."""
PULL = ("dvc", "pull", "--run-cache")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("remotes")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Settings of this module alone; what DVC knows of other tests' remotes is not here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        yield patch


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    """A clone that ran the whole graph, with what git holds of it committed."""
    clone = Clone(tmp_path_factory.mktemp("finished"), (MODEL,))
    # Every stage, also those that this model does not need; and then as people do.
    clone.run("pipeline.orchestration.dvc_process", "repro")
    clone.run("pipeline", "repro")
    clone.commit()
    return clone


@pytest.fixture(scope="module")
def bucket(environment):
    with buckets(environment) as found:
        yield found


@pytest.fixture(scope="module", params=[Directory, Bucket])
def remote(request, tmp_path_factory):
    """A remote; tests leave it as they found it."""
    if request.param is Directory:
        return Directory(tmp_path_factory.mktemp("store"))
    return request.getfixturevalue("bucket")


@pytest.fixture(scope="module")
def first(finished, remote, tmp_path_factory):
    """A clone that pushed what it made, as docs/remotes.md says."""
    folder = tmp_path_factory.mktemp("first") / "clone"
    shutil.copytree(finished.folder, folder, symlinks=True)
    clone = at(folder)
    clone.run("dvc", "remote", "add", "--default", "store", remote.url)
    clone.run("dvc", "remote", "modify", "store", "verify", "true")
    for key, value in remote.settings.items():
        clone.run("dvc", "remote", "modify", "store", key, value)
    clone.commit()
    clone.run("dvc", "push", "--run-cache")
    return clone


@contextmanager
def spoilt(remote, name, damage):
    """The remote with one file damaged, or gone if ``damage`` is None."""
    whole = remote.read(name)
    if damage is None:
        remote.delete(name)
    else:
        remote.write(name, damage(whole))
    try:
        yield
    finally:
        remote.write(name, whole)


def at(folder):
    """The clone in a folder."""
    clone = Clone.__new__(Clone)
    clone.folder = folder
    return clone


def cloned(first, folder):
    """A clone of a clone, with nothing but what git holds."""
    subprocess.run(["git", "clone", "--quiet", str(first.folder), str(folder)], check=True)
    return at(folder)


def done(told):
    """What `make repro` says that it did."""
    return set(re.findall(r"^(.+): done in ", told, re.M))


def changed(clone):
    """What git sees as changed."""
    return clone._git("status", "--porcelain").stdout


def content(clone):
    """All files below data/, by name."""
    folder = clone.folder / "data"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects(clone, remote):
    """The names on the remote of the model's folder and of its weights."""
    (output,) = (each for each in clone.lock()[f"train@{MODEL}"]["outs"] if each["path"] == OUTPUT)
    folder = f"files/md5/{output['md5'][:2]}/{output['md5'][2:]}"
    listed = {each["relpath"]: each["md5"] for each in json.loads(remote.read(folder))}
    return folder, f"files/md5/{listed[WEIGHTS][:2]}/{listed[WEIGHTS][2:]}"


def flipped(whole):
    at = len(whole) * 3 // 4
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def truncated(whole):
    return whole[: len(whole) // 2]


def test_another_clone_takes_the_results_and_trains_nothing(first, tmp_path):
    second = cloned(first, tmp_path / "second")
    assert not (second.folder / "data").exists()
    second.run(*PULL)
    assert done(second.run("pipeline", "repro").stdout) <= ALWAYS
    assert content(second) == content(first)
    # Metrics and dvc.lock are those that were committed.
    assert changed(second) == ""


@pytest.mark.parametrize("damage", [flipped, truncated])
def test_a_damaged_file_is_not_pulled_and_its_output_named(first, remote, tmp_path, damage):
    _, weights = objects(first, remote)
    second = cloned(first, tmp_path / "second")
    with spoilt(remote, weights, damage):
        pulled = second.run(*PULL, check=False)
    assert pulled.returncode != 0
    assert OUTPUT in pulled.stderr.splitlines()
    assert not (second.folder / OUTPUT).exists()
    assert (second.folder / f"data/samples/{MODEL}").exists()


@pytest.mark.parametrize("remote", [Directory], indirect=True)
def test_what_was_not_pulled_is_made_again_alike(first, remote, tmp_path):
    _, weights = objects(first, remote)
    second = cloned(first, tmp_path / "second")
    with spoilt(remote, weights, flipped):
        assert second.run(*PULL, check=False).returncode != 0
    assert done(second.run("pipeline", "repro").stdout) == {f"training {MODEL}", *ALWAYS}
    assert content(second) == content(first)
    assert changed(second) == ""


@pytest.mark.parametrize(("which", "damage"), [("weights", None), ("folder", truncated)])
def test_a_missing_file_and_a_damaged_listing_are_told(first, remote, tmp_path, which, damage):
    folder, weights = objects(first, remote)
    second = cloned(first, tmp_path / "second")
    with spoilt(remote, {"weights": weights, "folder": folder}[which], damage):
        assert second.run(*PULL, check=False).returncode != 0
    assert not (second.folder / OUTPUT).exists()


def test_a_damaged_file_is_pushed_again_once_it_and_its_listing_are_gone(first, remote, tmp_path):
    folder, weights = objects(first, remote)
    whole = remote.read(weights)
    with spoilt(remote, weights, flipped):
        told = cloned(first, tmp_path / "second").run(*PULL, "-v", check=False)
        assert "corrupted cache file" in told.stdout + told.stderr
        first.run("dvc", "push")
        assert remote.read(weights) != whole, "DVC looks at names: docs/remotes.md can be simpler"
        for name in (weights, folder):
            remote.delete(name)
        first.run("dvc", "push")
        assert remote.read(weights) == whole


@pytest.mark.parametrize("remote", [Directory], indirect=True)
def test_without_verify_dvc_trusts_what_it_pulls(first, remote, tmp_path):
    """Why docs/remotes.md sets it: what is damaged is taken, and nothing notices."""
    _, weights = objects(first, remote)
    second = cloned(first, tmp_path / "second")
    second.run("dvc", "remote", "modify", "--local", "store", "verify", "false")
    damaged = flipped(remote.read(weights))
    with spoilt(remote, weights, flipped):
        second.run(*PULL)
    assert (second.folder / OUTPUT / WEIGHTS).read_bytes() == damaged
    assert done(second.run("pipeline", "repro").stdout) <= ALWAYS
    assert (second.folder / OUTPUT / WEIGHTS).read_bytes() == damaged
