"""Does a training here give the committed bits? Models are trained again in a copy of the project.

Data come from DVC's cache where it has them. The trainings are forced, and nothing of them goes
into the cache: if their bits are others, no later run may take them for the project's own.
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipeline.comparison import dvc_lock, results
from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.orchestration import dvc_output, plan, replicas, repro
from pipeline.orchestration.display import Display, forget_logs
from pipeline.orchestration.dvc_workers import Slots

FOLDER = paths.REPLICAS / "verify"
EVERY = "all"
CHAIN = "verify-{}"
"""Chains have logs of their own: those of the last run stay."""
VERIFIED = "verified: weights and curve are the committed ones, to the last bit"
PROMISE = (
    "bits are promised for the same instruction set, device, and builds of torch and NumPy\n"
    "(docs/reproducibility.md); on others a training is another draw of the same experiment"
)
COMPUTING = ("torch", "numpy", "scikit-learn", "scipy", "pillow")
"""Packages that may move bits."""
CONSTRAINTS = Path("constraints.txt")


@dataclass(frozen=True)
class Recorded:
    """What a dvc.lock says of a training, and the curve that lies beside it.

    Attributes:
        data: hashes of what it was trained on, by path.
        weights: hash of the folder of weights.
        curve_hash: of the curve.
        curve: its lines, as of `pipeline.comparison.results.curve`; None if there is no file.
    """

    data: dict[str, str]
    weights: str
    curve_hash: str
    curve: list[dict[str, str]] | None


def run(names: Sequence[str], jobs: int | None) -> bool:
    """Train models again, and say of each whether its bits are the committed ones.

    Args:
        names: of models, or ``all``.
        jobs: models at a time; None for the number of cores, or of GPUs where they are used.

    Returns:
        whether weights and curves of all of them are, to the last bit.

    Raises:
        PipelineError: if dvc.lock does not say what to compare with, or a training fails.
    """
    raw = params.read()
    every, home = params.model_blocks(raw), params.results(raw)
    models = list(every) if list(names) == [EVERY] else list(dict.fromkeys(names))
    for name in models:
        if name not in every:
            raise PipelineError(f"MODEL: {params.one_of('model', name, every)}")
    if not models:
        raise PipelineError(f"MODEL: name at least one: {', '.join(every)}; or {EVERY}")
    with replicas.alone() as state:
        entries = dvc_lock.entries()
        before = {name: recorded(name, entries, home) for name in models}
        with _copy(raw) as folder:
            replicas.confirm(state)
            _retrain(folder, {name: every[name]["data"] for name in models}, before, jobs, home)
            again = dvc_lock.entries(folder / paths.DVC_LOCK)
            after = {name: recorded(name, again, home, folder) for name in models}
    found = {
        name: differences(name, home.curve(name), before[name], after[name]) for name in models
    }
    for name, told in found.items():
        print("\n  ".join([f"{name}: {'OTHER BITS' if told else VERIFIED}", *told]))
    for line in here(raw):
        print(line)
    if any(before[name].weights != after[name].weights for name in models):
        print(PROMISE)
    return not any(found.values())


def recorded(
    model: str, entries: dict[str, Any], home: paths.Results, folder: Path = Path()
) -> Recorded:
    """What the project in ``folder``, whose dvc.lock has these entries, has of a training.

    ``home`` is relative to that folder.

    Raises:
        PipelineError: if the training has no entry, or the curve is damaged.
    """
    entry = entries.get(f"train@{model}", {})
    outs, deps = (
        {each["path"]: each.get("md5", "") for each in entry.get(key, [])}
        for key in ("outs", "deps")
    )
    weights, curve = (outs.get(str(of(model))) for of in (paths.model_dir, home.curve))
    if not weights or not curve:
        raise PipelineError(
            f"{paths.DVC_LOCK}: train@{model}: there is no entry to compare with; "
            f"`make repro MODELS={model}` first"
        )
    try:
        lines = results.curve(folder / home.curve(model))
    except FileNotFoundError:
        lines = None
    data = {path: md5 for path, md5 in deps.items() if Path(path).is_relative_to(paths.DATA)}
    return Recorded(data, weights, curve, lines)


def differences(model: str, curve: Path, before: Recorded, after: Recorded) -> list[str]:
    """In what a training and the committed one differ, in lines for people; none if they do not.

    ``curve`` is where the committed curve is, or should be.
    """
    parted = part(before.curve, after.curve or []) if before.curve is not None else None
    told = []
    if before.weights != after.weights:
        told.append(f"{paths.model_dir(model)} is not what {paths.DVC_LOCK} names")
    if before.curve_hash != after.curve_hash:
        told.append(f"{curve} is not what {paths.DVC_LOCK} names")
    elif parted:
        told.append(f"the file {curve} is not the one that {paths.DVC_LOCK} names; it was edited")
    if parted:
        told.append(parted)
    elif told and before.curve is None:
        told.append(f"there is no file {curve}, so nobody can say at which step they part")
    elif told and before.curve_hash == after.curve_hash:
        told.append(
            "the curves are the same: only the final weights differ, after the last step that was "
            f"logged, {before.curve[-1]['step'] if before.curve else 0}"
        )
    elif told:
        told.append(f"but the file {curve} is: {paths.DVC_LOCK} is of another training than it")
    return told


def part(committed: Sequence[dict[str, str]], again: Sequence[dict[str, str]]) -> str | None:
    """Where two curves part, with the values of both; None if they are the same."""
    same = "the beginning"
    for old, new in zip_longest(committed, again):
        if old is None or new is None:
            which, row = ("committed one", old) if new is None else ("one from here", new)
            return f"they are the same up to {same}, but the {which} goes on to step {row['step']}"
        keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
        if keys:
            values = [
                f"{key} is {new.get(key) or 'not there'} here and {old.get(key) or 'not there'} "
                "as committed"
                for key in keys
            ]
            return f"they part at step {old['step']}, after {same}: {', '.join(values)}"
        same = f"step {old['step']}"
    return None


def here(raw: dict[str, Any]) -> list[str]:
    """What bits depend on, of this machine and installation."""
    import torch

    device = stage.device_of(params.section(raw, "runtime"))
    facts = [_processor(), torch.backends.cpu.get_cpu_capability()]
    if device.type == "cuda":
        facts = [stage.device_name(device), f"CUDA {torch.version.cuda}"]
    limits = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    facts += [f"{name}={os.environ[name]}" for name in limits if os.environ.get(name)]
    facts += [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    others = [
        f"{name} {version} ({pinned})"
        for name, pinned in _pins().items()
        if (version := _version(name)).partition("+")[0] != pinned
    ]
    return [
        f"this machine: {', '.join(facts)}",
        f"packages that compute: {', '.join(others) or 'all'} "
        f"{'instead of what' if others else 'as'} {CONSTRAINTS} says",
    ]


def _processor() -> str:
    """What the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _pins() -> dict[str, str]:
    """The versions of `COMPUTING` that constraints.txt has."""
    try:
        text = CONSTRAINTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pins = dict(line.split("==", 1) for line in text.splitlines() if "==" in line)
    return {name: pins[name].strip() for name in COMPUTING if name in pins}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


