import re
from types import SimpleNamespace

import psutil
import pytest
import torch
from builders import tiny_params
from params_files import COMMITTED, changed, complaint, edited, validate

from pipeline.core import contract, params, precision
from pipeline.core.contract import TrainingImages, count_parameters
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.models import entries, weights

CPU = torch.device("cpu")
DIGITS = TrainingImages(ImageSpec(1, 28, 28, 10), 3600, [360] * 10)


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
        r".*params.yaml: models.lstm.training.precision = 'bf16': .*family lstm.*; use fp32",
        complaint(lstm_in_bf16(tmp_path)),
    )
    monkeypatch.setattr(precision, "lstm_takes_bf16", lambda device: True)
    validate(lstm_in_bf16(tmp_path))


def test_mistakes_in_several_blocks_of_a_model_are_all_told(tmp_path):
    path = changed(
        tmp_path, models__vae__network__latent=0, models__vae__scoring__posterior_samples=0
    )
    with pytest.raises(PipelineError) as caught:
        entries.read(params.read(path), "vae", path=path)
    first, second = str(caught.value).splitlines()
    assert "models.vae.network.latent" in first and "models.vae.scoring.posterior" in second


def test_the_training_stage_refuses_it_with_the_same_line(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "lstm_takes_bf16", lambda device: False)
    chosen = entries.read(params.read(lstm_in_bf16(tmp_path)), "lstm")
    with pytest.raises(PipelineError, match="use fp32"):
        entries.check_device(chosen, CPU)


@pytest.mark.parametrize("name", params.model_blocks(params.read(COMMITTED)))
def test_a_model_is_refused_if_its_training_takes_more_memory_than_there_is(name, monkeypatch):
    """Weights, gradients, averages and Adam's two, and buffers once, as of the real model."""
    model = entries.read(params.read(COMMITTED), name)
    real = weights.build(model, DIGITS.spec, 0, CPU)
    needed = 20 * count_parameters(real) + sum(each.nbytes for each in real.buffers())
    monkeypatch.setattr(entries, "SMALL", 0)
    monkeypatch.setattr(entries, "memory", lambda device: needed)
    entries.check_network(model, CPU, DIGITS)
    monkeypatch.setattr(entries, "memory", lambda device: needed - 1)
    with pytest.raises(PipelineError, match=rf"^params.yaml: models.{name}.network: .* GB") as told:
        entries.check_network(model, CPU, DIGITS)
    assert f"{count_parameters(real):,} parameters" in str(told.value)


def test_what_no_tensor_can_hold_is_one_line():
    model = entries.read(params.read(COMMITTED), "gan")
    endless = model.network.model_copy(update={"hidden": 2**40})
    with pytest.raises(PipelineError, match=r"^params.yaml: models.gan.network: .*cannot be built"):
        entries.check_network(model.model_copy(update={"network": endless}), CPU, DIGITS)


def test_memory_is_the_machines_or_less():
    assert 0 < entries.memory() <= psutil.virtual_memory().total
    assert entries.memory(CPU) == entries.memory()


def test_memory_of_a_gpu_is_its_own(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=5)
    )
    assert entries.memory(torch.device("cuda")) == 5


def test_a_defect_of_one_family_is_left_to_its_own_training(monkeypatch):
    """It must not keep the others from running."""

    def broken(*arguments):
        raise TypeError("Can't instantiate abstract class")

    monkeypatch.setattr(contract, "on_paper", broken)
    entries.check_network(tiny_params("vae"), CPU, DIGITS)
