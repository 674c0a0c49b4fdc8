import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from dvc.fs import LocalFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.core import files
from pipeline.orchestration import dvc_process

ROOT = Path(__file__).parents[2]
GRAPH = """
stages:
  one:
    cmd: python -m stages.one
    params: [a, b.c]
    outs: [one.txt]
  two:
    cmd: python -m stages.two word
    deps: [one.txt]
    outs: [two.txt]
  bad:
    cmd: python -m stages.bad
    outs: [bad.txt]
"""
ONE = """
import sys
open("one.txt", "w").write(str(sys.stdin.read()))
print("one ran in", open("/proc/self/cmdline").read().split(chr(0))[1:4])
"""
TWO = """
import os, sys
import pipeline.core.words
print(os.environ["DVC_STAGE"], sys.argv[1:], flush=True)
open("two.txt", "w").write(open("one.txt").read() + pipeline.core.words.WORD)
"""
PARAMS = "a: 1\nb:\n  c: [x, 2.5, true]\n  d: 0\n"
BAD = "import sys; print('error: as asked', file=sys.stderr); sys.exit(5)"


@pytest.fixture
def project(tmp_path):
    """Two stages and one that fails, with a module that they import."""
    for folder in ("stages", "pipeline/core", "pipeline/orchestration"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("stages", "pipeline", "pipeline/core", "pipeline/orchestration"):
        (tmp_path / folder / "__init__.py").write_text("")
    for name in ("dvc_process", "lock_text"):
        source = ROOT / f"pipeline/orchestration/{name}.py"
        (tmp_path / f"pipeline/orchestration/{name}.py").write_text(source.read_text())
    (tmp_path / "pipeline/core/words.py").write_text("WORD = 'first'")
    for name, code in (("one", ONE), ("two", TWO), ("bad", BAD)):
        (tmp_path / f"stages/{name}.py").write_text(code)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text(PARAMS)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    run(tmp_path, "dvc", "init", "-q")
    return tmp_path


def environment():
    binaries = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": "",
    }


def run(folder, module, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        **options,
    )


def serve(folder, *calls):
    """What a worker answers to these calls."""
    text = "".join(json.dumps(call) + "\n" for call in calls)
    return run(folder, "pipeline.orchestration.dvc_process", input=text)


def lock(folder):
    return (folder / "dvc.lock").read_text()


def test_what_is_written_is_what_dvc_writes(project):
    assert run(project, "dvc", "repro", "one", "two").returncode == 0
    plain = lock(project)
    (project / "dvc.lock").unlink()
    done = serve(project, ["repro", "--force", "one", "two"])
    assert done.stdout.splitlines()[-1] == f"{dvc_process.END}0", done.stderr
    assert YAML(typ="safe").load(lock(project)) == YAML(typ="safe").load(plain)
    assert lock(project) == plain
    assert [each.name for each in project.glob(".dvc.*")] == []
    # An unchanged one is left as it is, and what DVC wrote is read.
    assert serve(project, ["repro", "--force", "two"]).returncode == 0
    assert lock(project) == plain


