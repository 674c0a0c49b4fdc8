import sys

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _uncounted(request, monkeypatch):
    """No training step is done twice, since tests watch what steps do, unless one asks for it."""
    training = sys.modules.get("pipeline.training.trainer")
    if training is not None and "counted" not in request.fixturenames:
        monkeypatch.setattr(training.Trainer, "_count_one_step", lambda self: None)


@pytest.fixture
def counted():
    """The operations of training steps are counted, as in the pipeline."""
