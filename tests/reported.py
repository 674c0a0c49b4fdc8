"""The report of a small project, for tests."""

import numpy as np
import pytest
from compared import HOME, MODELS, reference, rewrite
from compared import project as project
from PIL import Image

from pipeline.core import params, paths
from pipeline.report import page

LOCK = "schema: '2.0'\nstages:\n" + "".join(
    f"  {stage}@{name}:\n    cmd: {stage}\n"
    for name in ("zeta", "alpha")
    for stage in ("train", "sample", "evaluate")
)


@pytest.fixture
def made(project):
    """The page of a project whose models have pictures, and what was asked of it."""
    raw = params.read()
    raw["models"] = MODELS
    paths.DVC_LOCK.write_text(LOCK)
    for name in ("zeta", "alpha", "exact"):
        HOME.pictures_dir(name).mkdir(parents=True)
        for kind in ("samples", "nearest", "odd_one"):
            Image.fromarray(np.zeros((8, 12), np.uint8)).save(
                HOME.pictures_dir(name) / f"{kind}.png"
            )
    for name in ("zeta", "alpha"):
        flops = {"training_flops_per_image": 1000, "sampling_flops": 20}
        authenticity = ("authenticity", "authenticity_pixels")
        authenticity += tuple(f"{key}_real" for key in authenticity)
        rewrite(HOME.model_metrics(name), **flops, **dict.fromkeys(authenticity, 0.5))
    return raw, page.render(raw, reference())
