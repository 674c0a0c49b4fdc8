import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.core import precision
from pipeline.core.contract import TrainingParams

ROOT = Path(__file__).parents[2]
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


PROBE = """
import torch
from pipeline.core import precision
print(precision.lstm_takes_bf16(torch.device("cpu")))
layer = torch.nn.LSTM(3, 5, batch_first=True)
with torch.autocast("cpu", dtype=torch.bfloat16):
    layer(torch.randn(2, 4, 3))[0].float().sum().backward()
"""


@pytest.mark.parametrize("isa", ["AVX2", "DEFAULT"])
def test_what_is_said_of_a_processor_is_what_it_does(isa):
    capability = {"AVX2": "avx2", "DEFAULT": ""}[isa]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": isa}
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(done.returncode == 0)], done.stderr
