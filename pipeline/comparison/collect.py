"""All models side by side: a table for programs, curves, and what a picture shows.

Models come in the order of params.yaml. One without metrics failed or was not run, and is listed as
such. One whose protocol is not that of the reference rows is marked: its numbers answer another
question, so they are never ranked with the rest. `tables` makes the page for people of these rows.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.comparison import results, spread
from pipeline.comparison.results import COLUMNS
from pipeline.core import arrays, files, params, paths
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Split
from pipeline.sampling import pictures

OK, FAILED, OTHER = "ok", "no metrics", "other protocol"
EXTERNAL = "external"
"""The family of images that another generator made."""
MEASURED = {"samples": "fid", "labels": "label_accuracy", "b_to_a": "translation_fid_ab"}
"""Arrays of what a model makes, and what is measured of each."""
PICTURED = 12
"""Columns of the picture of all models."""
LINES = 9
"""Rows of a model at most, where there are more classes than columns."""

Row = dict[str, Any]


def read_reference(path: Path) -> Row:
    """The reference rows and their protocol, as the stage ``reference`` wrote them.

    Raises:
        PipelineError: if that stage has not run, or the file holds anything else.
    """
    return results.of_references(path)


def rows(
    models: dict[str, Any],
    metrics: Callable[[str], Path],
    reference: Row,
    external: Path | None = None,
) -> list[Row]:
    """One flat row for each model in its order, what others made, and the reference rows.

    Args:
        models: the section of params.yaml: a block with the key ``family`` for each model.
        metrics: where the metrics of a model are; without that file it failed or was not run.
        reference: from `read_reference`.
        external: a folder with the metrics of images that other generators made (see
            `pipeline.evaluation.external`), each of which is a row like a model's.

    Returns:
        The keys of the metrics and ``kind`` (model | reference), ``status`` (`OK`, `FAILED` or
        `OTHER`), ``model`` and ``label``.

    Raises:
        PipelineError: if a model and such images have one name; one line for each mistake in a
            file.
    """
    common = {key: value for key, value in reference.items() if key not in results.NOT_SHARED}
    found, problems = [], []
    for name, block in models.items():
        if not isinstance(block, dict) or not isinstance(block.get("family"), str):
            where = f"{paths.PARAMS}: models.{name}"
            raise PipelineError(f"{where}: must be a block with the key 'family'")
        row = {"kind": "model", "model": name, "label": name, "family": block["family"]}
        try:
            measured = _own(results.of_model(name, metrics(name)))
            found.append(_judged(measured | {**row, "family": measured["family"]}, reference))
        except FileNotFoundError:
            found.append({**row, "status": FAILED})
        except PipelineError as error:
            problems.append(str(error))
    # A hidden file is what is left of one that was being written.
    for path in sorted(external.glob("[!.]*.json")) if external is not None else []:
        if path.stem in models:
            raise PipelineError(
                f"{path}: a model of params.yaml is called so, too; rename or delete this file"
            )
        try:
            measured = _own(results.of_external(path))
            row = {"kind": "model", "model": path.stem, "label": path.stem}
            found.append(_judged(measured | row, reference))
        except PipelineError as error:
            problems.append(str(error))
    if problems:
        raise PipelineError("\n".join(problems))
    for each in reference["rows"]:
        facts = {key: value for key, value in each.items() if key != "name"}
        found.append({"kind": "reference", "status": OK, "model": each["name"], **common, **facts})
    return found


def project_rows(raw: dict[str, Any], reference: Row) -> list[Row]:
    """`committed_rows` of the data set that ``data/`` and ``work/`` are of, and `behind`."""
    home = params.results(raw)
    return behind(committed_rows(raw, reference), paths.scores_dir, home.model_metrics)


def committed_rows(raw: dict[str, Any], reference: Row) -> list[Row]:
    """`rows` of the models in params.yaml, from what is in metrics/ alone, with their error bars.

    These are the keys of `pipeline.comparison.spread.COLUMNS`.
    """
    home = params.results(raw)
    found, problems = [], []
    for row in rows(params.model_blocks(raw), home.model_metrics, reference, home.external):
        more = {}
        if row["kind"] == "model" and row["status"] == OK and row["model"] in raw["models"]:
            try:
                more = spread.read(home.thorough_metrics(row["model"]), row, raw)
            except PipelineError as error:
                problems.append(str(error))
        found.append(row | more)
    if problems:
        raise PipelineError("\n".join(problems))
    return found


def behind(
    rows: Sequence[Row], scores: Callable[[str], Path], metrics: Callable[[str], Path]
) -> list[Row]:
    """Rows, and how far each model is behind the next better one in bits/dim, image by image.

    ``bits_per_dim_behind`` is the mean difference, and its standard error is that of a mean of
    paired differences: both models score the same images, of which some are hard for either.

    Args:
        rows: from `rows`.
        scores: the folder of a model's ``nats.npy``, the nats of each image, if it has one.
        metrics: where the metrics of a model are.

    Raises:
        PipelineError: if these are damaged, or not those that the metrics are the mean of.
    """
    scored = [
        (row, nats)
        for row in rows
        if row["kind"] == "model" and row["status"] == OK
        if (nats := _nats(row, scores(row["model"]), metrics(row["model"]))) is not None
    ]
    scored.sort(key=lambda pair: pair[0]["bits_per_dim"])
    found: dict[str, Row] = {}
    for (better, fewer), (worse, more) in pairwise(scored):
        if len(fewer) != len(more):
            folder, other = scores(worse["model"]), scores(better["model"])
            raise PipelineError(
                f"{folder / 'nats.npy'}: {len(more)} images, but {other / 'nats.npy'} is of "
                f"{len(fewer)}; {_again(folder)}"
            )
        difference = more - fewer
        stderr = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        unit = worse["bits_per_dim"] / worse["nats_per_image"]
        values = {
            "bits_per_dim_behind": unit * float(difference.mean()),
            "bits_per_dim_behind_stderr": unit * stderr,
        }
        found[worse["model"]] = files.rounded(values)
    return [row | found.get(row["model"], {}) if row["kind"] == "model" else row for row in rows]


def _nats(row: Row, folder: Path, metrics: Path) -> np.ndarray | None:
    """The nats of each image, float64 [N]; None for a model without, or whose are not here.

    Raises:
        PipelineError: if they are not those that the row's metrics are the mean of.
    """
    again = _again(folder)
    known = arrays.names(folder, again)
    if folder.exists():
        _measured(row, folder, metrics, known, "nats", "bits_per_dim")
    if "nats" not in known:
        return None
    nats, file = arrays.load(folder, "nats", again, (None,)), folder / "nats.npy"
    if nats.dtype != np.float64 or len(nats) < 2:
        raise PipelineError(
            f"{file}: {len(nats)} values of {nats.dtype}, but it should hold the float64 nats of "
            f"two images or more; {again}"
        )
    mean = row["nats_per_image"]
    if not abs(nats.mean() - mean) <= 1e-6 * abs(mean):
        raise PipelineError(
            f"{file}: the mean is {nats.mean():.8g}, but {metrics} has "
            f"nats_per_image = {mean}, so they are not of one evaluation; {again}"
        )
    return nats


def _measured(
    row: Row, folder: Path, metrics: Path, known: Sequence[str], name: str, key: str
) -> None:
    """Refuse an array without its metric, and a metric without the array that it is of."""
    if (name in known) != (row.get(key) is not None):
        lists = "lists" if name in known else "does not list"
        raise PipelineError(
            f"{metrics}: {key} is {row.get(key, 'missing')}, but "
            f"{folder / arrays.INDEX} {lists} {name}.npy; {_again(folder)}"
        )


def _again(folder: Path) -> str:
    """What helps where a folder of DVC's does not hold what it should."""
    return f"delete {folder} and run `make repro`"


