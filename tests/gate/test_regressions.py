"""Real regressions, trained for real: the gate stops them."""

import shutil
from pathlib import Path

import pytest
from builders import MODELS
from clone import Clone

ROOT = Path(__file__).parents[2]
HOME = "metrics/mnist-5k"

pytestmark = pytest.mark.slow


def test_a_quarter_of_a_budget_and_lost_statistics_are_stopped(tmp_path):
    """Train gpt with a quarter of its budget, and lose dcgan's BatchNorm statistics.

    Sampling in training mode would not do: FID does not see it where batches are large.
    `test_adversarial` does, since an image then depends on its batch.
    """
    clone = Clone(tmp_path, tuple(MODELS), small=False)
    clone.take_over(ROOT)  # data and judges
    shutil.copytree(ROOT / HOME / "models", clone.folder / HOME / "models")
    shutil.copy(ROOT / HOME / "baseline.json", clone.folder / HOME)
    assert clone.run("pipeline", "gate").returncode == 0, "the committed run passes"

    clone.params["models"]["gpt"]["training"]["images"] //= 4
    clone.write_params()
    clone.replace(
        "pipeline/blocks/adversarial.py",
        "        for batch in islice(batches, NORMALISATION_BATCHES):",
        "        for batch in islice(batches, 0):",
    )
    clone.run("pipeline", "repro", "--no-compare", "--models", "gpt,dcgan")
    done = clone.run("pipeline", "gate", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert any("gpt: bits_per_dim" in line and "worse by" in line for line in failed)
    assert any("dcgan: second_fid" in line and "worse by" in line for line in failed)
    assert all(" gpt: " in line or " dcgan: " in line for line in failed)
