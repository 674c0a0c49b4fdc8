"""Run the whole graph with models side by side, through DVC itself.

DVC runs one stage at a time. Several of it may share a repository if each waits for its locks, so
the models' chains run in as many slots (`dvc_workers`) as there are cores (or GPUs), one compute
thread each. The result is that of a plain `dvc repro`: the same files, the same dvc.lock.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.orchestration import plan
from pipeline.orchestration.display import Display, forget_logs
from pipeline.orchestration.dvc_workers import STOPPED, Slots
from pipeline.orchestration.plan import (
    COMPARISON,
    DATA,
    DATA_STAGES,
    JUDGE_STAGES,
    JUDGES,
    LAST_STAGES,
)

PATIENCE_SECONDS = 20.0
"""DVC looks at what changed in a few seconds, unless it has to wait."""


def reproduce(
    jobs: int | None,
    models: Sequence[str] | None,
    *,
    force: bool,
    compare: bool = True,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Bring everything up to date, or only ``models`` and what compares them.

    A model that fails does not hide the others: its stale metrics are removed, and the comparison
    runs and marks it as failed.

    Args:
        jobs: models at a time; None for the number of cores, or of GPUs where they are used.
        models: names, or None for all.
        force: run also what did not change, past DVC's run-cache.
        compare: do what shows the results side by side, too.
        check: validates params.yaml, while DVC looks at what changed.

    Raises:
        PipelineError: if params.yaml has a mistake, something runs already, or a stage failed.
    """
    paths.LOCKS.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(paths.LOCKS / "repro.lock", timeout=0):
            _reproduce(jobs, models, force, compare, check)
    except Timeout:
        raise PipelineError("make repro is already running in this folder; wait for it") from None


def _reproduce(
    jobs: int | None,
    models: Sequence[str] | None,
    force: bool,
    compare: bool,
    check: Callable[[], None],
) -> None:
    with _slots() as slots:
        with ThreadPoolExecutor(1) as aside:
            try:
                looking = None if force else aside.submit(plan.stale_stages, slots)
                check()
                every = params.model_blocks(params.read())
                chosen = list(every) if models is None else list(models)
                for name in chosen:
                    if name not in every:
                        raise PipelineError(f"MODELS: {params.one_of('model', name, every)}")
                stale = _patiently(looking) if looking else None
            except BaseException:
                slots.stop()  # before the pool waits for what may wait for another DVC
                raise
        chains = plan.chains(chosen, every, stale, compare)
        if chains:
            default, gpus = plan.default_jobs()
            slots.grow(jobs or default, gpus)
            _run(chains, slots, jobs or default, force, compare)
            return
        tidy_lock()
        whole = models is None and compare
        what = "all models and their comparison are" if whole else f"{', '.join(chosen)}:"
        print(f"Nothing changed: {what} up to date.")
        if compare:
            _show(slots)
            print(f"the report: {_report()}")


def _patiently(looking: Future[set[str] | None]) -> set[str] | None:
    """What DVC finds; if that takes long, the likely reason is told."""
    try:
        return looking.result(PATIENCE_SECONDS)
    except TimeoutError:
        print("waiting for DVC; another one that runs in this folder holds its lock", flush=True)
        return looking.result()


def _run(chains: dict[str, list[str]], slots: Slots, jobs: int, force: bool, compare: bool) -> None:
    forget_logs(list(chains))
    models = [name for name in chains if name not in (DATA, JUDGES, COMPARISON)]
    with Display(chains, jobs) as display:
        runner = _Runner(slots, display, force)
        try:
            if DATA in chains and not runner.run(DATA, chains[DATA], single=False):
                raise PipelineError(_reasons(display, [DATA]))
            failed = runner.run_models(chains, models)
            # The others waited for judges in vain: what they have is theirs.
            failed = [name for name in failed if name in display.errors]
            for name in failed:
                # What is left is of another version of this model, and would pass for its result.
                paths.model_metrics(name).unlink(missing_ok=True)
                paths.curve(name).unlink(missing_ok=True)
            if JUDGES in display.errors:
                raise PipelineError(_reasons(display, [JUDGES, *failed]))
            if compare and not runner.run(COMPARISON, ["compare"], always=LAST_STAGES):
                raise PipelineError(_reasons(display, [COMPARISON, *failed]))
        except BaseException:
            slots.stop()
            raise
        finally:
            tidy_lock()
    if compare:
        _remember_shown()
        _conclude()
    if failed:
        raise PipelineError(_reasons(display, failed))


def _reasons(display: Display, chains: Sequence[str]) -> str:
    """Why these chains failed, once more and together; the last line names them."""
    told = []
    for chain in chains:
        for text in display.errors.get(chain, []):
            told.append(f"{chain}: {text.removeprefix('error: ')}")
    logs = ", ".join(str(paths.LOGS / f"{chain}.log") for chain in chains)
    return "\n".join([*told, f"failed: {', '.join(chains)}; all that was printed: {logs}"])


