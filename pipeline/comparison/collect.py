"""All models side by side: a table for programs, curves, and what a picture shows.

Models come in the order of params.yaml. One without metrics failed, and is listed as such. One
whose protocol is not that of the reference rows is marked: its numbers answer another question,
so they are never ranked with the rest. `tables` makes the page for people of these rows.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.comparison import spread
from pipeline.core import files, params, paths
from pipeline.core.errors import PipelineError

OK, FAILED, OTHER = "ok", "failed", "other protocol"
COLUMNS = (
    "kind",
    "status",
    "model",
    "label",
    "family",
    "fid",
    "fid_min",
    "fid_max",
    "kid",
    "kid_min",
    "kid_max",
    "coverage",
    "coverage_min",
    "coverage_max",
    "density",
    "precision",
    "recall",
    "authenticity",
    "authenticity_real",
    "authenticity_pixels",
    "authenticity_pixels_real",
    "label_accuracy",
    "label_accuracy_real",
    "class_fid",
    "class_fid_real",
    "class_fid_max",
    "class_fid_worst",
    "class_fid_n",
    "bits_per_dim",
    "bits_per_dim_stderr",
    "bits_per_dim_behind",
    "bits_per_dim_behind_stderr",
    "likelihood_bound",
    "nats_per_image",
    "iwae_bits_per_dim",
    "iwae_bits_per_dim_stderr",
    "iwae_nats_per_image",
    "iwae_samples",
    "bits_per_dim_given_label",
    "bits_per_dim_given_label_stderr",
    "nats_per_image_given_label",
    "label_gain_nats",
    "label_gain_nats_stderr",
    "reconstruction_mse",
    "reconstruction_psnr",
    "reconstruction_ssim",
    "reconstruction_kind",
    "translation_fid_ab",
    "translation_fid_ab_floor",
    "translation_fid_ba",
    "translation_fid_ba_floor",
    "translation_fid_identity",
    "translation_mse",
    "translation_mse_ab",
    "translation_mse_ba",
    "translation_mse_identity",
    "translation_label_accuracy",
    "translation_label_accuracy_real",
    "translation_label_accuracy_identity",
    "translation_n",
    "cycle_mse",
    "parameters",
    "images_seen",
    "training_flops_per_image",
    "sampling_flops",
    "network_evaluations",
)
"""The first columns of the table, always there; all other keys follow in alphabetical order."""
PICTURED = 12
"""Images of each model in the picture."""

Row = dict[str, Any]


def read_reference(path: Path) -> Row:
    """The reference rows and their protocol, as the stage ``reference`` wrote them.

    Raises:
        PipelineError: if that stage has not run.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no such file; run `dvc repro reference`")
    return files.read_json(path)


def rows(
    models: dict[str, Any],
    metrics: Callable[[str], Path],
    reference: Row,
    external: Path | None = None,
) -> list[Row]:
    """One flat row for each model in its order, what others made, and the reference rows.

    Args:
        models: the section of params.yaml: a block with the key ``family`` for each model.
        metrics: where the metrics of a model are; without that file the model failed.
        reference: from `read_reference`.
        external: a folder with the metrics of images that other generators made (see
            `pipeline.evaluation.external`), each of which is a row like a model's.

    Returns:
        The keys of the metrics and ``kind`` (model | reference), ``status`` (`OK`, `FAILED` or
        `OTHER`), ``model`` and ``label``.

    Raises:
        PipelineError: if a model and such images have one name.
    """
    common = {key: value for key, value in reference.items() if key != "rows"}
    found = []
    for name, block in models.items():
        row = {"kind": "model", "model": name, "label": name, "family": block["family"]}
        if not metrics(name).exists():
            found.append({**row, "status": FAILED})
            continue
        found.append(_judged({**row, **files.read_json(metrics(name))}, reference))
    for path in sorted(external.glob("*.json")) if external is not None else []:
        if path.stem in models:
            raise PipelineError(
                f"{path}: a model of params.yaml is called so, too; rename or delete this file"
            )
        row = {"kind": "model", "model": path.stem, "label": path.stem}
        found.append(_judged({**files.read_json(path), **row}, reference))
    for each in reference["rows"]:
        facts = {key: value for key, value in each.items() if key != "name"}
        found.append({"kind": "reference", "status": OK, "model": each["name"], **common, **facts})
    return found


