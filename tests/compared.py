"""A folder in which all stages before ``compare`` have run, for tests."""

import json

import numpy as np
import pytest

from pipeline.core import arrays, paths
from pipeline.datasets.store import Split, write

HOME = paths.Results("toy")

PROTOCOL = {
    "dataset": "toy",
    "data_sha256": "d" * 64,
    "judge_recipe": "r" * 64,
    "n_samples": 20,
    "n_reference": 20,
    "reference_split": "test",
    "fid_features": "judge-64x3",
    "metric_version": "1",
    "protocol": "0123456789abcdef",
}
NOTHING = dict.fromkeys(
    (
        "fid",
        "fid_min",
        "fid_max",
        "nats_per_image",
        "bits_per_dim",
        "bits_per_dim_stderr",
        "likelihood_bound",
        "reconstruction_mse",
        "reconstruction_psnr",
        "reconstruction_kind",
    )
)
MODELS = {
    "zeta": {"family": "vae"},
    "alpha": {"family": "gan"},
    "broken": {"family": "ddpm"},
    "exact": {"family": "pixelcnn"},
    "stranger": {"family": "vae"},
}


def fid(value):
    return {"fid": value, "fid_min": value * 0.9, "fid_max": value * 1.1}


def reference():
    named = [
        {"name": "real", "label": "real training images", **NOTHING, **fid(0.5)},
        {"name": "noise", "label": "uniform noise", **NOTHING, **fid(200.0)},
        {"name": "png", "label": "PNG", **NOTHING, "bits_per_dim": 1.8,
         "likelihood_bound": "code length", "nats_per_image": 966.0},
        {"name": "pca_32", "label": "PCA-32", **NOTHING, "reconstruction_mse": 0.016,
         "reconstruction_psnr": 18.4, "reconstruction_kind": "32 numbers"},
    ]  # fmt: skip
    return {**PROTOCOL, "rows": named}


def metrics():
    cost = {"parameters": 1000, "images_seen": 50000}
    likelihood = {"bits_per_dim_stderr": 0.0125, "nats_per_image": 680.0}
    decoded = {
        "reconstruction_mse": 0.0071,
        "reconstruction_psnr": 21.9,
        "reconstruction_kind": "posterior mean",
    }
    zeta = {"bits_per_dim": 1.25, "likelihood_bound": "elbo", "likelihood_kl_nats": 30.5}
    return {
        "zeta": {**NOTHING, **cost, **fid(6.0), **likelihood, **decoded, **zeta},
        "alpha": {**NOTHING, **cost, **fid(5.0), "parameters": 2000000},
        "exact": {
            **NOTHING, **cost, **fid(3.5), **likelihood,
            "bits_per_dim": 0.9, "likelihood_bound": "exact",
        },
        "stranger": {**NOTHING, **cost, **fid(0.1), "protocol": "f" * 16, "n_samples": 10},
    }  # fmt: skip


def rewrite(path, **changes):
    """Change keys of a JSON file; those that are to be ``...`` are taken out."""
    found = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not ...}))


def images(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder in which the stages before ``compare`` have run; ``broken`` failed."""
    monkeypatch.chdir(tmp_path)
    blocks = "".join(f"  {name}: {{family: {each['family']}}}\n" for name, each in MODELS.items())
    paths.PARAMS.write_text(f"data: {{name: toy, title: toy}}\nmodels:\n{blocks}")
    paths.DVC_YAML.write_text(
        "stages:\n  compare:\n    deps: ["
        "'metrics/${data.title}/models', 'metrics/${data.title}/reference.json']\n"
        "    params: [models]\n"
    )
    write(
        paths.PROCESSED,
        "toy",
        ["a", "b", "c"],
        {name: Split(images(20, i), np.arange(20) % 3) for i, name in enumerate(("train", "test"))},
    )
    HOME.curves.mkdir(parents=True)
    HOME.models.mkdir(parents=True)
    HOME.reference.write_text(json.dumps(reference()))
    for i, (name, found) in enumerate(metrics().items()):
        row = {**PROTOCOL, "model": name, "family": MODELS[name]["family"], **found}
        HOME.model_metrics(name).write_text(json.dumps(row))
        paths.samples_dir(name).mkdir(parents=True)
        arrays.save(paths.samples_dir(name), {"samples": images(20, 10 + i)})
    HOME.curve("zeta").write_text(
        "step,images,model/elbo,model/kl\n10,160,700.125,\n20,320,690.5,1e-05\n"
    )
    HOME.curve("alpha").write_text("step,images,critic/loss\n10,160,-0.10\n")
    return tmp_path


def verdict(*reasons, shift=1.0, second=None, floor_n=1000):
    """What a file of reference rows says of judges; with ``reasons``, of such as do not judge.

    With ``second``, there are judges of another kind, too, with these reasons.
    """
    rungs = [
        {"ladder": "real", "label": "real", "fid": [0.5, 0.6]},
        {"ladder": "noise", "label": "some", "fid": [0.7, 0.8]},
        {"ladder": "noise", "label": "much", "fid": [3.0, 5.0]},
    ]
    opinions = {"classifier": reasons} | ({} if second is None else {"label_free": second})
    return {
        "ranks": not reasons,
        "reasons": list(reasons),
        "shift": shift,
        "shifted": shift > 2,
        "floor_n": floor_n,
        "floor": [0.4, 0.6],
        "kinds": [
            {
                "kind": kind,
                "accuracy": [0.98, 0.99],
                "ranks": not why,
                "reasons": list(why),
                "rungs": rungs,
            }
            for kind, why in opinions.items()
        ],
    }
