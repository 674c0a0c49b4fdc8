import re

import pytest
import torch
from params_files import COMMITTED, complaint, edited, validate

from pipeline.core import params, precision
from pipeline.core.errors import PipelineError
from pipeline.models import entries


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    path = edited(tmp_path, r"beta1: [\d.]+", "beta1: 25e-2", after="\n  dcgan:\n")
    assert entries.read(params.read(path), "dcgan", path=path).training.beta1 == 0.25


def test_blocks_that_were_not_asked_for_are_out_of_reach():
    raw = params.read(COMMITTED)
    model = entries.read(raw, "vae", blocks=("network",))
    assert model.training is None
    assert model.network.latent == raw["models"]["vae"]["network"]["latent"]


def test_a_mistake_in_another_model_does_not_stop_this_one(tmp_path):
    path = edited(tmp_path, r"beta1: [\d.]+", "beta1: 5", after="\n  dcgan:\n")
    entries.read(params.read(path), "vae", path=path)
    with pytest.raises(PipelineError, match="dcgan"):
        entries.read(params.read(path), "dcgan", path=path)


def lstm_in_bf16(folder):
    return edited(folder, "precision: fp32", "precision: bf16", after="\n  lstm:\n")


def test_check_refuses_a_family_that_cannot_do_bf16_here(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "lstm_takes_bf16", lambda device: False)
    assert re.fullmatch(
        r"params.yaml: models.lstm.training.precision = 'bf16': .*family lstm.*; use fp32",
        complaint(lstm_in_bf16(tmp_path)),
    )
    monkeypatch.setattr(precision, "lstm_takes_bf16", lambda device: True)
    validate(lstm_in_bf16(tmp_path))


def test_the_training_stage_refuses_it_with_the_same_line(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "lstm_takes_bf16", lambda device: False)
    chosen = entries.read(params.read(lstm_in_bf16(tmp_path)), "lstm")
    with pytest.raises(PipelineError, match="use fp32"):
        entries.check_device(chosen, torch.device("cpu"))
