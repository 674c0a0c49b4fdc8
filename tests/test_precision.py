import pytest
import torch

from pipeline.core import precision
from pipeline.core.family import TrainingParams

CPU = torch.device("cpu")


def block(name):
    return TrainingParams(images=1, precision=name)


@pytest.mark.parametrize(
    ("name", "emulated", "lines"),
    [("bf16", True, 1), ("bf16", False, 0), ("fp32", True, 0)],
)
def test_one_line_says_what_to_set_where_bf16_is_emulated(
    monkeypatch, capsys, name, emulated, lines
):
    monkeypatch.setattr(precision, "is_emulated", lambda device: emulated)
    precision.warn_if_emulated(CPU, block(name), "models.vae.training")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == lines
    assert all("models.vae.training.precision" in line and "fp32" in line for line in told)


def test_a_block_without_a_precision_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(precision, "is_emulated", lambda device: True)
    precision.warn_if_emulated(CPU, None, "models.vae.sampling")
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_are_computed_as_the_name_says(name, dtype):
    with precision.autocast(CPU, name):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
