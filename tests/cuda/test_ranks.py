"""Several GPUs, over NCCL, do what one does."""

import pytest
import ranked
import torch
from on_ranks import DRAWN, KINDS, assert_same_trainings

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.xdist_group("ranks on GPUs"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return ranked.run("on_ranks:trainings", [1, 2], folder, "cuda")


@pytest.mark.parametrize("model", KINDS)
def test_two_gpus_train_as_one(model, trained):
    assert_same_trainings(model, trained)


def test_two_gpus_draw_and_score_as_one(tmp_path):
    (alone,), two = ranked.run("on_ranks:used", [1, 2], tmp_path, "cuda")
    for model, expected in alone.items():
        for name, value in expected.items():
            for found in (each[model][name] for each in two):
                if isinstance(value, torch.Tensor):
                    assert len(value) == DRAWN and torch.equal(found, value), (model, name)
                else:
                    assert found == value, (model, name)
