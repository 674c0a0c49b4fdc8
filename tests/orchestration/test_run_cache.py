import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.orchestration import run_cache

GRAPH = """
stages:
  made:
    cmd: echo $WORD > cached.txt; echo shown > shown.txt
    deps: [given.txt]
    outs:
      - cached.txt
    metrics:
      - shown.txt:
          cache: false
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project in which a stage was run, and the entry of it, as a worker prints it."""
    folder = tmp_path_factory.mktemp("made")
    project(folder)
    dvc(folder, "repro", "made")
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline.orchestration.run_cache", "made"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return folder, json.loads(shown.stdout)


def project(folder):
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "given.txt").write_text("given")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "-q")


def dvc(folder, *arguments):
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True)


def test_an_entry_is_what_dvc_wrote_with_what_it_does_not_push(made):
    folder, entry = made
    assert (folder / ".dvc/cache" / entry["path"]).read_text() == entry["text"]
    (content,) = entry["objects"].values()
    assert base64.b64decode(content) == b"shown\n"


@pytest.mark.slow
def test_what_was_taken_is_restored_elsewhere(made, tmp_path):
    folder, entry = made
    project(tmp_path)
    cache = tmp_path / ".dvc/cache"
    run_cache.take(entry, cache)
    dvc(tmp_path, "remote", "add", "-q", "--default", "store", str(tmp_path / "store"))
    dvc(folder, "remote", "add", "-q", "--force", "--default", "store", str(tmp_path / "store"))
    dvc(folder, "push", "-q")
    dvc(tmp_path, "repro", "--pull", "made")
    assert (tmp_path / "dvc.lock").read_text() == (folder / "dvc.lock").read_text()
    assert (tmp_path / "shown.txt").read_text() == "shown\n"


def test_a_taken_entry_is_the_newest(made, tmp_path):
    _, entry = made
    path = tmp_path / entry["path"]
    path.parent.mkdir(parents=True)
    path.write_text(entry["text"])
    other = path.with_name("0" * 64)
    other.write_text("of another machine")
    os.utime(path, (1, 1))
    os.utime(other, (2, 2))
    run_cache.take(entry, tmp_path)
    assert path.stat().st_mtime_ns > other.stat().st_mtime_ns


def test_damage_on_the_way_is_refused(made, tmp_path):
    _, entry = made
    (md5,) = entry["objects"]
    damaged = {**entry, "objects": {md5: base64.b64encode(b"other\n").decode()}}
    with pytest.raises(PipelineError, match="is damaged; run it again"):
        run_cache.take(damaged, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_dvc_does_not_remember_is_refused(made, monkeypatch):
    folder, entry = made
    monkeypatch.chdir(folder)
    (folder / ".dvc/cache" / entry["path"]).rename("aside")
    try:
        with pytest.raises(PipelineError, match="made: DVC does not remember what it made"):
            run_cache.show("made")
    finally:
        Path("aside").rename(folder / ".dvc/cache" / entry["path"])
