"""Run the whole graph with models side by side, through DVC itself.

DVC runs one stage at a time. Several of it may share a repository if each waits for its locks, so
the models' chains run in as many slots (`dvc_workers`) as there are cores (or GPUs), one compute
thread each. The result is that of a plain `dvc repro`: the same files, the same dvc.lock.
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison import dvc_lock
from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError
from pipeline.orchestration import lock_text, plan
from pipeline.orchestration.display import Display, forget_logs, log
from pipeline.orchestration.dvc_workers import STOPPED, Slots
from pipeline.orchestration.plan import (
    ALL_NEED,
    COMPARE,
    COMPARISON,
    DATA,
    JUDGE_STAGES,
    JUDGES,
    LAST_STAGES,
)

if TYPE_CHECKING:
    from pipeline.orchestration.cluster import Cluster

PATIENCE_SECONDS = 20.0
"""DVC looks at what changed in a few seconds, unless it has to wait."""


def reproduce(
    jobs: int | None,
    models: Sequence[str] | None,
    *,
    force: bool,
    compare: bool = True,
    check: Callable[[], None] = lambda: None,
    scheduler: str | None = None,
) -> None:
    """Bring everything up to date, or only ``models`` and what compares them.

    A model that fails does not hide the others: its stale metrics are removed, and the comparison
    runs and marks it as failed. One whose stage was stopped, or runs elsewhere, has not failed: it
    keeps what it has, and there is no comparison.

    Args:
        jobs: models at a time; None for the number of cores, or of GPUs where they are used.
        models: names, or None for all.
        force: run also what did not change, past DVC's run-cache.
        compare: do what shows the results side by side, too.
        check: validates params.yaml, while DVC looks at what changed.
        scheduler: address of a Dask cluster on which models and judges run; None for this machine.

    Raises:
        PipelineError: if params.yaml has a mistake, something runs already, or a stage did not
            come to its end.
    """
    with alone():
        _reproduce(jobs, models, force, compare, check, scheduler)


def alone() -> AbstractContextManager[None]:
    """Let in one at a time."""
    return stage.locked("repro", "make repro is already running in this folder; wait for it")


def _reproduce(
    jobs: int | None,
    models: Sequence[str] | None,
    force: bool,
    compare: bool,
    check: Callable[[], None],
    scheduler: str | None,
) -> None:
    with slots_until_failure() as slots:
        with ThreadPoolExecutor(1) as aside:
            try:
                looking = aside.submit(plan.stale_stages, slots)
                check()
                plan.check_graph()
                _check_lock()
                text = files.read_text(paths.PARAMS)
                every = params.model_blocks(params.read())
                chosen = list(every) if models is None else list(models)
                for name in chosen:
                    if name not in every:
                        raise PipelineError(f"MODELS: {params.one_of('model', name, every)}")
                stale = _patiently(looking)
            except BaseException:
                slots.stop()  # before the pool waits for what may wait for another DVC
                raise
        chains = plan.chains(chosen, every, None if force else stale, compare)
        if chains:
            _refuse_running(chains)
            default, gpus = plan.default_jobs()
            slots.grow(jobs or default, gpus)
            with _cluster(scheduler, slots) as cluster:
                at_once = jobs or (cluster.threads if cluster else default)
                _run(chains, slots, cluster, at_once, force, compare, text)
            return
        tidy_lock()
        whole = models is None and compare
        what = "all models and their comparison are" if whole else f"{', '.join(chosen)}:"
        print(f"Nothing changed: {what} up to date.")
        if compare:
            _remember_params(params.results(params.read()), text)
            _show(slots)
            print(f"the report: {_report()}")


def _check_lock() -> None:
    """Read dvc.lock, since DVC tells less well what is wrong with it.

    Raises:
        PipelineError: if it is damaged.
    """
    with suppress(FileNotFoundError):
        if "schema" not in dvc_lock.read():
            raise PipelineError(f"{paths.DVC_LOCK}: schema: missing; {dvc_lock.REMEDY}")


def _refuse_running(chains: dict[str, list[str]]) -> None:
    """Refuse to run what runs: DVC would remove its outputs before the stage itself refuses.

    Raises:
        PipelineError: if one of these stages was started by somebody else.
    """
    for name in itertools.chain.from_iterable(chains.values()):
        with stage.locked(
            name, f"{name} is already running, by itself or in another DVC; wait for it"
        ):
            pass


def _patiently(looking: Future[set[str] | None]) -> set[str] | None:
    """What DVC finds; if that takes long, the likely reason is told."""
    try:
        return looking.result(PATIENCE_SECONDS)
    except TimeoutError:
        print("waiting for DVC; another one that runs in this folder holds its lock", flush=True)
        return looking.result()


@contextmanager
def _cluster(scheduler: str | None, slots: Slots) -> Iterator["Cluster | None"]:
    """The cluster behind an address, for as long as the block runs."""
    if scheduler is None:
        yield None
        return
    from pipeline.orchestration.cluster import Cluster

    cluster = Cluster(scheduler, slots)
    try:
        yield cluster
    finally:
        cluster.close()


def _run(
    chains: dict[str, list[str]],
    slots: Slots,
    cluster: "Cluster | None",
    jobs: int,
    force: bool,
    compare: bool,
    text: str,
) -> None:
    """``text`` is that of params.yaml as the run began."""
    forget_logs(list(chains))
    models = [name for name in chains if name not in (DATA, JUDGES, COMPARISON)]
    from pipeline.orchestration import forecast  # and torch

    raw = params.read()
    home = params.results(raw)
    expects = forecast.prepared(raw)
    forecast.announce(expects, chains, home, jobs)
    with Display(chains, jobs, home, expects) as display:
        runner = Runner(slots, display, ["--force"] if force else [], cluster)
        try:
            if DATA in chains and not runner.run(DATA, chains[DATA], single=False):
                raise PipelineError(reasons(display))
            runner.run_models(chains, models)
            # Those that waited for judges in vain are not among them: what they have is theirs.
            failed = [name for name in display.errors if name in models]
            for name in failed:
                if name not in display.unfinished:
                    # What is left is of another version of it, and would pass for its result.
                    files.remove(home.model_metrics(name))
                    files.remove(home.curve(name))
            if JUDGES in display.errors or display.unfinished:
                raise PipelineError(reasons(display))
            if compare and not runner.run(COMPARISON, [COMPARE], always=LAST_STAGES):
                raise PipelineError(reasons(display))
        except BaseException:
            runner.stop()
            raise
        finally:
            tidy_lock()
    for line in cluster.told() if cluster else []:
        print(line, file=sys.stderr)
    if compare:
        _remember_params(home, text)
        _remember_shown()
        _conclude()
    if failed:
        raise PipelineError(reasons(display))


def reasons(display: Display) -> str:
    """Why chains failed or did not finish, once more and together; the last line names them."""
    chains = [name for name in display.chains if name in display.errors]
    told = [
        f"{chain}: {text.removeprefix('error: ')}"
        for chain in chains
        for text in display.errors[chain]
    ]
    failed = [chain for chain in chains if chain not in display.unfinished]
    stopped = [chain for chain in chains if chain in display.unfinished]
    ends = [f"failed: {', '.join(failed)}"] if failed else []
    ends += [f"not finished: {', '.join(stopped)}"] if stopped else []
    if display.logging:
        ends.append(f"all that was printed: {', '.join(str(log(chain)) for chain in chains)}")
    return "\n".join([*told, "; ".join(ends)])


def _conclude() -> None:
    """The table, what is tied and what to take, and where the report is."""
    from pipeline.comparison import collect, recommendation, tables

    raw = params.read()
    home = params.results(raw)
    reference = collect.read_reference(home.reference)
    rows = collect.project_rows(raw, reference)
    print(tables.summary(rows))
    print()
    print(recommendation.text(rows, reference, home.title))
    for line in tables.problems(rows, home):
        print(line, file=sys.stderr)
    print(f"\nthe report: {_report()}")


def _report() -> str:
    return params.results(params.read()).page.absolute().as_uri()


def make_judges() -> None:
    """Bring the judges and the reference rows up to date, and the data that they need.

    Raises:
        PipelineError: if a stage failed.
    """
    chains = {JUDGES: [*ALL_NEED, *JUDGE_STAGES]}
    with alone():
        plan.check_graph()
        _check_lock()
        _refuse_running(chains)
        home = params.results(params.read())
        with slots_until_failure() as slots, Display(chains, 1, home) as display:
            if not Runner(slots, display).run(JUDGES, [JUDGE_STAGES[-1]], single=False):
                raise PipelineError(reasons(display))


@contextmanager
def slots_until_failure(folder: Path | None = None) -> Iterator[Slots]:
    """Slots that end by themselves if the block succeeds, and at once, with what runs, if not."""
    slots = Slots(folder)
    try:
        yield slots
    except BaseException:
        slots.stop()
        raise
    slots.close()


class Runner:
    """Runs chains of stages in slots, and tells the display what they print."""

    def __init__(
        self,
        slots: Slots,
        display: Display,
        flags: Sequence[str] = (),
        cluster: "Cluster | None" = None,
    ) -> None:
        """``flags`` are given to each ``dvc repro``, but for those of stages that run always.

        Models and judges run on the ``cluster``, if there is one; the rest here.
        """
        self.slots, self.display, self.flags, self.cluster = slots, display, flags, cluster

    def stop(self) -> None:
        """End what runs."""
        if self.cluster is not None:
            self.cluster.stop()
        self.slots.stop()

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

        def line(text: str) -> None:
            self.display.line(chain, text)

        if self.cluster is not None and chain not in (DATA, COMPARISON):
            code = self.cluster.run(stages, self.flags, line)
        else:
            item = ["--single-item"] if single else []
            code = self.slots.run(["repro", *item, *self.flags, *stages], line)
        if always:
            code = code or self.slots.run(["repro", "--single-item", *always], line)
        if code != STOPPED:  # what a person stopped has not failed
            self.display.finished(chain, code)
        return code == 0

    def run_models(self, chains: dict[str, list[str]], models: Sequence[str]) -> None:
        """Run the chains of models side by side, beside the judges'."""
        judges: Future[bool] | None = None

        def chain(model: str) -> bool:
            *before, evaluate = chains[model]
            if judges is None:
                return self.run(model, chains[model])
            made = not before or self.run(model, before)
            return made and judges.result() and self.run(model, [evaluate])

        # A cluster has a queue of its own, in which all may wait at once.
        at_once = len(models) + 1 if self.cluster is not None else max(1, self.display.slots)
        with ThreadPoolExecutor(at_once) as pool:
            try:
                if JUDGES in chains:
                    judges = pool.submit(self.run, JUDGES, chains[JUDGES])
                for _ in pool.map(chain, models):
                    pass
            except BaseException:
                self.stop()
                raise
            if judges is not None:
                judges.result()