def _conclude() -> None:
    """The table, what is tied and what to take, and where the report is."""
    from pipeline.comparison import collect, recommendation, tables

    reference = collect.read_reference(paths.REFERENCE)
    rows = collect.project_rows(params.read(), reference)
    print(tables.summary(rows))
    print()
    print(recommendation.text(rows))
    for line in tables.problems(rows):
        print(line, file=sys.stderr)
    print(f"\nthe report: {_report()}")


def _report() -> str:
    return (paths.REPORT / "index.html").absolute().as_uri()


def make_judges() -> None:
    """Bring the judges and the reference rows up to date, and the data that they need.

    Raises:
        PipelineError: if a stage failed.
    """
    chains = {JUDGES: [*DATA_STAGES[:2], *JUDGE_STAGES]}
    with _slots() as slots, Display(chains, 1) as display:
        runner = _Runner(slots, display, force=False)
        if not runner.run(JUDGES, [JUDGE_STAGES[-1]], single=False):
            raise PipelineError(_reasons(display, [JUDGES]))


@contextmanager
def _slots() -> Iterator[Slots]:
    slots = Slots()
    try:
        yield slots
    except BaseException:
        slots.stop()
        raise
    slots.close()


class _Runner:
    """Runs chains of stages in slots, and tells the display what they print."""

    def __init__(self, slots: Slots, display: Display, force: bool) -> None:
        self.slots, self.display = slots, display
        self.flags = ["--force"] if force else []

    def run(
        self, chain: str, stages: Sequence[str], *, single: bool = True, always: Sequence[str] = ()
    ) -> bool:
        """Reproduce these stages in turn; whether all succeeded.

        Args:
            chain: what they belong to.
            stages: their names.
            single: leave alone what they depend on.
            always: stages that follow, which need no force to run.
        """
        item = ["--single-item"] if single else []
        calls = [["repro", *item, *self.flags, *stages]]
        if always:
            calls.append(["repro", "--single-item", *always])
        code = 0
        for arguments in calls:
            code = code or self.slots.run(arguments, lambda text: self.display.line(chain, text))
        if code != STOPPED:  # what a person stopped has not failed
            self.display.finished(chain, code)
        return code == 0

    def run_models(self, chains: dict[str, list[str]], models: Sequence[str]) -> list[str]:
        """Run the chains of models side by side, beside the judges'; returns those that failed."""
        judges: Future[bool] | None = None

        def chain(model: str) -> bool:
            *before, evaluate = chains[model]
            if judges is None:
                return self.run(model, chains[model])
            made = not before or self.run(model, before)
            return made and judges.result() and self.run(model, [evaluate])

        with ThreadPoolExecutor(max(1, self.display.slots)) as pool:
            try:
                if JUDGES in chains:
                    judges = pool.submit(self.run, JUDGES, chains[JUDGES])
                succeeded = list(pool.map(chain, models))
            except BaseException:
                self.slots.stop()
                raise
            if judges is not None:
                judges.result()
        return [model for model, good in zip(models, succeeded, strict=True) if not good]


def _show(slots: Slots) -> None:
    """Bring report and MLflow's runs in line with results that did not change, if they are not."""
    if _shown() == _remembered():
        return
    with Display({COMPARISON: list(LAST_STAGES)}, 1) as display:
        runner = _Runner(slots, display, force=False)
        if not runner.run(COMPARISON, LAST_STAGES):
            raise PipelineError(_reasons(display, [COMPARISON]))
    tidy_lock()
    _remember_shown()


def _shown() -> dict[str, Any] | None:
    """What the last stages show and where; None if nobody can tell without asking a server.

    Both read dvc.lock, on which no stage can depend, and a store that people may delete.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    page, store = paths.REPORT / "index.html", paths.MLFLOW_DB
    if not (page.exists() and store.exists() and paths.DVC_LOCK.exists()):
        return None
    facts = store.stat()
    return {
        "dvc.lock": files.sha256(paths.DVC_LOCK),
        "page": files.sha256(page),
        "store": [facts.st_size, facts.st_mtime_ns],
        **{name: files.sha256_of(stage.declared(name).fingerprint()) for name in LAST_STAGES},
    }


def _remembered() -> dict[str, Any]:
    """What `_remember_shown` wrote; equal to nothing that `_shown` gives if it did not."""
    try:
        return files.read_json(paths.SHOWN)
    except (FileNotFoundError, ValueError):
        return {}


def _remember_shown() -> None:
    shown = _shown()
    if shown is not None:
        files.write_json(paths.SHOWN, shown)


def tidy_lock() -> None:
    """Drop the entries of models that are gone from dvc.lock, and sort the rest.

    Processes that run side by side append in the order in which they finish.
    """
    if not paths.DVC_LOCK.exists():
        return
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    lock = yaml.load(paths.DVC_LOCK.read_text(encoding="utf-8"))
    models = params.model_blocks(params.read())
    stages = lock.get("stages", {})
    kept = {
        name: stages[name]
        for name in sorted(stages)
        if "@" not in name or name.split("@", 1)[1] in models
    }
    if list(kept) != list(stages):
        with files.replacing(paths.DVC_LOCK) as temporary, temporary.open("w") as stream:
            yaml.dump({**lock, "stages": kept}, stream)
