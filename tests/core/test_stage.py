import re
import subprocess
import sys
from pathlib import Path

import pytest
from params_files import complaint, edited

from pipeline.core import params, stage
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  judge:
    cmd: echo
  one:
    cmd: echo
    deps: [code.py, data, pipeline/core]
    params: [train.seed]
  each:
    foreach: ${models}
    do:
      cmd: echo ${key}
      deps: ["data/${key}", "pipeline/families/${item.family}.py"]
      params: ["models.${key}.network"]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    Path("code.py").write_text("x = 1\n")
    for folder in ("data", "pipeline/core"):
        Path(folder).mkdir(parents=True)
    Path("data/a").write_text("1")
    Path("pipeline/core/a.py").write_text("x = 1\n")
    return tmp_path


def edit_params(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new, 1))


def test_declared_resolves_the_model_and_its_family(project):
    declared = stage.declared("each", "dcgan")
    assert declared.deps == [Path("data/dcgan"), Path("pipeline/families/gan.py")]
    assert declared.params == ["models.dcgan.network"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: Path("code.py").write_text("x = 2\n"), "code.py"),
        (lambda: Path("data/b").write_text("new"), "data"),
        (lambda: Path("pipeline/core/b.py").write_text("new"), "pipeline/core"),
        (lambda: Path("pipeline/core/.a.py.swp").write_text("an editor's"), None),
        (lambda: edit_params("train:                    # what all", "train: #"), None),
        (
            lambda: edit_params("  seed: 0                 # names", "  seed: 1                 #"),
            "params.yaml:train.seed",
        ),
    ],
)
def test_a_stage_refuses_to_finish_if_what_it_depends_on_moved(project, change, name):
    with stage.guard("one") as guard:
        before = guard.fingerprint
        change()
        if name is None:
            guard.confirm()
        else:
            with pytest.raises(PipelineError, match=name):
                guard.confirm()
    with stage.guard("one") as guard:
        assert (guard.fingerprint == before) == (name is None)


def test_the_same_stage_does_not_run_twice_at_once(project):
    with (
        stage.guard("one"),
        pytest.raises(PipelineError, match="already running"),
        stage.guard("one"),
    ):
        pass
    with stage.guard("each", "vae"), stage.guard("each", "dcgan"):
        pass


def test_a_mistake_is_one_line_and_exit_code_1(project):
    edit_params("threads: 1", "thraeds: 1")
    done = subprocess.run(
        [sys.executable, "-m", "stages.judge"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_asking_for_a_gpu_that_is_not_there_is_told(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PipelineError, match=r"runtime\.device = 'cuda'"):
        stage.prepare_torch(params.Runtime(device="cuda"))
    assert stage.prepare_torch(params.Runtime(device="auto")).type == "cpu"


def test_a_gpu_that_is_not_there_is_refused_by_check(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = edited(tmp_path, "device: auto ", "device: cuda ")
    assert re.search(r"runtime.device = 'cuda'.*use auto or cpu", complaint(path))
