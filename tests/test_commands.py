"""`python -m pipeline <command>`: help, exit codes, and what each command hands on."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compared import HOME, rewrite, verdict
from compared import project as project
from ruamel.yaml import YAML

from pipeline import __main__ as cli
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.gate import command as gate_command
from pipeline.orchestration import own_images, replicas, repro, thorough
from pipeline.tracking import live

ROOT = Path(__file__).parents[1]
LIBRARIES = ("dvc", "mlflow", "numpy", "pandas", "pydantic", "rich", "torch")
NEEDED = {
    "inspect": ["photos"],
    "plan": ["--minutes", "20"],
    "preset": ["32"],
    "register": ["vae"],
    "verify": ["vae"],
    "floors": ["floors.json"],
    "evaluate-images": ["images", "--name", "x"],
}
"""Arguments of commands that do not run without some."""


@pytest.fixture(autouse=True)
def _signals():
    """`main` has the process end on SIGTERM as on Ctrl-C; a test's process goes on afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(name, monkeypatch, does):
    """The exit code of a command whose function is ``does``."""
    monkeypatch.setattr(cli.COMMANDS[name], "function", does)
    return cli.main([name, *NEEDED.get(name, [])])


def raising(error):
    def function(options):
        raise error

    return function


def shown(arguments, capsys):
    """What help says, in one line."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_says_in_one_sentence_what_it_does(name):
    command = cli.COMMANDS[name]
    assert command.name == name
    assert name == name.lower() and "_" not in name
    assert command.help.strip() == command.help
    assert command.help.endswith(".") and "\n" not in command.help


def test_help_lists_every_command_with_what_it_does(capsys):
    told = shown(["--help"], capsys)
    assert len(cli.COMMANDS) >= 10
    for name, command in cli.COMMANDS.items():
        assert f"{name} {command.help}" in told


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_explains_all_its_arguments(name, capsys):
    command = cli.COMMANDS[name]
    told = shown([name, "--help"], capsys)
    assert command.help in told
    for flags, options in command.arguments:
        assert options["help"], flags
        assert all(flag in told for flag in flags)
        assert options["help"] in told


def test_help_and_mistakes_wait_for_no_library():
    tried = [["--help"], ["nonsense"], ["gate", "--nonsense"], ["repro", "--jobs", "0"]]
    tried += [[name, "--help"] for name in cli.COMMANDS]
    code = (
        "import contextlib, io, json, sys\n"
        "from pipeline.__main__ import main\n"
        f"for arguments in {tried!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main(arguments)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert "pipeline" in loaded
    assert not set(LIBRARIES) & set(loaded)


# --- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_that_has_nothing_to_say_succeeds(name, monkeypatch):
    assert run(name, monkeypatch, lambda options: None) == 0


def test_what_a_command_returns_is_its_exit_code(monkeypatch):
    for code in (0, 1):
        assert run("gate", monkeypatch, lambda options, code=code: code) == code


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_mistake_is_told_line_by_line_and_has_the_commands_own_exit_code(
    name, monkeypatch, capsys
):
    code = run(name, monkeypatch, raising(PipelineError("first\nsecond")))
    assert code == cli.COMMANDS[name].failure
    assert code == (2 if name == "gate" else 1), "1 would read as a regression"
    printed = capsys.readouterr()
    assert printed.err == "error: first\nerror: second\n"
    assert printed.out == ""


def test_what_nobody_thought_of_is_no_answer_of_the_gate(monkeypatch, capsys):
    assert run("gate", monkeypatch, raising(ZeroDivisionError("odd"))) == 2
    assert "ZeroDivisionError: odd" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "gate"])
def test_what_nobody_thought_of_keeps_its_traceback(name, monkeypatch):
    with pytest.raises(ZeroDivisionError, match="odd"):
        run(name, monkeypatch, raising(ZeroDivisionError("odd")))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_ctrl_c_exits_with_130(name, monkeypatch, capsys):
    assert run(name, monkeypatch, raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_what_is_asked_to_end_ends_as_with_ctrl_c(monkeypatch, capsys):
    def ended(options):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    assert run("repro", monkeypatch, ended) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: command"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["repro", "--jobs", "0"], "must be a whole number, at least 1, not '0'"),
        (["thorough", "--jobs", "two"], "must be a whole number, at least 1, not 'two'"),
        (["baseline", "--seeds", "1"], "must be a whole number, at least 2, not '1'"),
        (["ui", "--port", "80"], "must be a whole number, at least 1024, not '80'"),
        (["ui", "--port", "70000"], "must be at most 65535, not '70000'"),
        (["register"], "required: model"),
        (["register", "vae", "--alias", "best"], "invalid choice: 'best'"),
        (["evaluate-images", "folder"], "required: --name"),
        (["floors"], "required: file"),
    ],
)
def test_arguments_that_are_wrong_are_told_and_nothing_runs(arguments, told, monkeypatch, capsys):
    for command in cli.COMMANDS.values():
        monkeypatch.setattr(command, "function", lambda options: pytest.fail("ran"))
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_names_are_separated_by_commas_whatever_stands_around_them():
    assert cli.names("vae, gan ,,ddpm,") == ["vae", "gan", "ddpm"]


def test_numbers_have_limits():
    assert [cli.at_least(2)(text) for text in ("2", "30")] == [2, 30]
    for text in ("1", "-3", "2.5", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 2"):
            cli.at_least(2)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="at most 5"):
        cli.at_least(2, 5)("6")


def test_a_command_is_declared_once_by_its_function(monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", {})

    @cli.command(cli.argument("--often", type=int, default=3, help="how often"), failure=7)
    def say_it(options):
        """Say it.

        As often as it takes.
        """
        said.append(options.often)

    said = []
    assert cli.main(["say-it", "--often", "5"]) == 0
    assert cli.main(["say-it"]) == 0
    assert said == [5, 3]
    assert cli.COMMANDS["say-it"].help == "Say it."
    assert cli.COMMANDS["say-it"].failure == 7


# --- what commands hand on -----------------------------------------------------------------------


@pytest.fixture
def spoiled(tmp_path, monkeypatch):
    """A folder whose params.yaml has a mistake in a section of a room and one in a model."""
    monkeypatch.chdir(tmp_path)
    raw = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    raw["gate"]["metrics"]["fid"]["better"] = "smaller"
    raw["models"]["vae"]["family"] = "veh"
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump(raw, stream)


def test_check_finds_mistakes_of_all_rooms_at_once(spoiled, capsys):
    assert cli.main(["check"]) == 1
    told = capsys.readouterr().err
    assert "gate.metrics.fid.better = 'smaller'" in told
    assert "models.vae.family: unknown family 'veh'" in told
    assert all(line.startswith("error: ") for line in told.splitlines())


def test_check_says_so_where_there_is_no_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", paths.PARAMS)
    assert cli.main(["check"]) == 0
    assert capsys.readouterr().out == "params.yaml is valid\n"


@pytest.mark.parametrize(
    ("name", "module", "work"),
    [
        ("live", live, "follow"),
        ("thorough", thorough, "run"),
        ("baseline", gate_command, "renew"),
    ],
)
def test_what_takes_long_validates_params_first(name, module, work, spoiled, monkeypatch, capsys):
    monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("began"))
    assert cli.main([name]) == 1
    assert "gate.metrics.fid.better = 'smaller'" in capsys.readouterr().err


def test_repro_hands_its_options_and_the_check_on(monkeypatch):
    asked = []
    monkeypatch.setattr(repro, "reproduce", lambda *args, **options: asked.append((args, options)))
    assert cli.main(["repro"]) == 0
    assert cli.main(["repro", "--jobs", "3", "--models", "vae,gan", "--force", "--no-compare"]) == 0
    here = {"check": cli.introduce, "scheduler": None}
    assert asked == [
        ((None, None), {"force": False, "compare": True, **here}),
        ((3, ["vae", "gan"]), {"force": True, "compare": False, **here}),
    ]
    assert cli.main(["repro", "--scheduler", "tcp://head:8786"]) == 0
    assert asked[-1][1]["scheduler"] == "tcp://head:8786"
    adopted = []
    monkeypatch.setattr(own_images, "adopt", lambda *args: adopted.append(args))
    assert cli.main(["repro", "--images", "~/photos"]) == 0
    assert adopted == [("~/photos", cli.validate)]
    assert asked[-1][1]["check"] == cli.validate  # what is in it was said


def test_baseline_trains_as_often_as_it_is_told(monkeypatch):
    monkeypatch.setattr(cli, "validate", lambda: None)
    monkeypatch.setattr(replicas, "trainings", lambda seeds, jobs: [(seeds, jobs)])
    asked = []
    monkeypatch.setattr(gate_command, "renew", lambda seeds, train: asked.append((seeds, train())))
    assert cli.main(["baseline"]) == 0
    assert cli.main(["baseline", "--seeds", "5", "--jobs", "2"]) == 0
    assert asked == [(3, [(3, None)]), (5, [(5, 2)])]


def test_recommend_prints_what_to_take(project, capsys):
    assert cli.main(["recommend"]) == 0
    printed, warned = capsys.readouterr()
    assert printed.startswith("toy. FIDs are of 20 test images")
    assert "best samples    exact (family pixelcnn), FID 3.50" in printed
    assert "after a change  no baseline of toy yet" in printed
    assert "stranger" not in printed and "broken" not in printed
    assert "broken is not ranked" in warned and "stranger is not ranked" in warned


def test_recommend_names_the_stage_that_is_missing(project, capsys):
    HOME.reference.unlink()
    assert cli.main(["recommend"]) == 1
    assert "run `dvc repro reference`" in capsys.readouterr().err


def test_judges_shows_what_they_see(project, capsys):
    rewrite(HOME.reference, judges=verdict(second=[]))
    assert cli.main(["judges"]) == 0
    told = capsys.readouterr().out
    assert "| classifiers | 98.0 to 99.0 % |" in told and "| judges without labels |" in told


@pytest.mark.slow
def test_judges_are_held_against_a_classifier(project, capsys):
    rewrite(HOME.reference, judges=verdict(second=[]))
    raw = YAML(typ="safe").load(paths.PARAMS.read_text())
    raw |= {"runtime": {}, "evaluate": {}}
    paths.PARAMS.write_text(json.dumps(raw))
    assert cli.main(["judges", "--two-sample"]) == 0
    told = capsys.readouterr().out
    assert "| model | told apart | FID |" in told
    assert re.search(r"\| alpha \| 0\.\d{3} \| 5\.00 \|", told), told
    assert "stranger" not in told and "broken" not in told
    assert re.search(r"correlation with it: FID -?[01]\.\d\d\.$", told.strip())


def test_judges_of_an_older_version_are_one_line(project, capsys):
    assert cli.main(["judges"]) == 1
    assert "says nothing of the judges; `make repro` measures them" in capsys.readouterr().err
