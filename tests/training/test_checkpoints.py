import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from builders import MODELS, assert_same_training, skip_if_unsupported, tiny_model, trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.core import tensors
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


def flip(place: float):
    """Flips one bit at a share of the file."""

    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(place * (len(content) - 1))] ^= 4
        path.write_bytes(content)

    return damage


def cut(n: int):
    return lambda path: path.write_bytes(path.read_bytes()[:n])


def zero(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 512] = bytes(512)
    path.write_bytes(content)


def a_folder(path):
    path.unlink()
    path.mkdir()
    (path / "something").write_text("")


def rewritten(change, **text):
    """Whole and with a digest that fits, but with other content."""

    def damage(path):
        state, known = tensors.load(path, "")
        scalars = json.loads(bytes(state.pop("scalars").tolist()))
        state, scalars = change(state, scalars) or (state, scalars)
        state["scalars"] = torch.tensor(list(json.dumps(scalars).encode()), dtype=torch.uint8)
        tensors.save(path, state, **{**known, **text})

    return damage


def without(kind):
    def change(state, scalars):
        del state[next(name for name in state if name.startswith(kind))]

    return change


def with_nan(state, scalars):
    name = next(name for name in state if name.startswith("family/") and state[name].numel() > 1)
    state[name].view(-1)[0] = float("nan")


def foreign(state, scalars):
    state["family/foreign"] = torch.zeros(3)


DAMAGES = {
    "cut": cut(-9),
    "cut in the header": cut(50),
    "empty": cut(0),
    "no safetensors": lambda path: path.write_bytes(b"{"),
    "a folder": a_folder,
    "zeroed": zero,
    **{f"a bit at {place}": flip(place) for place in (0, 0.001, 0.02, 0.1, 0.25, 0.5, 0.75, 1)},
    "without a weight": rewritten(without("family/")),
    "a foreign tensor": rewritten(foreign),
    "of another shape": rewritten(lambda s, c: s.update({k: v.view(-1)[:0] for k, v in s.items()})),
    "weights that are not finite": rewritten(with_nan),
    "beyond the end": rewritten(lambda s, c: c.update(step=STEPS)),
    "before the beginning": rewritten(lambda s, c: c.update(step=-1)),
    "a list": rewritten(lambda s, c: (s, [1, 2])),
    "no step": rewritten(lambda s, c: (s, {k: v for k, v in c.items() if k != "step"})),
    "other groups": rewritten(lambda s, c: c.update(updates={"other": 3})),
    "rows of text": rewritten(lambda s, c: c.update(rows=["step"])),
    "under another name": rewritten(lambda s, c: None, name="other.ckpt"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_is_not_what_was_saved_is_set_aside(damage, tmp_path, capsys, counted):
    path = tmp_path / "model.ckpt"
    stopped = trainer(tiny_model("vae"), steps=STEPS)
    stopped.run(stop_at=3)
    stopped.save(path)
    damage(path)
    capsys.readouterr()
    again = trainer(tiny_model("vae"), steps=STEPS, checkpoint=path)
    again.run()
    whole = trainer(tiny_model("vae"), steps=STEPS)
    whole.run()
    assert_same_training(again, whole)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert warnings[0].endswith(
        "it is kept as model.damaged, and this training starts from the beginning"
    )
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()


def test_missing_optimiser_tensors_are_noticed(tmp_path):
    """safetensors would not miss them, and neither would the optimiser: it would begin anew."""
    path = tmp_path / "model.ckpt"
    stopped = trainer(tiny_model("vae"), steps=STEPS)
    stopped.run(stop_at=3)
    stopped.save(path)
    state = load_file(path)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    save_file({k: v for k, v in state.items() if "exp_avg" not in k}, path, metadata)
    with pytest.raises(tensors.Damaged, match="not what was saved"):
        trainer(tiny_model("vae"), steps=STEPS).load(path)


def test_what_is_refused_changes_nothing(tmp_path):
    path = tmp_path / "model.ckpt"
    stopped = trainer(tiny_model("vae"), steps=STEPS)
    stopped.run(stop_at=3)
    stopped.save(path)
    rewritten(with_nan)(path)
    fresh = trainer(tiny_model("vae", seed=1), steps=STEPS)
    before = {name: value.clone() for name, value in fresh.family.state_dict().items()}
    with pytest.raises(PipelineError, match="is not finite"):
        fresh.load(path)
    assert fresh.step == 0
    for name, value in fresh.family.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_checkpoint_that_cannot_be_written_stops_nothing(tmp_path, capsys, counted):
    (tmp_path / "work").write_text("a file where a folder should be")
    path = tmp_path / "work" / "model.ckpt"
    one = trainer(tiny_model("vae"), steps=STEPS, checkpoint=path, checkpoint_seconds=1e-9)
    one.run()
    whole = trainer(tiny_model("vae"), steps=STEPS)
    whole.run()
    assert_same_training(one, whole)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1, "the same reason is told once"
    assert re.search(r"model\.ckpt: cannot be written: .*train goes on", warnings[0])


def test_checkpoints_are_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "model.ckpt"
    calls = []

    def save(file, state, **text):
        calls.append(file)
        if len(calls) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(file, state, **text)

    written = tensors.save
    monkeypatch.setattr(tensors, "save", save)
    one = trainer(tiny_model("vae"), steps=STEPS, checkpoint=path, checkpoint_seconds=1e-9)
    one.run(stop_at=5)
    assert path.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["model.ckpt"]


def test_counting_operations_needs_no_disk(monkeypatch, counted):
    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    one = trainer(tiny_model("vae"), steps=3)
    one.run()
    assert one.flops_per_image
