import gc
import sys

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What collecting imports and makes stays to the end, and is not searched for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch  # not above, since the process that hands out tests runs none
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@pytest.fixture(autouse=True, scope="session")
def _no_process_is_left():
    yield
    if "forks" in sys.modules:
        sys.modules["forks"].close()


@pytest.fixture(autouse=True)
def _uncounted(request, monkeypatch):
    """No training step is done twice, since tests watch what steps do, unless one asks for it."""
    training = sys.modules.get("pipeline.training.trainer")
    if training is not None and "counted" not in request.fixturenames:
        monkeypatch.setattr(training.Trainer, "_count_one_step", lambda self: None)


@pytest.fixture
def counted():
    """The operations of training steps are counted, as in the pipeline."""