def worker(folder, **options):
    """A worker that waits for calls."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.orchestration.dvc_process"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        **options,
    )


def call(process, *arguments):
    """The last line of what a worker answers to a call."""
    process.stdin.write(json.dumps(arguments) + "\n")
    for line in process.stdout:  # which ends if the worker does
        if line.startswith(dvc_process.END):
            return line.strip()
    return None


@pytest.mark.slow
def test_workers_that_write_in_turn_write_what_dvc_does(project):
    """Each remembers the file as it was when it last looked."""
    steps = [
        ("one", "a: 1", 0),
        ("two", "a: 1", 1),
        ("one", "a: six", 0),
        ("one", "a: 1.0", 1),
    ]
    workers = [worker(project) for _ in range(2)]
    texts = {"workers": [], "dvc": []}
    for way, found in texts.items():
        (project / "dvc.lock").unlink(missing_ok=True)
        for stage, value, which in steps:
            (project / "params.yaml").write_text(PARAMS.replace("a: 1", value))
            arguments = ("repro", "-s", "--force", stage)
            if way == "dvc":
                assert run(project, "dvc", *arguments).returncode == 0
            else:
                assert call(workers[which], *arguments) == f"{dvc_process.END}0"
            found.append(lock(project))
    for process in workers:
        process.stdin.close()
        assert process.wait(20) == 0
    assert texts["workers"] == texts["dvc"]
    assert len(set(texts["dvc"])) == len(steps)


def test_a_lock_that_somebody_wrote_serves_as_with_dvc(project):
    """With another order and comments, which are lost when it is written."""
    assert run(project, "dvc", "repro", "one", "two").returncode == 0
    plain = lock(project)
    head, one, two = re.split("(?m)^(?=  [a-z])", plain)
    by_hand = f"# mine\n{head}{two}# between\n{one}"
    (project / "dvc.lock").write_text(by_hand)
    done = serve(project, ["repro", "one", "two"], ["repro", "--force", "one", "two"])
    assert done.stdout.count("didn't change") == 2, done.stdout
    assert done.stdout.count("Running stage") == 2
    assert lock(project) == by_hand
    (project / "params.yaml").write_text(PARAMS.replace("a: 1", "a: 2"))
    assert serve(project, ["repro", "one"]).returncode == 0
    changed = re.sub(r"(?m)^( +)a: 1$", r"\1a: 2", one)
    assert lock(project) == head + two + changed != head + two + one


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("    cmd: python -m stages.two", "    cmd: 'python"),
        lambda text: text.replace("    cmd: python -m stages.two word\n", "    cmd: 5\n"),
        lambda text: text.replace("    outs:\n    - path: two", "    outs:\n    - way: two"),
    ],
    ids=["quote", "number", "key"],
)
def test_a_damaged_lock_is_refused_in_dvcs_words(project, damage):
    assert run(project, "dvc", "repro", "one", "two").returncode == 0
    text = damage(lock(project))
    assert text != lock(project)
    (project / "dvc.lock").write_text(text)
    plain = run(project, "dvc", "repro", "one")
    quick = serve(project, ["repro", "one"])
    assert plain.returncode != 0 and f"{dvc_process.END}0" not in quick.stdout
    assert "ERROR" in plain.stderr or "dvc.lock" in plain.stderr
    assert quick.stderr == plain.stderr
    assert lock(project) == text


KEYS = st.sampled_from(["a", "b", "models", "1", "x-y", "é", "c.d"])
TREES = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.none()),
    lambda each: st.lists(each, max_size=2) | st.dictionaries(KEYS | st.integers(0, 2), each),
    max_leaves=12,
)


@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.dictionaries(KEYS, TREES, max_size=3),
    st.lists(st.lists(KEYS | st.sampled_from(["0", "*", "[ab]"]), min_size=1).map(".".join)),
)
@example({"a": {1: 2}}, ["a.1"])
@example({"ab": 1}, ["a*"])
@example({"a": [{"b": 1}]}, ["a"])
def test_parameters_are_those_that_dvc_finds(tmp_path, content, names):
    from dvc.dependency import param

    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
    with path.open("w") as stream:
        YAML(typ="safe").dump(content, stream)
    slowly = getattr(param.read_param_file, "quicker_than", param.read_param_file)
    here = LocalFileSystem()

    def found(read):
        try:
            return read(here, str(path), names, flatten=True)
        except ValueError as error:  # a pattern that fits more than one
            return repr(error)

    quick = found(dvc_process._picking(slowly))
    assert repr(quick) == repr(found(slowly))
    if isinstance(quick, dict) and isinstance(quick.get("a"), list | dict):
        quick["a"].clear()  # which is the caller's own
        assert repr(found(dvc_process._picking(slowly))) == repr(found(slowly))


def test_files_of_another_commit_are_left_to_dvc(tmp_path):
    """Which gives them paths that may be those of files in the folder."""
    path = tmp_path / "dvc.lock"
    path.write_text("schema: '2.0'\nstages:\n  one:\n    cmd: here\n")
    there = object()
    file = SimpleNamespace(repo=SimpleNamespace(fs=there), path=str(path), validate=lambda _: None)

    def dvcs(*_, **__):
        return "there"

    assert dvc_process._remembering(dvcs)(path, there) == "there"
    assert dvc_process._picking(dvcs)(there, path, ["schema"], flatten=True) == "there"
    assert dvc_process._loading(dvcs)(file) == "there"
    file.repo.fs = LocalFileSystem()
    assert dvc_process._loading(dvcs)(file)[0]["stages"] == {"one": {"cmd": "here"}}


def test_files_in_memory_are_found_among_all_of_them_and_forgotten_after_a_call(monkeypatch):
    import dvc.cli
    from fsspec.implementations.memory import MemoryFileSystem

    fs, seen = MemoryFileSystem(), []
    slowly = getattr(MemoryFileSystem.info, "quicker_than", MemoryFileSystem.info)
    quick = dvc_process._finding(slowly)

    def fill(arguments):
        fs.pipe_file("memory://folder/file", b"12345")
        for path in ("memory://folder/file", "/folder/file", "memory://folder"):
            seen.append(slowly(fs, path))
            assert quick(fs, path) == seen[-1]
        with pytest.raises(FileNotFoundError):
            quick(fs, "memory://folder/fil")
        return 7

    monkeypatch.setattr(dvc.cli, "main", fill)
    monkeypatch.setattr(dvc_process, "_make_quick", lambda: None)
    assert dvc_process.main([]) == 7
    assert [each["type"] for each in seen] == ["file", "file", "directory"]
    assert seen[0]["size"] == 5
    assert not fs.exists("memory://folder/file")


def test_what_is_left_of_a_lock_has_a_name_that_is_swept(project, monkeypatch):
    """As of a process that is killed while it writes."""
    (project / "dvc.lock").write_text("stages: {}\n")
    monkeypatch.chdir(project)
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # no process can have this number
    monkeypatch.setattr(os, "replace", lambda *_: None)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with dvc_process._modifying(None)("dvc.lock") as lock:
        lock["stages"] = {"one": {}}
    monkeypatch.undo()
    [left] = project.glob(".*lock")
    files.sweep(project / "dvc.lock")
    assert not left.exists()


def test_stages_have_their_own_arguments_environment_and_no_input(project):
    done = serve(project, ["repro", "one", "two"], ["repro", "two"])
    assert "two ['word']" in done.stdout
    assert (project / "one.txt").read_text() == ""
    assert done.stdout.count(dvc_process.END) == 2
    assert "didn't change" in done.stdout


def test_each_stage_imports_the_project_as_it_is_then(project):
    """A copy of the process must not bring along modules that were edited meanwhile."""
    process = worker(project)
    for word in ("first", "second"):
        (project / "pipeline/core/words.py").write_text(f"WORD = {word!r}")
        call(process, "repro", "--force", "one", "two")
        assert (project / "two.txt").read_text() == word
    process.stdin.close()
    assert process.wait(20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere stages are processes of their own")
def test_stages_are_copies_of_the_worker_which_spares_their_imports(project):
    assert "one ran in ['-m', 'pipeline.orchestration.dvc_process']" in serve(
        project, ["repro", "one"]
    ).stdout.replace(", ''", "")


def test_a_copy_whose_output_is_gone_does_not_go_on_as_the_worker(project):
    """As when whoever reads has been killed."""
    process = worker(project, stderr=subprocess.STDOUT)
    started = project / "stages/one.py"
    started.write_text(
        "import time\nopen('one.txt', 'w').close()\nprint('x')\ntime.sleep(1)\nprint('y')"
    )
    process.stdin.write(json.dumps(["repro", "--force", "one"]) + "\n")
    process.stdin.write(json.dumps(["repro", "--force", "two"]) + "\n")
    while not (project / "one.txt").exists():
        time.sleep(0.05)
    process.stdout.close()
    process.stdin.close()
    process.wait(30)
    left = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(project)]
    assert not psutil.wait_procs(left, timeout=5)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere stages are processes of their own")
def test_a_stage_that_is_interrupted_while_it_is_imported_says_so_in_a_word(project):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)"
    (project / "stages/bad.py").write_text(code)
    done = serve(project, ["repro", "bad"])
    assert "stopped" in done.stderr.splitlines() and "Traceback" not in done.stderr
    assert "exited with 130" in done.stderr


def test_a_parameter_that_changed_between_calls_is_seen(project):
    process_calls = [["repro", "one"], ["repro", "--dry", "one"]]
    assert "Running stage" in serve(project, process_calls[0]).stdout
    (project / "params.yaml").write_text("a: 2\nb:\n  c: [x, 2.5, true]\n  d: 0\n")
    assert "Running stage 'one'" in serve(project, process_calls[1]).stdout
    (project / "params.yaml").write_text("a: 1\nb:\n  c: [x, 2.5, true]\n  d: 9\n")
    assert "didn't change" in serve(project, process_calls[1]).stdout


def test_a_stage_that_fails_fails_the_call_and_not_the_worker(project):
    done = serve(project, ["repro", "bad"], ["repro", "one"])
    codes = [line for line in done.stdout.splitlines() if line.startswith(dvc_process.END)]
    assert codes[0] != f"{dvc_process.END}0" and codes[1] == f"{dvc_process.END}0"
    assert "error: as asked" in done.stderr


def test_torch_is_imported_ahead_for_those_stages_alone_that_need_it_at_once():
    graph = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    others = {f"stages.{name}" for name in graph} - set(dvc_process.COMPUTING)
    assert len(others) == len(graph) - len(dvc_process.COMPUTING)
    for name in dvc_process.COMPUTING:
        assert "torch" in (ROOT / f"{name.replace('.', '/')}.py").read_text()
    code = f"import sys, {', '.join(others)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_with_arguments_it_is_dvc(project):
    done = run(project, "pipeline.orchestration.dvc_process", "repro", "--dry", "one")
    assert done.returncode == 0
    assert "Running stage 'one'" in done.stdout


RESTORED = """
stages:
  drawn:
    cmd: cp $DRAWN drawn.txt; cp $DRAWN shown.txt
    deps: [given.txt]
    outs:
      - drawn.txt
    metrics:
      - shown.txt:
          cache: false