def _own(measured: Row) -> Row:
    """What a file may say of a model, and not what only the comparison knows."""
    return {key: value for key, value in measured.items() if key not in spread.COLUMNS}


def _judged(row: Row, reference: Row) -> Row:
    same = row.get("protocol") == reference["protocol"]
    return {**row, "status": OK if same else OTHER}


def conditional(row: Row) -> bool:
    """Whether a model is told which class to draw.

    Its metrics say so, from the network itself; those of an older version do not, where only the
    accuracy of labels tells, which is not measured of classes that the judges could not learn.
    """
    told = row.get("conditional")
    return row.get("label_accuracy") is not None if told is None else told


def to_csv(rows: Sequence[Row]) -> str:
    """All rows with all their keys; what is None or not there is empty."""
    others = sorted({key for row in rows for key in row} - set(COLUMNS))
    # As objects, so that whole numbers beside empty cells stay whole.
    table = pd.DataFrame(list(rows), columns=[*COLUMNS, *others], dtype=object)
    return table.to_csv(index=False, lineterminator="\n")


def curves(models: Iterable[str], curve: Callable[[str], Path]) -> str:
    """The training curves of all models as ``model,curve,step,images,value``.

    One line for each value, since curves of different families share no unit and so no column.
    Models without a curve are left out; values are copied digit by digit.

    Raises:
        PipelineError: if a file is no curve.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["model", "curve", "step", "images", "value"])
    for model in models:
        if not curve(model).exists():
            continue
        lines = results.curve(curve(model))
        for term in lines[0] if lines else ():
            if term not in ("step", "images"):
                writer.writerows(
                    [model, term, line["step"], line["images"], line[term]]
                    for line in lines
                    if line[term]
                )
    return table.getvalue()


def pictured(
    rows: Sequence[Row],
    samples: Callable[[str], Path],
    metrics: Callable[[str], Path],
    real: Split,
    classes: Sequence[str],
) -> list[tuple[str, np.ndarray]]:
    """Rows for `sampling.pictures.labelled_rows`: real images, then what each model makes.

    A conditional model, which has ``labels.npy`` beside its samples, shows an image of the class of
    the real image that stands above it. Others show their first images. A model that has no samples
    but translates shows images of domain B as domain A. One without either, or of another shape,
    gets an empty row.

    Args:
        rows: from `rows`.
        samples: the folder of a model's samples.
        metrics: where the metrics of a model are.
        real: of the data set.
        classes: the names of the labels.

    Raises:
        PipelineError: if an array is damaged, or is not there although it was measured.
    """
    chosen = _real(real.labels, classes)
    first = [np.array(real.images[index]) for index in chosen]
    columns = [real.labels[index] for index in chosen]
    found, shape = _in_rows("real images", first), real.images.shape[1:]
    for row in rows:
        if row["kind"] != "model":
            continue
        if row["status"] == FAILED:  # what lies there may be of other images
            found.append((f"{row['model']} ({FAILED})", first[0][:0]))
            continue
        what, images = _shown(
            row, samples(row["model"]), metrics(row["model"]), shape, classes, columns
        )
        if any(each.shape[1:] != shape for each in images):
            what, images = "another shape", []
        label = f"{row['model']} ({what})" if what else row["model"]
        found += _in_rows(label, images or [first[0][:0]])
    return found


def captions(real: Split, classes: Sequence[str]) -> list[list[str]]:
    """What stands above the real images of `pictured`: their classes, if these have names."""
    if not _named(classes):
        return []
    return [
        [classes[label] for label in real.labels[index]] for index in _real(real.labels, classes)
    ]


def _named(classes: Sequence[str]) -> bool:
    """Whether the classes are more than one, and have names that are not just numbers."""
    return len(classes) > 1 and not all(name.isdecimal() for name in classes)


def _real(labels: np.ndarray, classes: Sequence[str]) -> list[np.ndarray]:
    """Which real images are shown, a row each."""
    most = max(PICTURED, min(len(classes), PICTURED * LINES))
    index = pictures.in_turn(labels, len(classes), most)
    return [index[start : start + PICTURED] for start in range(0, len(index), PICTURED)]


def _in_rows(label: str, images: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Rows of which the first has a label."""
    return [(label if place == 0 else "", each) for place, each in enumerate(images)]


