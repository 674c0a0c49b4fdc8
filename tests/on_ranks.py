"""What tests have several ranks do (`ranked`), and one process alone."""

import torch
from builders import MODELS, tiny_model, trainer

from pipeline.core.images import ImageSpec
from pipeline.training import checkpoints

SPEC = ImageSpec(channels=1, height=16, width=16, classes=10)
"""Large enough for discriminators to have BatchNorm."""
STEPS = 6


def trainings(device: torch.device) -> dict[str, dict]:
    """Each model of params.yaml after a few steps in float64: all that a checkpoint holds."""
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    found = {}
    for name in MODELS:
        made = trainer(tiny_model(f"models.{name}", SPEC), steps=STEPS)
        made.run()
        state, scalars = checkpoints.take(made)
        found[name] = {
            "state": state,
            "facts": made.facts(),
            "rows": scalars["rows"],
            "updates": scalars["updates"],
        }
    return found