@contextmanager
def _copy(raw: dict[str, Any]) -> Iterator[Path]:
    """A copy of the project as it is, which is gone after the block, whatever happens."""
    with files.writing(lambda: str(FOLDER)):
        files.remove(FOLDER)  # one whose process was killed
    try:
        replicas.copy(FOLDER, raw)
        yield FOLDER
    finally:
        with files.writing(lambda: str(FOLDER)):
            files.remove(FOLDER)


def _retrain(
    folder: Path,
    data: dict[str, str],
    before: dict[str, Recorded],
    jobs: int | None,
    home: paths.Results,
) -> None:
    """Make the data and train the models in the copy.

    Raises:
        PipelineError: if code, parameters or data are not those of dvc.lock, or a stage does not
            come to its end.
    """
    made = CHAIN.format("data")
    makers = sorted({plan.DATA_STAGE[each] for each in data.values()})
    needed = [name for name in plan.DATA_STAGES if name in {*plan.ALL_NEED, *makers}]
    chains = {CHAIN.format(name): [f"train@{name}"] for name in data}
    default, gpus = plan.default_jobs()
    with repro.slots_until_failure(folder) as slots:
        _refuse_stale(slots, [name for chain in chains.values() for name in chain])
        slots.grow(jobs or default, gpus)
        forget_logs([made, *chains])
        with Display({made: needed, **chains}, jobs or default, home) as display:
            if repro.Runner(slots, display).run(made, makers, single=False):
                _refuse_other_data(folder, before)
                runner = repro.Runner(slots, display, ["--force", "--no-commit"])
                runner.run_models(chains, list(chains))
        if display.errors:
            raise PipelineError(repro.reasons(display))


def _refuse_stale(slots: Slots, stages: Sequence[str]) -> None:
    """Refuse what was trained by other code or parameters than today's."""
    said: list[str] = []
    code = slots.run(["status", "--json", *stages], said.append)
    found = next((json.loads(text) for text in said if text.startswith("{")), None)
    if code != 0 or found is None:
        raise PipelineError("\n".join(dvc_output.failure(said, code).lines))
    for name, states in found.items():
        changed = ["its command"] if "changed checksum" in states else []
        for state in states:
            deps = state.get("changed deps", {}) if isinstance(state, dict) else {}
            for path, how in deps.items():
                if path == str(paths.PARAMS):
                    changed += how if isinstance(how, dict) else [path]
                elif not Path(path).is_relative_to(paths.DATA):  # the copy has none yet
                    changed.append(path)
        if changed:
            raise PipelineError(
                f"{name}: {', '.join(changed)} changed since it was trained, so there is nothing "
                "to compare with; `make repro` first"
            )


def _refuse_other_data(folder: Path, before: dict[str, Recorded]) -> None:
    """Refuse to train on other images than those of the committed trainings."""
    entries = dvc_lock.entries(folder / paths.DVC_LOCK)
    made = {
        each["path"]: each.get("md5")
        for name in plan.DATA_STAGES
        for each in entries.get(name, {}).get("outs", [])
    }
    for name, known in before.items():
        for path, md5 in known.data.items():
            if made.get(path) != md5:
                raise PipelineError(
                    f"train@{name}: {path} is no longer what it was trained on, so there is "
                    "nothing to compare with; if images, parameters or code changed, `make repro` "
                    "first"
                )