def _shown(
    row: Row,
    folder: Path,
    metrics: Path,
    shape: tuple[int, ...],
    classes: Sequence[str],
    columns: Sequence[np.ndarray],
) -> tuple[str, list[np.ndarray]]:
    """What a model makes, said in a few words if it isn't plain, and rows of `PICTURED` of it.

    ``columns`` are the labels that rows of a conditional model show.

    Raises:
        PipelineError: if it is not what the row's metrics were measured of.
    """
    again = _again(folder)
    known = arrays.names(folder, again)
    judged = row["status"] == OK and row["family"] != EXTERNAL
    for name, key in MEASURED.items() if judged else ():
        if name != "labels" or _judges_know_labels(row):
            _measured(row, folder, metrics, known, name, key)
    if "samples" in known:
        wanted = (row.get("n_samples"), *shape) if judged else (None,) * 4
        images = _images(folder, "samples", wanted)
        if "labels" not in known or len(classes) < 2:
            return "", [np.array(images[:PICTURED])]
        labels = arrays.load(folder, "labels", again, (len(images),))
        table = [_of_labels(images, labels, each) for each in columns]
        shown = len({label for each in columns for label in each.tolist()})
        few = shown < min(len(classes), len(np.unique(labels)))
        return f"the first {shown} of {len(classes)} classes" if few else "by class", table
    if "b_to_a" in known:
        return "B to A", [np.array(_images(folder, "b_to_a", (None,) * 4)[:PICTURED])]
    return "no samples", []


def _of_labels(images: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each label of ``wanted`` [n] the next image that has it, or paper once there is none.

    uint8 [n, C, H, W] of images uint8 [N, C, H, W] with labels [N].
    """
    members = {label: iter(np.flatnonzero(labels == label)) for label in set(wanted.tolist())}
    places = [next(members[label], None) for label in wanted.tolist()]
    blank = np.full(images.shape[1:], pictures.PAPER, np.uint8)
    return np.stack([blank if place is None else images[place] for place in places])


def _judges_know_labels(row: Row) -> bool:
    """Whether there are classifiers among them; see `pipeline.evaluation.protocol.FEATURES`."""
    features = (row.get(key) or "" for key in ("fid_features", "second_features"))
    return any(each.startswith("judge-") for each in features)


def _images(folder: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    images = arrays.load(folder, name, _again(folder), shape)
    if images.dtype != np.uint8:
        raise PipelineError(
            f"{folder / name}.npy: {images.dtype} values, but images are uint8; {_again(folder)}"
        )
    return images
