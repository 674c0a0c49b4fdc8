"""Mirror the pipeline's results into MLflow: one current run for each model, and nothing twice.

Training only writes files. What is mirrored here may just as well have been restored from a cache
or pulled, so a run is keyed by what DVC recorded of its model (the entries of dvc.lock), not by
the process that trained it. Losing the store loses nothing: the next time fills it again.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.comparison import dvc_lock
from pipeline.comparison import results as comparison_results
from pipeline.core import params, paths
from pipeline.models import entries
from pipeline.tracking import mlflow_store
from pipeline.tracking import runs as tracking_runs
from pipeline.tracking import views as tracking_views
from pipeline.tracking.runs import Result

if TYPE_CHECKING:
    # Importing MLflow takes seconds, so what only needs a link does not wait for it.
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

RUNS_PER_PAGE = 1000
CRASHED_SECONDS = 3600
"""A run on a server that is not complete after so long is nobody's."""


def experiments(client: "MlflowClient", title: str | None = None) -> "list[Experiment]":
    """The experiments that `mirror` made, all of them or those of one data set."""
    found = _pages(lambda token: client.search_experiments(page_token=token))
    made = [each for each in found if "protocol" in each.tags]
    # Those without a title are of a time when a data set's name was the only one that it had.
    return [
        each for each in made if title in (None, each.tags.get("title", each.tags.get("dataset")))
    ]


def tracked(uri: str) -> dict[str, str]:
    """Ids of the experiments that `mirror` made in a store, by name.

    Raises:
        PipelineError: if the store cannot be reached or is damaged.
    """
    with mlflow_store.opened(uri) as client:
        return {each.name: each.experiment_id for each in experiments(client)}


def view_urls(server: str, experiment_id: str) -> dict[str, str]:
    """The pages that compare the current models of an experiment, by name."""
    return {
        name: tracking_views.link(mlflow_store.without_password(server), experiment_id, key)
        for key, (name, _) in tracking_views.views().items()
    }


def read() -> tuple[str, list[Result], dict[str, str]]:
    """The data set's title, the results of the models in params.yaml, and why others have none.

    Raises:
        PipelineError: if params.yaml, dvc.lock or a metrics file cannot be read.
    """
    raw = params.read()
    entries = dvc_lock.entries()
    home = params.results(raw)
    results, missing = [], {}
    judges = _judges(home)
    places: Counter[str] = Counter()
    for model, block in params.model_blocks(raw).items():
        place = places[block["family"]]
        places[block["family"]] += 1
        unknown = dvc_lock.missing(model, entries)
        try:
            content = comparison_results.of_model(model, home.model_metrics(model)) | judges
        except FileNotFoundError:
            missing[model] = f"no {home.model_metrics(model)}: it failed, or was not run"
            continue
        if unknown:
            missing[model] = f"{paths.DVC_LOCK} has no {unknown[0]}: run it through `make repro`"
        else:
            lock_hash = dvc_lock.of_model(model, entries)
            shared = _shared(raw, model, content)
            results.append(Result(model, lock_hash, content, block, place, shared, home))
    return home.title, results, missing


def _judges(home: paths.Results) -> dict[str, bool]:
    """Whether the FIDs that stand there rank anything, where that is known."""
    if not home.reference.exists():
        return {}
    verdict = comparison_results.of_references(home.reference).get("judges")
    return {"fid_ranks": verdict["ranks"]} if verdict else {}


def mirror(title: str, results: Sequence[Result], missing: dict[str, str]) -> None:
    """Bring the store in line with the results of a data set, and say what was done for each model.

    Afterwards the runs of ``results`` are its current ones and no others: neither those of earlier
    versions, nor those of models that failed (``missing``, with reasons) or are gone. Those of
    other data sets, which have experiments of their own, stay as they are.

    Raises:
        PipelineError: if the store cannot be reached or is damaged. What was not mirrored is
            the next time.
    """
    uri = mlflow_store.uri()
    with mlflow_store.opened(uri) as client:
        homes = {result.model: experiment(client, uri, title, result.metrics) for result in results}
        for each in experiments(client):  # also older ones, whose links are printed, too
            tracking_views.publish(client, each)
        runs = _finished_runs(client, uri, title)
        # A run of an older format stays, and the result is mirrored once more.
        latest = {
            (run.data.tags["model"], run.data.tags["lock_hash"]): run
            for run in runs
            if run.data.tags.get("format") == tracking_runs.FORMAT
        }
        followed = _followed(client)
        current = set()
        for result in results:
            known = latest.get((result.model, result.lock_hash))
            if known is None:
                outcome = "new"
                tracking_runs.create(client, homes[result.model], result, followed)
            else:
                outcome = "unchanged" if _is_current(known) else "current again"
                _set_current(client, known, True)
                current.add(known.info.run_id)
            print(f"{result.model}: {outcome}")
        for run in runs:
            if run.info.run_id not in current:
                _set_current(client, run, False)
        for run in _followed(client).values():
            mine = run.data.tags.get("followed_from") == tracking_runs.place()
            if mine and not tracking_runs.in_training(run.data.tags["model"]):
                client.set_tag(run.info.run_id, "current", "false")
                client.set_terminated(run.info.run_id, "KILLED")
        _report(missing, {run.data.tags["model"] for run in runs if _is_current(run)}, results)
        _say_where(uri, sorted(set(homes.values()), key=int))


