"""The pipeline with other seeds: the same stages in a copy of the project, one DVC cache.

A copy, since params.yaml holds one seed, and what a person works on must not change under them.
DVC's run-cache is shared, so whatever was once trained with a seed is never trained again with it.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.comparison import results
from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.orchestration import dvc_workers, repro

COPIED = (paths.CODE, Path("stages"), paths.DVC_YAML, Path(".dvcignore"))
LEFT = shutil.ignore_patterns("__pycache__", ".*")
"""What is not copied of these folders."""


@contextmanager
def alone() -> Iterator[str]:
    """Let in one command at a time that makes copies; gives the `state` that all are of.

    Raises:
        PipelineError: if another one runs in this folder.
    """
    taken = "make thorough, baseline or verify is already running in this folder; wait for it"
    with stage.locked("replicas", taken):
        yield state()


def state() -> str:
    """Hash of params.yaml, the graph and the code."""
    sources = {str(path): files.sha256(path, ".py") for path in COPIED if path.exists()}
    return files.sha256_of({"params": params.read(), "sources": sources})


def confirm(before: str) -> None:
    """See to it that what is reported together was made by one state of the project.

    Raises:
        PipelineError: if the state is not what it was ``before``.
    """
    if state() != before:
        raise PipelineError(
            f"{paths.PARAMS}, {paths.DVC_YAML}, {paths.CODE}/ or stages/ changed since this began; "
            "start it again: what was trained is kept"
        )


def training_seeds(raw: dict[str, Any], trainings: int) -> list[tuple[int, int]]:
    """(train.seed, sample.seed) of so many trainings, of which the first is the default run's.

    Each has samples of its own. Whoever counts like this shares what was trained before.
    """
    start = params.section(raw, "train").seed, params.section(raw, "sample").seed
    return [(start[0] + k, start[1] + k) for k in range(trainings)]


def trainings(seeds: int, jobs: int | None) -> list[dict[str, dict[str, Any]]]:
    """The metrics of all models by name, of so many trainings, each of which is paid for once.

    The first is the default run, which is brought up to date; the runs are those of
    `pipeline.orchestration.thorough`.

    Raises:
        PipelineError: if it runs already, a stage failed, or the project changed meanwhile.
    """
    raw = params.read()
    with alone() as state:
        repro.reproduce(jobs, None, force=False)
        runs = [_metrics(raw)]
        for place, chosen in enumerate(training_seeds(raw, seeds)[1:], start=2):
            print(f"baseline: training {place} of {seeds}", flush=True)
            runs.append(measure(*chosen, jobs, state))
        confirm(state)
    return runs


def measure(
    train_seed: int, sample_seed: int, jobs: int | None, before: str
) -> dict[str, dict[str, Any]]:
    """The metrics of all models, trained and sampled with these seeds, by name.

    An interrupted copy is kept and goes on where it was; a finished one is removed.

    Args:
        train_seed: of all trainings.
        sample_seed: of all samples.
        jobs: models at a time, as of `pipeline.orchestration.repro.reproduce`.
        before: the `state` that the copy must be of.

    Raises:
        PipelineError: if a stage failed, for the same reasons, or the project's state is another
            one.
    """
    folder = paths.replica(train_seed, sample_seed)
    raw = params.read()
    raw["train"]["seed"], raw["sample"]["seed"] = train_seed, sample_seed
    copy(folder, raw)
    confirm(before)
    command = [sys.executable, "-m", "pipeline", "repro", "--no-compare"]
    if jobs:
        command += ["--jobs", str(jobs)]
    reasons: list[str] = []

    def line(text: str) -> None:
        if text.startswith("error: "):
            reasons.append(f"{folder}: {text.removeprefix('error: ')}")
        else:
            print(text, file=sys.stderr, flush=True)

    code = dvc_workers.to_its_end(command, line, cwd=folder, env=dvc_workers.within(folder))
    if code != 0:
        raise PipelineError("\n".join(reasons) or f"{folder}: exit code {code}, without a word")
    found = _metrics(raw, folder)
    files.remove(folder)
    return found


def _metrics(raw: dict[str, Any], folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """The metrics of all models that the project in ``folder`` has, by name."""
    home = params.results(raw)
    return {
        name: results.of_model(name, folder / home.model_metrics(name))
        for name in params.model_blocks(raw)
    }


def copy(folder: Path, raw: dict[str, Any]) -> None:
    """Put the code, the graph and these parameters into a folder, and the cache within reach.

    Files and folders that the parameters name are neither copied nor linked: the copy finds them by
    their absolute paths, and whatever removes the copy cannot reach them.
    """
    with files.writing(lambda: str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        for source in COPIED:
            if source.is_dir():
                files.remove(folder / source)
                _copy_folder(source, folder / source)
            elif source.exists():
                shutil.copy(source, folder / source)
        if paths.DVC_LOCK.exists() and not (folder / paths.DVC_LOCK).exists():
            shutil.copy(paths.DVC_LOCK, folder / paths.DVC_LOCK)
        (folder / ".dvc").mkdir(exist_ok=True)
    raw = deepcopy(raw)
    for block, key in ((raw["data"], "folder"), (raw["evaluate"].get("inception", {}), "weights")):
        if block.get(key):
            block[key] = str(Path(block[key]).expanduser().absolute())
    yaml = YAML(typ="safe")
    yaml.sort_base_mapping_type_on_output = False  # models start in the order of the file
    with files.replacing(folder / paths.PARAMS) as temporary:
        yaml.dump(raw, temporary)
    # The copy lies where git does not look, which DVC would refuse.
    lines = ["[core]", "no_scm = true", "analytics = false", "check_update = false", "[cache]"]
    lines += [f"dir = {dvc_workers.cache()}"]
    files.write_text(folder / ".dvc" / "config", "\n".join(lines) + "\n")


def _copy_folder(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, ignore=LEFT)
    except shutil.Error as error:
        *_, reason = error.args[0][0]  # the first of as many as there are files
        raise PipelineError(f"{source}: cannot be copied to {target}: {reason}") from None
