"""Several processes that train one model do what one process does with the same batches."""

import pytest
import ranked
import torch
from builders import MODELS
from on_ranks import KINDS, STEPS

CLOSE = 1e-11
"""In float64, between sums in another order."""

ONCE = pytest.mark.xdist_group("trained on ranks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return ranked.run("on_ranks:trainings", [1, 2], tmp_path_factory.mktemp("trained"))


@ONCE
@pytest.mark.parametrize("model", KINDS)
def test_two_ranks_train_as_one_process(model, trained):
    assert_same_trainings(model, trained)


def assert_same_trainings(model, found):
    ((alone,), *several) = [[each[model] for each in processes] for processes in found]
    for every in several:
        first = every[0]
        for other in every[1:]:
            assert other["rows"] == first["rows"] and other["facts"] == first["facts"]
            for name, value in first["state"].items():
                assert torch.equal(value, other["state"][name]), f"{name} differs between ranks"
        assert first["facts"] == alone["facts"]
        assert first["facts"]["images_seen"] == 8 * STEPS
        assert first["state"].keys() == alone["state"].keys()
        for name, value in alone["state"].items():
            close = torch.allclose(first["state"][name], value, rtol=CLOSE, atol=CLOSE)
            assert close, f"{name} differs"
        for row, expected in zip(first["rows"], alone["rows"], strict=True):
            assert row == pytest.approx(expected, rel=CLOSE, abs=CLOSE)


@pytest.mark.slow
@ONCE
@pytest.mark.parametrize("model", MODELS)
def test_two_and_four_ranks_train_every_model_as_one_process(model, every_trained):
    assert_same_trainings(model, every_trained)


@pytest.fixture(scope="module")
def every_trained(tmp_path_factory):
    return ranked.run("on_ranks:all_trainings", [1, 2, 4], tmp_path_factory.mktemp("trained"))
