"""Rules, a baseline and the metrics that gave it, for tests of the gate."""

import json
import subprocess

import pytest
from ruamel.yaml import YAML

from pipeline.core import paths
from pipeline.gate import rules as gate_rules
from pipeline.gate.baseline import Baseline, Entry

HOME = paths.Results("toy")

PROTOCOL = "0123456789abcdef"
RULES = {
    "false_alarms": 0.01,
    "noisy": 1.0,
    "metrics": {
        "fid": {"better": "lower", "relative": 0.05, "absolute": 0.1},
        "coverage": {"better": "higher", "absolute": 0.02},
        "bits_per_dim": {"better": "lower", "absolute": 0.003},
        "parameters": {"better": "lower", "level": "warn"},
    },
}
DATA = {"name": "toy", "title": "toy"}
FIDS = {"ddpm": 5.8, "dcgan": 7.0, "vae": 17.0, "cgan": 1.8}


def rules(**changes):
    return gate_rules.section(
        {"data": DATA, "gate": {**RULES, **changes}, "models": dict.fromkeys(FIDS)}
    )


def base(sd=0.05, n=3, **more):
    """A baseline in which FIDs move by ``sd`` as a share, from training to training."""
    models = {
        name: {
            "fid": Entry(fid, sd * fid if n > 1 else None, n),
            "coverage": Entry(0.5, 0.005 if n > 1 else None, n),
            "parameters": Entry(1000.0, 0.0 if n > 1 else None, n),
        }
        for name, fid in FIDS.items()
    }
    models["vae"]["bits_per_dim"] = Entry(1.35, 0.001 if n > 1 else None, n)
    return Baseline(PROTOCOL, {**models, **more})


def same(base_line):
    return {
        model: {"protocol": PROTOCOL, **{key: entry.mean for key, entry in metrics.items()}}
        for model, metrics in base_line.models.items()
    }


def changed(model, **values):
    now = same(base())
    now[model] |= values
    return now


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a baseline and the metrics that gave it, committed."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump(
            {"data": DATA, "gate": RULES, "models": {n: {"family": n} for n in FIDS}}, stream
        )
    base().write(HOME.baseline)
    write(same(base()))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        git(*command)
    return tmp_path


def git(*command):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], check=True)


def write(now):
    """Write metrics, each with what always stands beside it."""
    HOME.models.mkdir(parents=True, exist_ok=True)
    for model, found in now.items():
        whole = {"model": model, "family": model, "dataset": "toy", **found}
        for key in ("fid", "coverage"):
            whole |= {f"{key}_min": found.get(key), f"{key}_max": found.get(key)}
        if found.get("bits_per_dim") is not None:
            whole |= {"bits_per_dim_stderr": 0.01, "nats_per_image": 700.0}
            whole |= {"likelihood_bound": "elbo"}
        HOME.model_metrics(model).write_text(json.dumps(whole))
