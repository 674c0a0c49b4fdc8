"""Arithmetic precision: explicit, part of what is hashed, never guessed."""

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from pipeline.core import paths


def autocast(device: torch.device, name: str) -> AbstractContextManager[None]:
    """Compute in bfloat16 where that is safe (``bf16``), or in float32 throughout (``fp32``)."""
    if name == "fp32" and not torch.is_autocast_enabled(device.type):
        return nullcontext()  # it is so already; torch's context takes a while to enter
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=name == "bf16")


def is_emulated(device: torch.device) -> bool:
    """Whether bfloat16 has no hardware support here, and would be several times slower."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return not torch.cpu._is_avx512_bf16_supported()


@cache
def lstm_takes_bf16(device: torch.device) -> bool:
    """Whether a recurrent layer can be trained in bfloat16 on this device.

    oneDNN has none on processors without AVX512 and ends in an error; what else it lacks where, it
    does not say, so the smallest one is tried.
    """
    layer = torch.nn.LSTM(2, 2, batch_first=True).to(device)
    try:
        with autocast(device, "bf16"):
            found, _ = layer(torch.zeros(1, 1, 2, device=device))
        found.float().sum().backward()
    except RuntimeError:
        return False
    return True


def warn_if_emulated(device: torch.device, block: Any, key: str) -> None:
    """Say in one line what to set, if ``block`` asks for bf16 and this machine would emulate it."""
    if getattr(block, "precision", "fp32") == "bf16" and is_emulated(device):
        print(
            f"warning: {paths.PARAMS}: {key}.precision is bf16, which this "
            f"{device.type} emulates slowly; fp32 is faster here (and gives other bits)",
            file=sys.stderr,
        )
