"""What people see on MLflow's pages: which metrics, how to read them, in which colours."""

import base64
import json
import time
import zlib
from typing import TYPE_CHECKING

from pipeline import families

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

VIEW = "models"
"""Under which the view of the runs page is saved."""
COLUMNS = {
    "eval/fid": "Fréchet distance between the judges' features of samples and of real images, "
    "geometric mean over the judges; **lower** is better",
    "eval/fid_min": "the lowest of the judges' distances",
    "eval/fid_max": "the highest of them; distances whose ranges overlap do not rank models",
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
    "cost/sampling_flops": "the same for one sample; **lower** is cheaper",
    "cost/network_evaluations": "how many times networks run one after the other for a sample",
    "cost/train_seconds": "wall-clock of the training, where it ran on this machine; **lower** is "
    "cheaper, but compare it on one device only",
}
"""The metrics that the runs page shows, in order, and how to read them."""
NOTE = (
    "One run per model, as it stands in dvc.lock; those with `current = true` are what params.yaml "
    "describes. Runs of one experiment share data set and protocol, so their numbers compare; a "
    "metric that a model does not have does not apply to it. The chart view shows their pictures "
    "side by side, and each run has them among its artifacts.\n\n"
    + "\n".join(f"- `{key}`: {text}" for key, text in COLUMNS.items())
    + "\n- `train/<group>/<term>`: losses over steps; those of different families share no unit"
)
PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7",
    "#9c755f", "#17becf", "#bcbd22", "#8c564b", "#1f3a5f", "#7fc97f", "#d147a3", "#79706e",
)  # fmt: skip
SHADES = (0.0, -0.35, 0.35, -0.6, 0.6)
"""How much darker or lighter the first, second, ... model of a family is than its colour."""


def colour(family: str, place: int = 0) -> str:
    """The colour of a model's runs: its family's, in a shade by its ``place`` in the family."""
    known = families.names()
    number = known.index(family) if family in known else len(known)
    base = PALETTE[number % len(PALETTE)]
    shade = SHADES[place % len(SHADES)]
    target = 255 if shade > 0 else 0
    levels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(each + abs(shade) * (target - each)):02x}" for each in levels)


def publish(client: "MlflowClient", experiment: "Experiment") -> None:
    """Save a view of the runs page: current runs, best first, with the metrics as columns.

    On its own the page shows no metric, and draws ten runs only.
    """
    columns = ["tags.`family`", *(f"metrics.`{key}`" for key in COLUMNS)]
    state = json.dumps(
        {
            "searchFilter": "tags.current = 'true'",
            "orderByKey": "metrics.`eval/fid`",
            "orderByAsc": True,
            "selectedColumns": columns,
            "columnOrder": columns,
            "runsHiddenMode": "SHOW_ALL",
        }
    )
    packed = "deflate;" + base64.b64encode(zlib.compress(state.encode())).decode()
    key = f"mlflow.sharedViewState.{VIEW}"
    if key in experiment.tags and json.loads(experiment.tags[key])["state"] == packed:
        return
    now = round(time.time() * 1000)
    view = {"name": "Current models", "createdAt": now, "updatedAt": now, "state": packed}
    client.set_experiment_tag(experiment.experiment_id, key, json.dumps(view))
