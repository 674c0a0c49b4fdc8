"""What people see on MLflow's pages: which metrics, how to read them, in which colours."""

import base64
import json
import time
import uuid
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

LEADERBOARD, FAMILIES = "leaderboard", "families"
"""Under which the views of the runs page are saved."""
COLUMNS = {
    "eval/fid": "Fréchet distance between the judges' features of samples and of real images, "
    "geometric mean over the judges; **lower** is better",
    "eval/fid_min": "the lowest of the judges' distances",
    "eval/fid_max": "the highest of them; distances whose ranges overlap do not rank models",
    "eval/second_fid": "the same by judges of the other kind (tag `second_features`), which are "
    "blind to other things: compare ranks, not values; **lower** is better",
    "eval/kid": "kernel distance on the same features, about 0 for real images; **lower** is "
    "better",
    "eval/coverage": "share of real images with a sample nearer than their fifth neighbour; "
    "**higher** is better, and `eval/recall`, `eval/precision` and `eval/density` stand beside it",
    "eval/authenticity": "share of samples that are no copies of training images; only what is far "
    "below `eval/authenticity_real` copies",
    "eval/class_fid": "Fréchet distance within classes, of so many images of each as the tag "
    "`class_fid_n` says; **lower** is better, and `eval/class_fid_real` is what real images have",
    "eval/label_accuracy": "share of a conditional model's samples in which the judges see the "
    "class that was asked for; **higher** is better, and `eval/label_accuracy_real` is what real "
    "images get",
    "eval/bits_per_dim": "negative log-likelihood of held-out images, or its bound (tag "
    "`likelihood_bound`), in bits per value; **lower** is better. A conditional model's is that of "
    "the marginal over labels; `eval/bits_per_dim_given_label` is told the label",
    "eval/bits_per_dim_stderr": "its standard error over the images",
    "eval/iwae_bits_per_dim": "the same by the importance-weighted bound of so many draws as the "
    "tag `iwae_samples` says, which is tighter, so it compares with its like only; **lower** is "
    "better",
    "eval/reconstruction_mse": "squared error after encoding and decoding (tag "
    "`reconstruction_kind`), white is 1; **lower** is better",
    "eval/reconstruction_psnr": "the same in dB; **higher** is better",
    "eval/translation_fid_ab": "Fréchet distance between images translated from domain A to B and "
    "real ones of B, of so many images as the tag `translation_n` says; **lower** is better",
    "eval/translation_fid_ba": "the same from B to A; `eval/translation_fid_identity` is what "
    "images left as they are have, `eval/translation_fid_ab_floor` and `..._ba_floor` what real "
    "ones have",
    "eval/translation_mse": "squared error of translated images against the truth, where it is "
    "known, mean of both directions, white is 1; **lower** is better",
    "eval/translation_label_accuracy": "share of images translated from B to A in which the judges "
    "see the class of the original; **higher** is better",
    "eval/cycle_mse": "squared error of images translated there and back; **lower** is better, but "
    "images left as they are have 0",
    "cost/parameters": "trainable values; **lower** is cheaper",
    "cost/images_seen": "training images seen, with repetition; **lower** is cheaper",
    "cost/training_flops_per_image": "operations of matrix products, convolutions and recurrent "
    "layers for one training image; **lower** is cheaper",
    "cost/training_flops": "the same for the whole training; **lower** is cheaper",
    "cost/sampling_flops": "the same for one sample; **lower** is cheaper",
    "cost/network_evaluations": "how many times networks run one after the other for a sample",
    "cost/train_seconds": "wall-clock of the training, where it ran on this machine; **lower** is "
    "cheaper, but compare it on one device only",
}
"""How to read the metrics."""
LEADING = (
    "eval/fid",
    "eval/second_fid",
    "eval/kid",
    "eval/coverage",
    "eval/label_accuracy",
    "eval/bits_per_dim",
    "eval/reconstruction_mse",
    "eval/translation_fid_ab",
    "eval/translation_fid_ba",
    "cost/parameters",
    "cost/training_flops",
    "cost/sampling_flops",
)
"""The metrics that the runs page shows, in order."""
NOTE = (
    "One run per model, as it stands in dvc.lock; those with `current = true` are what params.yaml "
    "describes, and those with `live` are in training. Runs of one experiment share data set and "
    "protocol, so their numbers compare; a metric that a model does not have does not apply to it. "
    "The chart view shows their pictures side by side, and each run has them among its "
    "artifacts.\n\n"
    + "\n".join(f"- `{key}`: {text}" for key, text in COLUMNS.items())
    + "\n- `train/<group>/<term>`: losses over steps; those of different families share no unit"
)