"""


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A project whose one stage gave two results for one input, of which dvc.lock has the first."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    run(tmp_path, "dvc", "init", "-q")
    run(tmp_path, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    (tmp_path / "dvc.yaml").write_text(RESTORED)
    for name in ("given", "first", "second"):
        (tmp_path / f"{name}.txt").write_text(name)
    locks = []
    for name in ("second", "first"):
        monkeypatch.setenv("DRAWN", f"{name}.txt")
        assert run(tmp_path, "dvc", "repro", "--force").returncode == 0
        locks.append((tmp_path / "dvc.lock").read_text())
    return tmp_path, locks


def restore(folder):
    arguments = [dvc_process.RESTORE, "repro", "--pull", "--single-item", "drawn"]
    return subprocess.run(
        [sys.executable, "-m", "pipeline.orchestration.dvc_process", *arguments],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def entry_of(folder, lock):
    """Where DVC's run-cache has the result that a dvc.lock names."""
    (hashed,) = (
        each["md5"]
        for each in YAML(typ="safe").load(lock)["stages"]["drawn"]["outs"]
        if each["path"] == "drawn.txt"
    )
    (found,) = (each for each in (folder / ".dvc/cache/runs").rglob("*") if hashed in text_of(each))
    return found


def text_of(path):
    return path.read_text() if path.is_file() else ""


def test_restoring_takes_the_newest_result_whatever_the_lock_says(drawn):
    folder, (second, first) = drawn
    assert (folder / "drawn.txt").read_text() == "first"
    os.utime(entry_of(folder, first), (1, 1))
    done = restore(folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "dvc.lock").read_text() == second
    assert (folder / "drawn.txt").read_text() == (folder / "shown.txt").read_text() == "second"


def test_restoring_runs_nothing_and_changes_nothing_if_a_file_is_missing(drawn):
    folder, (_, first) = drawn
    os.utime(entry_of(folder, first), (1, 1))
    (cached,) = (
        path for path in (folder / ".dvc/cache/files").rglob("*") if text_of(path) == "second"
    )
    cached.unlink()
    done = restore(folder)
    assert done.returncode != 0
    assert "error: drawn: what was made of it elsewhere did not arrive; run it again" in done.stdout
    assert (folder / "dvc.lock").read_text() == first