def _show(slots: Slots) -> None:
    """Bring report and MLflow's runs in line with results that did not change, if they are not."""
    if _shown() == _remembered():
        return
    home = params.results(params.read())
    with Display({COMPARISON: list(LAST_STAGES)}, 1, home) as display:
        if not Runner(slots, display).run(COMPARISON, LAST_STAGES):
            raise PipelineError(reasons(display))
    tidy_lock()
    _remember_shown()


def _shown() -> dict[str, Any] | None:
    """What the last stages show and where; None if nobody can tell without asking a server.

    Both read dvc.lock, on which no stage can depend, and a store that people may delete.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    page, store = params.results(params.read()).page, paths.MLFLOW_DB
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
        found = files.read_json(paths.SHOWN)
    except (FileNotFoundError, files.Unreadable):
        return {}
    return found if isinstance(found, dict) else {}


def _remember_params(home: paths.Results, text: str) -> None:
    """Keep params.yaml with its results: it is what `datasets --switch` comes back to."""
    with suppress(FileNotFoundError, files.Unreadable):
        if files.read_text(home.params) == text:
            return
    try:
        files.write_text(home.params, text)
    except PipelineError as error:
        print(f"warning: {error}", file=sys.stderr)


def _remember_shown() -> None:
    shown = _shown()
    if shown is not None:
        with suppress(PipelineError):  # it is shown again, then
            files.write_json(paths.SHOWN, shown)


def tidy_lock() -> None:
    """Drop the entries of models that are gone from dvc.lock, sort the rest, sweep beside it.

    Processes that run side by side append in the order in which they finish. Where it cannot be
    written, a line says so: results are not lost for that.
    """
    try:
        _tidy_lock()
    except FileNotFoundError:
        return
    except PipelineError as error:
        print(f"warning: {error}", file=sys.stderr)


def _tidy_lock() -> None:
    files.sweep(paths.DVC_LOCK)
    lock = dvc_lock.read()
    models = params.model_blocks(params.read())
    stages = lock.get("stages", {})
    kept = {
        name: stages[name]
        for name in sorted(stages)
        if "@" not in name or name.split("@", 1)[1] in models
    }
    if list(kept) != list(stages):
        files.write_text(paths.DVC_LOCK, lock_text.dumped({**lock, "stages": kept}))
