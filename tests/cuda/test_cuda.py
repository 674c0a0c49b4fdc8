import pytest
import torch
from builders import (
    COLOUR,
    FACTS,
    MODELS,
    sampled,
    scored,
    skip_if_unsupported,
    some_images,
    tiny_model,
    tiny_params,
    trainer,
)

from pipeline.core import seeds
from pipeline.core.contract import HasLikelihood, Samples, Translates
from pipeline.models import weights

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
EVERY = pytest.mark.parametrize("name", [f"models.{model}" for model in MODELS])
LEVELS = 4
"""Kernels round differently; a few of 256 levels are no other image."""


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def every(n):
    return seeds.image_seeds(n, 0, "sample")


def on_both(name, folder):
    """A trained model with the same weights on the processor and on the GPU."""
    model = tiny_model(name, COLOUR)
    trainer(model, steps=3).run()
    weights.save(folder / "model", model, FACTS)
    return [
        weights.load(folder / "model", tiny_params(name), COLOUR, torch.device(device))[0]
        for device in ("cpu", "cuda")
    ]


@EVERY
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_with_the_images_on_the_device(name, precision):
    skip_if_unsupported(name, "cuda", training={"precision": precision})
    model = tiny_model(name, device="cuda", training={"precision": precision})
    before = [p.detach().clone() for p in model.parameters()]
    one = trainer(model, steps=2)
    one.run()
    assert one.images.device.type == one.labels.device.type == "cuda"
    assert all(p.device.type == "cuda" for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@EVERY
def test_a_step_does_not_wait_for_the_device(name):
    """As `tests/training/test_waiting.py` finds without one."""
    skip_if_unsupported(name, "cuda")
    one = trainer(tiny_model(name, device="cuda"), steps=20, n=200)
    one.family.train()
    try:
        for step in range(12):
            if step == 2:  # the first make what all need: orders, states of optimisers, handles
                torch.cuda.set_sync_debug_mode("error")
            one.history.add(one._call_training_step())
            one.step += 1
    finally:
        torch.cuda.set_sync_debug_mode("default")


@EVERY
def test_samples_are_those_of_the_processor(name, tmp_path):
    cpu, cuda = on_both(name, tmp_path)
    if not isinstance(cpu, Samples):
        pytest.skip(f"{name} does not sample")
    found, expected = sampled(cuda, every(8)), sampled(cpu, every(8))
    assert found.device.type == "cuda"
    difference = (found.cpu().int() - expected.int()).abs()
    # A level drawn at a boundary may fall to either side and take what follows with it.
    assert (difference <= LEVELS).float().mean() > 0.9


@EVERY
def test_translations_are_those_of_the_processor(name, tmp_path):
    cpu, cuda = on_both(name, tmp_path)
    if not isinstance(cpu, Translates):
        pytest.skip(f"{name} does not translate")
    images = some_images(4, COLOUR)
    for direction in ("ab", "ba"):
        found, expected = cuda.translate(images.cuda(), direction), cpu.translate(images, direction)
        assert ((found.cpu().int() - expected.int()).abs() <= LEVELS).float().mean() > 0.9


@EVERY
def test_likelihoods_are_those_of_the_processor(name, tmp_path):
    cpu, cuda = on_both(name, tmp_path)
    if not isinstance(cpu, HasLikelihood):
        pytest.skip(f"{name} has no likelihood")
    images = some_images(4, COLOUR)
    expected = scored(cpu, images, every(4)).nats
    found = scored(cuda, images.cuda(), every(4)).nats
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=0.1)


@EVERY
def test_resuming_is_bit_exact(name, tmp_path):
    whole = trainer(tiny_model(name, device="cuda"), steps=5)
    whole.run()
    stopped = trainer(tiny_model(name, device="cuda"), steps=5)
    stopped.run(stop_at=2)
    stopped.save(tmp_path / "model.ckpt")
    resumed = trainer(
        tiny_model(name, seed=1, device="cuda"), steps=5, checkpoint=tmp_path / "model.ckpt"
    )
    resumed.run()
    assert resumed.history.to_csv() == whole.history.to_csv()
    for key, value in whole.family.state_dict().items():
        assert torch.equal(value, resumed.family.state_dict()[key]), key
