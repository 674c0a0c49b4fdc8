import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from params_files import complaint, edited

from pipeline.core import params, ranks, stage
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
  results:
    cmd: echo
    deps: ["metrics/${data.title}/models"]
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


def test_declared_resolves_the_data_sets_title(project):
    assert stage.declared("results").deps == [Path("metrics/mnist-5k/models")]
    edit_params("title: mnist-5k", "title: mine")
    assert stage.declared("results").deps == [Path("metrics/mine/models")]
    edit_params("title: mine", "title: ../mine")
    with pytest.raises(PipelineError, match=r"data\.title = '\.\./mine': should be up to 40"):
        stage.declared("results")


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


def run_python(folder: Path, code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def code(tmp_path):
    """A copy of the code and the graph."""
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_code_is_looked_at_before_anything_else_is_imported(code):
    done = run_python(
        code,
        "import sys; before = set(sys.modules); import stages\n"
        "more = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "ours = {name for name in sys.modules if name.startswith('pipeline')}\n"
        "assert not more - {'stages', 'pipeline', *sys.stdlib_module_names}, more\n"
        "assert ours == {'pipeline', 'pipeline.core', 'pipeline.core.startup'}, ours",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("edit", "refused"),
    [
        ("Path('pipeline/core/seeds.py').open('a').write('# edited')", True),
        ("Path('stages/preprocess.py').open('a').write('# edited')", True),
        ("Path('pipeline/core/seeds.py').touch()", True),
        ("Path('pipeline/core/new.py').write_text('')", True),
        ("Path('pipeline/core/cost.py').unlink()", True),
        ("Path('pipeline/families/vae.py').open('a').write('# no dependency of it')", False),
        ("Path('pipeline/core/notes.txt').write_text('no code')", False),
    ],
)
def test_code_that_is_edited_while_python_imports_is_never_recorded_as_used(code, edit, refused):
    done = run_python(
        code,
        "import runpy, sys; import stages; from pathlib import Path\n"
        f"{edit}\n"
        "sys.argv = ['preprocess']; runpy.run_module('stages.preprocess', run_name='__main__')",
    )
    assert done.returncode == 1  # there is nothing to preprocess, if it comes to that
    assert ("changed while Python was starting" in done.stderr) == refused, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_stage_that_is_stopped_says_so_in_one_line(code, number):
    done = run_python(
        code,
        "import os, signal, time; from pipeline.core import stage\n"
        "def main():\n"
        "    with stage.guard('preprocess'):\n"
        f"        os.kill(os.getpid(), signal.{number}); time.sleep(9)\n"
        "stage.run(main)",
    )
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_work_that_cannot_be_written_is_one_line(code):
    (code / "work").write_text("a file")
    done = run_python(
        code,
        "from pipeline.core import stage\n"
        "def main():\n"
        "    with stage.guard('preprocess'): pass\n"
        "stage.run(main)",
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: work/locks/preprocess\.lock: cannot be written: .*\n", done.stderr)


def test_more_threads_than_cores_are_as_many_as_cores(monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert stage.threads_of(params.Runtime(threads=2)) == 2
    assert capsys.readouterr().err == ""
    assert stage.threads_of(params.Runtime(threads=64)) == 2
    assert "runtime.threads = 64: this machine has 2 cores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "stages.judge: missing"),
        (b"stages: []", "stages.judge: missing"),
        (b"stages: {judge: 5}", "stages.judge: missing"),
        (b"stages: {", "not valid YAML"),
        (b"\0", "not valid YAML"),
        (b"\xff", "not UTF-8"),
        (b"<<<<<<< HEAD\nstages:", "not valid YAML"),
    ],
)
def test_a_broken_graph_is_one_line(project, content, told):
    Path("dvc.yaml").write_bytes(content)
    with pytest.raises(PipelineError, match=told) as caught:
        stage.declared("judge")
    assert str(caught.value).startswith("dvc.yaml")
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def rank_1_of_2(monkeypatch):
    monkeypatch.setattr(ranks, "_rank", 1)
    monkeypatch.setattr(ranks, "_size", 2)


def test_rank_0_holds_the_lock_for_all_ranks(project, rank_1_of_2, monkeypatch):
    with stage.guard("one") as other:
        monkeypatch.setattr(ranks, "_rank", 0)
        with stage.guard("one") as guard:
            assert other.fingerprint == guard.fingerprint
            monkeypatch.setattr(ranks, "_rank", 1)
            Path("code.py").write_text("x = 2\n")
            with pytest.raises(PipelineError, match=r"code\.py changed"):
                other.confirm()


def test_what_computed_is_named_with_its_number(rank_1_of_2):
    import torch

    assert stage.device_name(torch.device("cpu")) == "2 x cpu"


@pytest.mark.parametrize(
    ("devices", "environment", "does_it"),
    [
        (1, {}, True),
        (2, {}, False),
        (2, {"RANK": "1", "WORLD_SIZE": "2"}, True),
        (1, {"RANK": "0", "WORLD_SIZE": "1"}, True),
        (2, {"RANK": "0", "WORLD_SIZE": "1"}, False),
    ],
)
def test_a_stage_does_it_starts_ranks_or_is_one(
    project, monkeypatch, devices, environment, does_it
):
    edit_params("devices: 1 ", f"devices: {devices} ")
    edit_params("device: auto", "device: cpu")
    taken = []
    monkeypatch.setattr(ranks, "take_place", lambda *place: taken.append(place))
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stage._take_place() == does_it
    assert taken == ([(1, 2)] if environment.get("RANK") == "1" else [])


@pytest.mark.parametrize(("devices", "size"), [(1, 2), (2, 3), (3, 2)])
def test_as_many_ranks_as_params_yaml_does_not_say_are_refused(project, monkeypatch, devices, size):
    edit_params("devices: 1 ", f"devices: {devices} ")
    edit_params("device: auto", "device: cpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(size))
    with pytest.raises(PipelineError, match=rf"runtime\.devices = {devices}: {size} processes"):
        stage._take_place()