def project_rows(raw: dict[str, Any], reference: Row) -> list[Row]:
    """`rows` of the models in params.yaml, from the project's own files, with their error bars.

    These are the keys of `pipeline.comparison.spread.COLUMNS`, and `behind`.
    """
    found = rows(params.model_blocks(raw), paths.model_metrics, reference, paths.EXTERNAL)
    spreads = [
        spread.read(paths.thorough_metrics(row["model"]), row, raw)
        if row["kind"] == "model" and row["status"] == OK and row["model"] in raw["models"]
        else {}
        for row in found
    ]
    return behind([row | more for row, more in zip(found, spreads, strict=True)], paths.scores_dir)


def behind(rows: Sequence[Row], scores: Callable[[str], Path]) -> list[Row]:
    """Rows, and how far each model is behind the next better one in bits/dim, image by image.

    ``bits_per_dim_behind`` is the mean difference, and its standard error is that of a mean of
    paired differences: both models score the same images, of which some are hard for either.

    Args:
        rows: from `rows`.
        scores: the folder of a model's ``nats.npy``, the nats of each image, if it has one.
    """
    scored = [
        row
        for row in rows
        if row["kind"] == "model"
        and row["status"] == OK
        and row.get("bits_per_dim") is not None
        and (scores(row["model"]) / "nats.npy").exists()
    ]
    scored.sort(key=lambda row: row["bits_per_dim"])
    found: dict[str, Row] = {}
    for better, worse in pairwise(scored):
        nats = [np.load(scores(row["model"]) / "nats.npy") for row in (better, worse)]
        difference = nats[1] - nats[0]
        stderr = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        unit = worse["bits_per_dim"] / worse["nats_per_image"]
        values = {
            "bits_per_dim_behind": unit * float(difference.mean()),
            "bits_per_dim_behind_stderr": unit * stderr,
        }
        found[worse["model"]] = files.rounded(values)
    return [row | found.get(row["model"], {}) if row["kind"] == "model" else row for row in rows]


def _judged(row: Row, reference: Row) -> Row:
    same = row.get("protocol") == reference["protocol"]
    return {**row, "status": OK if same else OTHER}


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
    """
    parts = []
    for model in models:
        if not curve(model).exists():
            continue
        wide = pd.read_csv(curve(model), dtype=str)
        long = wide.melt(["step", "images"], var_name="curve").dropna(subset="value")
        parts.append(long.assign(model=model))
    columns = ["model", "curve", "step", "images", "value"]
    joined = pd.concat(parts) if parts else pd.DataFrame(columns=columns)
    return joined[columns].to_csv(index=False, lineterminator="\n")


def pictured(
    rows: Sequence[Row], samples: Callable[[str], Path], real: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Rows for `sampling.pictures.labelled_rows`: real images, then what each model makes.

    A conditional model, which has ``labels.npy`` beside its samples, shows the first image of
    each class; others show their first images. A model that has no samples but translates shows
    images of domain B as domain A. One without either, or of another shape, gets an empty row.

    Args:
        rows: from `rows`.
        samples: the folder of a model's samples.
        real: uint8 images [N, C, H, W] of the data set.
    """
    found = [("real images", np.array(real[:PICTURED]))]
    for row in rows:
        if row["kind"] != "model":
            continue
        what, images = _shown(samples(row["model"]))
        if row["status"] == FAILED:
            what = "failed"
        elif images is not None and images.shape[1:] != real.shape[1:]:
            what, images = "another shape", None
        label = f"{row['model']} ({what})" if what else row["model"]
        found.append((label, found[0][1][:0] if images is None else images))
    return found


def _shown(folder: Path) -> tuple[str, np.ndarray | None]:
    """What a model makes, said in a few words if it isn't plain, and at most `PICTURED` of it."""
    if (folder / "samples.npy").exists():
        images = np.load(folder / "samples.npy", mmap_mode="r")
        if not (folder / "labels.npy").exists():
            return "", np.array(images[:PICTURED])
        _, first = np.unique(np.load(folder / "labels.npy"), return_index=True)
        return "by class", np.array(images[first[:PICTURED]])
    if (folder / "b_to_a.npy").exists():
        images = np.load(folder / "b_to_a.npy", mmap_mode="r")
        return "B to A", np.array(images[:PICTURED])
    return "no samples", None
