"""Several processes that train one model do what one process does with the same batches."""

import pytest
import ranked
import torch
from builders import MODELS
from on_ranks import KINDS, STEPS, assert_same_trainings

ONCE = pytest.mark.xdist_group("trained on ranks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return ranked.run("on_ranks:trainings", [1, 2], tmp_path_factory.mktemp("trained"))


@ONCE
@pytest.mark.parametrize("model", KINDS)
def test_two_ranks_train_as_one_process(model, trained):
    assert_same_trainings(model, trained)


@pytest.mark.slow
@ONCE
@pytest.mark.parametrize("model", MODELS)
def test_two_and_four_ranks_train_every_model_as_one_process(model, every_trained):
    assert_same_trainings(model, every_trained)


@pytest.fixture(scope="module")
def every_trained(tmp_path_factory):
    return ranked.run("on_ranks:all_trainings", [1, 2, 4], tmp_path_factory.mktemp("trained"))


@pytest.mark.slow
def test_two_ranks_go_on_from_a_checkpoint_to_the_same_bits(tmp_path):
    (found,) = ranked.run("on_ranks:resumed", [2], tmp_path)
    for each in found:
        for model, left in each.items():
            assert left["steps"] == {**dict.fromkeys(left["steps"], STEPS), "alone": STEPS - 2}
            for name, value in left["whole"].items():
                for kind in ("resumed", "damaged"):
                    assert torch.equal(left[kind][name], value), (model, kind, name)
    assert len(list(tmp_path.glob("*.damaged"))) == len(found[0])
