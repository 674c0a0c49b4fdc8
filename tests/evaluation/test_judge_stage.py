"""The stage that trains the judges: which kinds there are, and which one carries the headline."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import some_images
from params_files import changed

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.datasets.store import Split, write
from pipeline.evaluation import judge, protocol
from stages import judge as stage

ROOT = Path(__file__).parents[2]
SPEC = {1: ImageSpec(1, 16, 12, 1), 3: ImageSpec(3, 16, 12, 1)}


def stored(labels, channels):
    """A data set of noise, brighter in the second class if labels are ``learnable``."""
    splits = {}
    for seed, name in enumerate(("train", "val", "test")):
        given = np.arange(64) % (1 if labels == "none" else 2)
        light = 100 * given[:, None, None, None] * (labels == "learnable")
        noise = some_images(64, SPEC[channels], seed).numpy() // 8
        splits[name] = Split((noise + light).astype(np.uint8), given)
    write(paths.PROCESSED, "toy", ["a"] if labels == "none" else ["a", "b"], splits)


@pytest.mark.parametrize(
    ("kind", "labels", "channels", "expected", "why"),
    [
        ("auto", "learnable", 1, ["label_free", "classifier"], "can be learnt .* grey"),
        ("auto", "learnable", 3, ["classifier", "label_free"], "can be learnt .* in colour"),
        ("auto", "none", 3, ["label_free"], "no labels"),
        ("auto", "random", 3, ["label_free"], "cannot be learnt: classifiers name .* of the test"),
        ("label_free", "learnable", 3, ["label_free", "classifier"], "params.yaml says so"),
        ("classifier", "learnable", 1, ["classifier", "label_free"], "params.yaml says so"),
        ("classifier", "random", 1, ["classifier", "label_free"], "params.yaml says so"),
    ],
)
def test_the_stage_takes_judges_that_can_judge(
    tmp_path, monkeypatch, kind, labels, channels, expected, why
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    settings = {"kind": kind, "seeds": [1], "batch": 16}
    settings |= {"classifier": {"steps": 24, "learning_rate": 0.01}}
    settings |= {"label_free": {"steps": 2, "learning_rate": 0.01}}
    changed(tmp_path, **{f"judge__{key}": value for key, value in settings.items()})
    stored(labels, channels)
    stage.main()
    found = protocol.judge_facts()
    assert [each["kind"] for each in found["kinds"]] == expected
    assert re.search(why, found["why"])
    for each in found["kinds"]:
        assert (each["judges"][0]["accuracy"] is None) == (labels == "none")
    spec = replace(SPEC[channels], classes=1 if labels == "none" else 2)
    loaded = judge.load(paths.JUDGE, spec, torch.device("cpu"))
    assert [len(loaded.headline), len(loaded.second)] == ([1, 1] if expected[1:] else [1, 0])


@pytest.mark.parametrize("dead", [0, 2])
def test_a_judge_whose_features_die_is_trained_again_at_half_the_rate(monkeypatch, dead):
    rates, split = [], Split(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64))

    def train(images, labels, spec, section, seed, device):
        rates.append(section.classifier.learning_rate)

    def facts(*of):
        if len(rates) <= dead:
            raise PipelineError("judge 1: its features are constant")
        return {"seed": 1}

    monkeypatch.setattr(stage.classifier, "train", train)
    monkeypatch.setattr(stage.judge, "facts", facts)
    arguments = ("classifier", 1, split, split, split, None, params.Judge(), None)
    assert stage._alive(*arguments) == (None, {"seed": 1})
    assert rates == [0.01, 0.005, 0.0025][: dead + 1]


def test_a_judge_whose_features_stay_constant_is_an_error(monkeypatch):
    tried = []

    def facts(*of):
        raise PipelineError("judge 1: its features are constant")

    monkeypatch.setattr(stage.label_free, "train", lambda *of: tried.append(of))
    monkeypatch.setattr(stage.judge, "facts", facts)
    split = Split(np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(PipelineError, match="constant"):
        stage._alive("label_free", 1, split, split, split, None, params.Judge(), None)
    assert len(tried) == stage.TRIES
