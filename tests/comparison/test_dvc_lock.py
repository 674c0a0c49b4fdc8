from pathlib import Path

import pytest

from pipeline.comparison import dvc_lock
from pipeline.core import paths
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).parents[2]
LOCK = """schema: '2.0'
stages:
  train@vae:
    cmd: python -m stages.train vae
    deps:
    - path: data/processed
      hash: md5
      md5: 3f8548cefbac95179be4a3e3df06fe9b.dir
      size: 3961577
    params:
      params.yaml:
        train.seed: 0
    outs:
    - path: data/models/vae
      hash: md5
      md5: a7c49f5b1a6c5ec9f1f0ef6a1f8a1a11.dir
  sample@vae:
    cmd: python -m stages.sample vae
  evaluate@vae:
    cmd: python -m stages.evaluate vae
"""


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths.DVC_LOCK.write_text(LOCK)
    return paths.DVC_LOCK


def test_what_was_recorded_is_read_by_stage(lock):
    found = dvc_lock.entries()
    assert list(found) == ["train@vae", "sample@vae", "evaluate@vae"]
    assert found["train@vae"]["params"] == {"params.yaml": {"train.seed": 0}}
    assert dvc_lock.read()["schema"] == "2.0"
    assert dvc_lock.missing("vae", found) == []
    assert dvc_lock.missing("gan", found) == ["train@gan", "sample@gan", "evaluate@gan"]
    assert len(dvc_lock.of_model("vae", found)) == 64
    assert dvc_lock.of_model("gan", found) is None


def test_the_committed_one_is_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {"compare", "track", "train@vae"} <= dvc_lock.entries().keys()


@pytest.mark.parametrize("content", ["", "schema: '2.0'\n", "stages: {}\n"])
def test_where_nothing_was_recorded_there_is_nothing(lock, content):
    lock.write_text(content)
    assert dvc_lock.entries() == {}


def test_no_file_is_told_with_what_makes_one(lock):
    lock.unlink()
    with pytest.raises(PipelineError, match=r"^dvc\.lock: no such file; run `make repro` first$"):
        dvc_lock.entries()
    with pytest.raises(FileNotFoundError):
        dvc_lock.read()


def up_to(text):
    """The lines before the one that has ``text``."""
    return LOCK[: LOCK.rindex("\n", 0, LOCK.index(text)) + 1]


BROKEN = {
    "conflict": (f"{LOCK}<<<<<<< HEAD\n  a: 1\n=======\n  b: 2\n>>>>>>> x\n", "conflict"),
    "cut in a value": (LOCK[: LOCK.index("3961577") + 3], "cut in its last line"),
    "cut in a key": (LOCK[: LOCK.index("md5: 3f") + 2], "cut in its last line"),
    "cut before a hash": (up_to("md5: 3f"), "md5 of data/processed is missing"),
    "cut before outs": (up_to("outs:"), "stages.train@vae: outs: missing"),
    "cut before a command": (up_to("cmd: python -m stages.sa"), "stages.sample@vae"),
    "no hash": (LOCK.replace("a7c49f5b", ""), "md5 of data/models/vae = '1a6c5ec9f1f0ef6a1f8a1a11"),
    "a text for a file": (up_to("- path: data/models") + "    - pat\n", "outs.0 = 'pat'"),
    "not UTF-8": (b"\xff\xfe", "not UTF-8 text"),
    "NUL": (b"\x00" * 9 + b"\n", "not valid YAML"),
    "HTML": ("<html><b>404: </b></html>\n", "nothing that DVC wrote"),
    "tab": ("stages:\n\tx: 1\n", "not valid YAML"),
    "twice": (LOCK + "  sample@vae:\n    cmd: x\n", "not valid YAML"),
    "list": ("- 1\n", "should be a valid dictionary"),
    "text": ("junk\n", "should be a valid dictionary"),
    "no stages": ("stages: 5\n", "stages = 5: should be a valid dictionary"),
    "null stages": ("stages:\n", "stages = None: should be a valid dictionary"),
    "no command": ("stages:\n  a:\n    deps: []\n", "stages.a"),
    "foreign tag": ("stages: !!python/object:os.system {}\n", "not valid YAML"),
    "deep": ("[" * 3_000 + "\n", "not valid YAML"),
    "date": ("stages: 2020-99-99\n", ""),
}


@pytest.mark.parametrize(("content", "told"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_dvc_lock_is_told_in_one_line(lock, content, told):
    lock.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PipelineError) as raised:
        dvc_lock.entries()
    (line,) = str(raised.value).splitlines()
    assert line.startswith("dvc.lock:") and told in line and len(line) < 300
    assert "git" in line and "make repro" in line


def test_a_folder_is_no_dvc_lock(lock):
    lock.unlink()
    lock.mkdir()
    with pytest.raises(PipelineError, match=r"^dvc\.lock: cannot be read: Is a directory"):
        dvc_lock.entries()