def _bar(key: str) -> dict[str, Any]:
    return {"type": "BAR", "metricKey": key}


def _scatter(cost: str, quality: str) -> dict[str, Any]:
    return {
        "type": "SCATTER",
        "xaxis": {"key": cost, "type": "METRIC"},
        "yaxis": {"key": quality, "type": "METRIC"},
    }


def _curve(key: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": key,
        "selectedMetricKeys": [key],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
    }


def _images(name: str) -> dict[str, Any]:
    return {"type": "IMAGE", "imageKeys": [f"pictures/{name}"], "step": 0}


SECTIONS = {
    "1. Quality: lower is better": [
        _bar("eval/fid"),
        _bar("eval/bits_per_dim"),
        _bar("eval/reconstruction_mse"),
        _bar("eval/translation_fid_ab"),
        _bar("eval/translation_fid_ba"),
    ],
    "2. Quality: higher is better": [_bar("eval/coverage"), _bar("eval/label_accuracy")],
    "3. Quality against cost: nearer to the lower left corner is better": [
        _scatter("cost/sampling_flops", "eval/fid"),
        _scatter("cost/training_flops", "eval/fid"),
        _scatter("cost/parameters", "eval/fid"),
        _scatter("cost/training_flops", "eval/bits_per_dim"),
    ],
    "4. Images": [
        _images(name)
        for name in ("samples", "nearest", "reconstructions", "interpolations", "a_to_b_to_a")
    ],
    "5. Training: each family in a unit of its own": [
        _curve(f"train/{term}")
        for term in ("model/loss", "generator/loss", "discriminator/loss", "critic/wasserstein")
    ],
}
"""The charts of the view that compares families; MLflow titles them by their metrics."""
CLOSED = (
    "eval",
    "cost",
    "pictures",
    *(f"train/{group}" for group in ("model", "generator", "discriminator", "critic")),
)
"""Sections to which MLflow adds a chart for each other metric: there they wait until opened."""


def link(server: str, experiment_id: str, view: str) -> str:
    """The address of a saved view of an experiment's runs."""
    # The workflow is the side bar's: on its own it lists what concerns language models.
    query = f"workflowType=machine_learning&viewStateShareKey={view}"
    mode = "&compareRunsMode=CHART" if view == FAMILIES else ""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}{mode}"


def publish(client: "MlflowClient", experiment: "Experiment") -> None:
    """Save the views of the runs page, unless they are saved already.

    On its own the page shows no metric, draws ten runs only, and has a chart for each of a hundred
    metrics in alphabetical order.
    """
    for key, (name, state) in views().items():
        packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        tag = f"mlflow.sharedViewState.{key}"
        if json.dumps(packed) in experiment.tags.get(tag, ""):
            continue
        now = round(time.time() * 1000)
        view = {"name": name, "createdAt": now, "updatedAt": now, "state": packed}
        client.set_experiment_tag(experiment.experiment_id, tag, json.dumps(view))


def views() -> dict[str, tuple[str, dict[str, Any]]]:
    """The name and the state of each view: current runs, best first."""
    columns = ["tags.`family`", *(f"metrics.`{key}`" for key in LEADING)]
    runs = {
        "searchFilter": "tags.current != 'false'",
        "orderByKey": "metrics.`eval/fid`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "runsHiddenMode": "SHOW_ALL",
    }
    sections = [
        {
            "uuid": _uuid(title),
            "name": title,
            "display": title in SECTIONS,
            "isReordered": True,
            "deleted": False,
            "isGenerated": title not in SECTIONS,
        }
        for title in (*SECTIONS, *CLOSED)
    ]
    charts = [
        {
            "uuid": _uuid(title, json.dumps(chart)),
            "metricSectionId": _uuid(title),
            "deleted": False,
            "isGenerated": False,
            "runsCountToCompare": 100,
            **chart,
        }
        for title, listed in SECTIONS.items()
        for chart in listed
    ]
    compared = {
        **runs,
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": False,
    }
    return {LEADERBOARD: ("Leaderboard", runs), FAMILIES: ("Families", compared)}


def _uuid(*name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(name)))