def _shared(raw: dict[str, Any], model: str, metrics: dict[str, Any]) -> dict[str, str]:
    """The few parameters that models of all families have; the rest is in ``params.json``."""
    train: params.Train = params.section(raw, "train")
    training = entries.read(raw, model, blocks=("training",)).training.model_dump()
    values = {
        "family": metrics["family"],
        "dataset": metrics["dataset"],
        "split": metrics.get("reference_split"),
        "parameters": metrics.get("parameters"),
        **{key: training.get(key) for key in ("images", "batch", "learning_rate", "precision")},
        "train.seed": train.seed,
        "train.budget": train.budget,
    }
    return {key: str(value) for key, value in values.items() if value is not None}


def _pages(fetch: Callable[[str | None], Any]) -> list[Any]:
    """All items of a search whose pages ``fetch`` returns, by token."""
    found, token = [], None
    while True:
        page = fetch(token)
        found += page
        token = page.token
        if not token:
            return found


def experiment(client: "MlflowClient", uri: str, title: str, metrics: dict[str, Any]) -> str:
    """The id of the experiment of a data set and protocol, made or brought back if need be."""
    dataset, protocol = metrics["dataset"], metrics["protocol"]
    name = f"{title} · {protocol}"
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server has its own idea of where files go.
        location = None if mlflow_store.is_server(uri) else mlflow_store.artifact_root()
        tags = {
            "title": title,
            "dataset": dataset,
            "protocol": protocol,
            "mlflow.note.content": tracking_views.NOTE,
            # Without it the list of experiments leads to pages about language models.
            "mlflow.experimentKind": "custom_model_development",
        }
        found = client.get_experiment(client.create_experiment(name, location, tags))
    elif found.lifecycle_stage == "deleted":
        # Its name stays taken until MLflow's trash is emptied.
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _finished_runs(client: "MlflowClient", uri: str, title: str) -> "list[Run]":
    """Our runs of a data set, oldest first; those that a crash left half-written are deleted.

    On a server somebody else may be writing one just now, so there only old ones are.
    """
    ids = [each.experiment_id for each in experiments(client, title)]
    if not ids:
        return []
    found = _pages(
        lambda token: client.search_runs(
            ids, max_results=RUNS_PER_PAGE, order_by=["attributes.start_time"], page_token=token
        )
    )
    finished = []
    for run in found:
        if "lock_hash" not in run.data.tags:
            continue  # somebody else's
        if run.data.tags.get("complete") == "true":
            finished.append(run)
        elif not mlflow_store.is_server(uri) or tracking_runs.mirrored_before(run, CRASHED_SECONDS):
            client.delete_run(run.info.run_id)
    return finished


def _followed(client: "MlflowClient") -> "dict[str, Run]":
    """Runs that `live` made of trainings whose results were not mirrored yet, by key."""
    ids = [each.experiment_id for each in experiments(client)]
    if not ids:
        return {}
    found = _pages(
        lambda token: client.search_runs(
            ids, "tags.current = 'live'", max_results=RUNS_PER_PAGE, page_token=token
        )
    )
    return {run.data.tags["live"]: run for run in found}


def _is_current(run: "Run") -> bool:
    return run.data.tags.get("current") == "true"


def _set_current(client: "MlflowClient", run: "Run", current: bool) -> None:
    if _is_current(run) != current:
        client.set_tag(run.info.run_id, "current", str(current).lower())


def _report(missing: dict[str, str], before: set[str], results: Sequence[Result]) -> None:
    """Say which models were skipped, and which were current ``before`` but are gone."""
    for model, reason in missing.items():
        print(f"{model}: skipped, {reason}", file=sys.stderr)
    for model in sorted(before - {result.model for result in results} - set(missing)):
        print(f"{model}: no longer in {paths.PARAMS}; its runs are kept")


def _say_where(uri: str, experiment_ids: Iterable[str]) -> None:
    if mlflow_store.is_server(uri):
        for experiment_id in experiment_ids:
            for name, url in view_urls(uri, experiment_id).items():
                print(f"{name}: {url}")
    else:
        print("compare them: make ui")
