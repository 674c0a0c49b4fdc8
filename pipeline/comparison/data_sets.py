"""The data sets that have results here, side by side, and the way from one to another.

``data/`` and params.yaml are for one of them at a time. DVC's cache restores the first, and of the
second each data set keeps the one that its results were made with, beside them.
"""

import csv
import time
from typing import Any

from pipeline.comparison import collect, purposes, results
from pipeline.core import files, params, paths, stage
from pipeline.core.errors import PipelineError


def homes() -> list[paths.Results]:
    """The data sets that were compared, by title."""
    found = [paths.Results(path.name) for path in sorted(paths.METRICS.glob("[!.]*"))]
    return [home for home in found if home.comparison_csv.is_file()]


def facts(home: paths.Results) -> dict[str, Any]:
    """What a data set is, and what came out.

    Returns:
        ``title``; ``dataset``, which images; ``models``, how many; ``best``, the model of the
        lowest FID, or second FID where only those judges rank (`purposes.sample_key`), and
        ``told``, that number in words (None, if there is none, or no judges rank); ``written``, the
        local date of the comparison.

    Raises:
        PipelineError: if its results are damaged.
    """
    reference = results.of_references(home.reference)
    key = purposes.sample_key(reference)
    try:
        with home.comparison_csv.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["kind"] == "model"]
        judged = [
            (float(row[key]), row["model"])
            for row in rows
            if key and row["status"] == collect.OK and row[key]
        ]
        written = time.strftime("%Y-%m-%d", time.localtime(home.comparison_csv.stat().st_mtime))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError):
        raise PipelineError(
            f"{home.comparison_csv}: no table of models; delete it and run `make repro`"
        ) from None
    value, best = min(judged, default=(None, None))
    return {
        "title": home.title,
        "dataset": reference["dataset"],
        "models": len(rows),
        "best": best,
        "told": None if value is None else f"{purposes.CALLED[key]} {value:.2f}",
        "written": written,
    }


def switch(title: str) -> str:
    """Make params.yaml the one that a data set's results were made with; keep the present one.

    Returns:
        the title that it was before.

    Raises:
        PipelineError: if that data set has none, or either file cannot be read; nothing is changed.
    """
    with stage.locked("repro", "make repro is running in this folder; wait for it"):
        before = params.results(params.read())
        home = next((each for each in homes() if each.title == title), None)
        if home is None:
            titles = [each.title for each in homes()]
            raise PipelineError(f"--switch: {params.one_of('data set', title, titles)}")
        if title != before.title:
            restore(home)
        return before.title


def restore(home: paths.Results) -> None:
    """Make params.yaml what it was for these results, and keep it beside those that it is of.

    Raises:
        PipelineError: if it was not kept, or either file cannot be read; nothing is changed.
    """
    before = params.results(params.read())
    try:
        text = files.read_text(home.params)
    except FileNotFoundError:
        raise PipelineError(
            f"{home.params}: no such file; `git checkout {paths.PARAMS}` if that is of "
            f"{home.title}, or set data.title and what else is to be of it yourself"
        ) from None
    if params.results(params.read(home.params), home.params).title != home.title:
        raise PipelineError(f"{home.params}: data.title: should be {home.title}, as its folder is")
    present = files.read_text(paths.PARAMS)
    with files.together() as made:
        made.file(before.params).write_text(present, encoding="utf-8")
        made.file(paths.PARAMS).write_text(text, encoding="utf-8")
