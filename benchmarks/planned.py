"""Whether a run ends when `plan --minutes` says that it will.

In a clone of this commit, with the data of this folder and nothing that was trained before:
``python -m pipeline plan --minutes N --write`` measures the models and changes params.yaml, and
then a whole run is timed. Let nothing else compute meanwhile.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError

MINUTES = (6, 12)


def options(parser: argparse.ArgumentParser) -> None:
    """What may be said on the command line."""
    parser.add_argument("--minutes", type=float, nargs="*", default=MINUTES, help="asked for")
    parser.add_argument("--models", nargs="*", help="of params.yaml, if not all")


def run(given: argparse.Namespace) -> None:
    """Measure, and write the rows."""
    rows = []
    for minutes in given.minutes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(planned(Path(folder) / "project", minutes, given.models))
        print(results.line(rows[-1]), flush=True)
        results.write("planned", {"rows": rows})


def planned(clone: Path, minutes: float, models: list[str] | None) -> dict[str, Any]:
    """A plan for so many minutes, and how long the run took.

    Returns:
        ``minutes`` that were asked for, ``real_minutes``, ``budget`` that was proposed, how many
        ``models``, and ``planning_seconds``.

    Raises:
        PipelineError: if a command fails, such as one that has too little time.
    """
    _done("git", "clone", "--quiet", str(Path.cwd()), str(clone))
    # What was run before tells how long it took, which a first run cannot know.
    (clone / paths.DVC_LOCK).unlink(missing_ok=True)
    for path in (clone / paths.METRICS).rglob("*"):
        if path.is_file() and path.name != "README.md":  # these keep folders that DVC asks for
            path.unlink()
    if models:
        _keep(clone / paths.PARAMS, models)
    python = (sys.executable, "-m")
    _done(*python, "dvc", "repro", "--quiet", "preprocess", folder=clone)
    began = time.perf_counter()
    _done(*python, "pipeline", "plan", "--minutes", f"{minutes:g}", "--write", folder=clone)
    planning = time.perf_counter() - began
    began = time.perf_counter()
    _done(*python, "pipeline", "repro", folder=clone)
    real = time.perf_counter() - began
    raw = params.read(clone / paths.PARAMS)
    return {
        "minutes": minutes,
        "real_minutes": real / 60,
        "budget": raw["train"]["budget"],
        "models": len(raw["models"]),
        "planning_seconds": planning,
    }


def _keep(path: Path, models: list[str]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    raw = yaml.load(path)
    for name in [each for each in raw["models"] if each not in models]:
        del raw["models"][name]
    yaml.dump(raw, path)


def _done(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise PipelineError(f"{' '.join(command)}: exit code {done.returncode}: {''.join(last)}")
    return done.stdout
