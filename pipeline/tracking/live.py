"""Follow trainings into MLflow while they run, from the checkpoints below ``work/``.

Training knows nothing of this and nothing of MLflow: it writes files, and this process reads them.
A run that was followed is taken over by `mirror` once its training is done and judged,
so that there are not two of it.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.comparison.colours import colour
from pipeline.core import params, paths, records, tensors
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Store
from pipeline.evaluation import protocol
from pipeline.tracking import mirror, mlflow_store
from pipeline.tracking import runs as tracking_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

SECONDS = 5.0
"""Between two looks."""


def follow(seconds: float = SECONDS) -> None:
    """Mirror the curves of all trainings that run, until Ctrl-C.

    Raises:
        PipelineError: if the store cannot be reached.
    """
    uri = mlflow_store.uri()
    print("following trainings into MLflow; `make ui` shows them, Ctrl-C ends this", flush=True)
    follower = Follower(uri)
    told = None
    try:
        _print(follower.look())
        while True:
            time.sleep(seconds)
            try:
                _print(follower.look())
            except PipelineError as error:  # a server that restarts, params.yaml half saved
                if str(error) != told:
                    told = str(error)
                    print(f"error: {told}; still trying", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nstopping; trainings go on, and `track` completes their runs")


def _print(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)


class Scalars(records.Record):
    """What a checkpoint says of the curve so far."""

    step: int = Field(ge=0)
    times: list[tracking_runs.Point]
    rows: list[dict[str, float]]


class Follower:
    """Remembers which steps of which training are in MLflow already."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.logged: dict[str, int] = {}

    def look(self) -> list[str]:
        """Log what is new in the checkpoints, and say so, a line for each training."""
        found = []
        models = params.model_blocks(params.read())
        for path in sorted(paths.WORK.glob("*.ckpt")):
            model = path.stem.rpartition("-")[0]
            scalars = read(path) if model in models else None
            key = scalars and tracking_runs.live_key(model, scalars["times"])
            if key is None or scalars["step"] <= self.logged.get(key, -1):
                continue
            with mlflow_store.opened(self.uri) as client:
                if self._log(client, model, key, scalars):
                    self.logged[key] = scalars["step"]
                    found.append(f"{model}: step {scalars['step']:,}")
        return found

    def _log(self, client: "MlflowClient", model: str, key: str, scalars: dict[str, Any]) -> bool:
        """Bring the run of one training up to date; False if it has no experiment yet."""
        run_id = self._run(client, model, key, scalars)
        if run_id is None:
            return False
        times = dict(scalars["times"])
        points = [
            # In the digits of the training curve, so that MLflow knows them again.
            (f"train/{name}", float(f"{value:.6g}"), times[row["step"]], int(row["step"]))
            for row in scalars["rows"]
            for name, value in row.items()
            if name not in ("step", "images")
        ]
        tracking_runs.log_metrics(client, run_id, tracking_runs.finite(model, points))
        return True

    def _run(
        self, client: "MlflowClient", model: str, key: str, scalars: dict[str, Any]
    ) -> str | None:
        home = self._experiment(client)
        if home is None:
            return None
        known = client.search_runs([home], f"tags.live = '{key}'")
        if known:
            return known[0].info.run_id
        family = params.entry(params.read(), model)["family"]
        run = client.create_run(
            home,
            start_time=round(1000 * _started(model, scalars)),
            run_name=model,
            tags={
                "model": model,
                "family": family,
                "live": key,
                "current": "live",
                "followed_from": tracking_runs.place(),
                "mlflow.runColor": colour(family),
            },
        )
        return run.info.run_id

    def _experiment(self, client: "MlflowClient") -> str | None:
        """Where the run will belong once it is judged; None while nobody can know."""
        raw = params.read()
        try:
            store, facts = Store(), protocol.judge_facts()
        except PipelineError:
            return None  # the judges are still in training
        evaluate: params.Evaluate = params.section(raw, "evaluate")
        n = params.section(raw, "sample").n
        n = protocol.sample_count(n, store.counts, evaluate.split)
        common = protocol.protocol(store, facts, n, evaluate.split, evaluate.seed)
        told = {**common, "protocol": protocol.protocol_id(common)}
        return mirror.experiment(client, self.uri, params.results(raw).title, told)


def read(path: Path) -> dict[str, Any] | None:
    """The curve in a checkpoint; None if it is gone, left behind or damaged, or has no point yet.

    Training sets a damaged one aside and says so, and what is not whole yet is the next time.
    """
    try:
        if not tracking_runs.alive(path):
            return None
        found, _ = tensors.load(path, "passed over")
        scalars = json.loads(bytes(found["scalars"].tolist()))
        scalars = records.parse(scalars, Scalars, path, "passed over").model_dump()
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return None
    times = {step for step, _ in scalars["times"]}
    whole = times and all(row.get("step") in times for row in scalars["rows"])
    return scalars if whole else None


def _started(model: str, scalars: dict[str, Any]) -> float:
    """When the training began: it touched its lock then."""
    lock = paths.LOCKS / f"train@{model}.lock"
    first = scalars["times"][0][1]
    return min(lock.stat().st_mtime, first) if lock.exists() else first
