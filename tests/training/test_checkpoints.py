import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import MODELS, assert_same_training, skip_if_unsupported, tiny_model, trainer

from pipeline.core.errors import PipelineError
from pipeline.training import trainer as training

EVERY = pytest.mark.parametrize("name", [f"models.{model}" for model in MODELS])
STEPS = 7


@EVERY
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_is_bit_exact(name, precision, tmp_path, monkeypatch, counted):
    monkeypatch.setattr(training, "HISTORY_POINTS", 3)  # stop within a window of the history
    blocks = {"training": {"precision": precision}}
    skip_if_unsupported(name, **blocks)
    whole = trainer(tiny_model(name, **blocks), steps=STEPS)
    whole.run()
    stopped = trainer(tiny_model(name, **blocks), steps=STEPS)
    stopped.run(stop_at=3)
    assert stopped.history.counts
    path = tmp_path / "model.ckpt"
    stopped.save(path)
    resumed = trainer(tiny_model(name, seed=1, **blocks), steps=STEPS, checkpoint=path)
    resumed.run()
    assert_same_training(resumed, whole)


@EVERY
def test_resuming_restores_the_optimisers(name, tmp_path):
    stopped = trainer(tiny_model(name), steps=STEPS)
    stopped.run(stop_at=3)
    stopped.save(tmp_path / "model.ckpt")
    resumed = trainer(tiny_model(name, seed=1), steps=STEPS)
    resumed.load(tmp_path / "model.ckpt")
    for group, before in stopped.optimisers.items():
        after = resumed.optimisers[group]
        pairs = zip(stopped.groups[group].parameters, resumed.groups[group].parameters, strict=True)
        for old, new in pairs:
            assert before.state[old].keys() == after.state[new].keys()
            for key, value in before.state[old].items():
                assert torch.equal(value, after.state[new][key])
                assert value.stride() == after.state[new][key].stride()


CHILD = """
import sys
from pathlib import Path
import torch
from builders import tiny_model, trainer
torch.set_num_threads(1)
path = Path(sys.argv[1])
trainer(tiny_model("vae"), steps=150, checkpoint=path, checkpoint_seconds=1e-9).run()
"""


def test_a_killed_training_resumes_bit_exactly(tmp_path, counted):
    path = tmp_path / "model.ckpt"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", CHILD, path], env=environment) as child:
        deadline = time.monotonic() + 60
        while not path.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    resumed = trainer(tiny_model("vae", seed=1), steps=150, checkpoint=path)
    resumed.load(path)
    assert 0 < resumed.step < 150
    resumed.run()
    whole = trainer(tiny_model("vae"), steps=150)
    whole.run()
    assert_same_training(resumed, whole)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:50], lambda b: b"", lambda b: b"{"]
)
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "model.ckpt"
    trainer(tiny_model("vae"), steps=2).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PipelineError, match="not a readable checkpoint"):
        trainer(tiny_model("vae"), steps=2, checkpoint=path).run()
