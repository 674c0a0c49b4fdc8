import subprocess
import sys
from pathlib import Path

from pipeline.orchestration import install

ROOT = Path(__file__).parents[2]
PIP = """
import sys, time
print("Collecting torch==2.11.0")
print("  Downloading torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl (530.6 MB)")
print("Installing collected packages: a, b")
time.sleep(2.5)
if "fail" in sys.argv:
    print("ERROR: No space left on device")
    sys.exit(1)
"""


def run(tmp_path, *options):
    """The installer with a pip that installs nothing."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text("# words\na==1\nb==2\n")
    (tmp_path / "pip.py").write_text(PIP)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "pip.py"} "$@"\n')
    python.chmod(0o755)
    code = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.orchestration import install
from pathlib import Path
install.QUIET_SECONDS = 0.5
sys.exit(install.main(Path(".venv"), {list(options)!r}))
"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )


def test_it_says_what_it_takes_and_shows_that_it_lives(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert "about 2 packages" in first and "GB" in first
    assert any("unpacking 2 packages" in line for line in others)
    assert "Collecting torch" in (tmp_path / ".venv/install.log").read_text()


def test_a_failure_is_told_with_pips_reason_and_where_the_rest_is(tmp_path):
    done = run(tmp_path, "fail")
    assert done.returncode == 1
    assert "ERROR: No space left on device" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(".venv/install.log")


def test_what_pip_says_is_told_apart(tmp_path):
    shown = install.Shown(tmp_path, 190)
    shown.line("Collecting torch==2.11.0 (from generative-families==0.1.0)")
    assert shown.what == "package 1 of 190: torch"
    shown.line("  Downloading torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl (530.6 MB)")
    assert shown.what == "package 1 of 190: downloading torch-2.11.0 (530.6 MB)"


def test_it_needs_the_standard_library_alone():
    """make runs it before anything is installed."""
    code = f"import runpy; runpy.run_path({str(ROOT / 'pipeline/orchestration/install.py')!r})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
