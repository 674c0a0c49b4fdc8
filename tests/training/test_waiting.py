"""No training step makes the host wait for the device."""

import pytest
import torch
from builders import COLOUR, MODELS, tiny_model, trainer
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = (
    "_local_scalar_dense",  # bool, int, float, item, comparisons in an if
    "lift_fresh",  # a tensor of what the host knows, which is copied to the device
    "nonzero",
    "masked_select",
    "equal",
    "unique",
    "_unique2",
    "bincount",
)
"""Operations whose result, or the size of it, the host needs."""
METHODS = ("tolist", "numpy", "cpu")
"""Which say nothing to torch's dispatcher where the tensor is on the processor."""


class Watch(TorchDispatchMode):
    """Notes what would have waited on a GPU."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").partition(".")[0]
        by_mask = name.startswith("index") and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool
            for each in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in WAITING or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def methods(monkeypatch):
    """Calls of the methods that copy to the host."""
    found = []
    for name in METHODS:
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *args, _real=real, _name=name, **options: (
                found.append(_name),
                _real(self, *args, **options),
            )[1],
        )
    return found


AUGMENTED = {"augment": "colour,translation,cutout"}
VARIANTS = {
    "dcgan": {"training": {**AUGMENTED, "augment_target": 0.6}},
    "wgan_gp": {"training": AUGMENTED},
}
"""Models as params.yaml does not have them."""


@pytest.mark.parametrize(("name", "blocks"), [*((name, {}) for name in MODELS), *VARIANTS.items()])
def test_a_step_waits_for_nothing(name, blocks, methods):
    """Through all kinds of step: the discriminator alone, both players, a pool that is full."""
    model = tiny_model(f"models.{name}", COLOUR, **blocks)
    one = trainer(model, steps=20, n=200, flips=True)
    one.family.train()
    one._batch(0)  # the order of an epoch is copied once
    methods.clear()
    watch, done = Watch(), set()
    for _ in range(12):
        with watch:
            terms = one._call_training_step()
        assert (watch.found, methods) == ([], []), one._updated
        done.add("+".join(one._updated))
        with watch:
            one.history.add(terms)
        one.step += 1
    assert (watch.found, methods) == ([], [])
    if MODELS[name]["family"] in ("began", "wgan"):
        assert len(done) == 2


def test_what_would_wait_is_seen(methods):
    x = torch.arange(4.0)
    for wait in (
        lambda: bool(x[0] < 1),
        lambda: int(x[1]),
        lambda: float(x[1]),
        lambda: x[1].item(),
        lambda: x[x > 1],
        lambda: torch.tensor([1.0]),
        lambda: torch.as_tensor(0.5, device=x.device),
        lambda: torch.nn.functional.one_hot(x.long(), 4),
    ):
        with Watch() as watch:
            wait()
        assert watch.found
    x.tolist()
    x.numpy()
    x.cpu()
    assert methods[-3:] == list(METHODS)
