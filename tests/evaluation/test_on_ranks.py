"""What is drawn and scored has the same bits on however many processes."""

import pytest
import ranked
import torch
from builders import MODELS
from on_ranks import DRAWN

pytestmark = pytest.mark.xdist_group("used on ranks")


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    return ranked.run("on_ranks:used", [1, 2, 3], tmp_path_factory.mktemp("used"))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_drawing_and_scoring_do_not_depend_on_the_number_of_ranks(model, used):
    expected = used[0][0][model]
    for each in (found[model] for ranks in used[1:] for found in ranks):
        assert each.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert len(value) == DRAWN
                assert torch.equal(each[name], value), name
            else:
                assert each[name] == value, name


@pytest.mark.slow
def test_ranks_without_a_batch_of_their_own_change_nothing(tmp_path):
    (expected,), *several = ranked.run("on_ranks:inverted", [1, 2, 5], tmp_path)
    assert all(found == expected for every in several for found in every)
    assert expected["inversion_n"] == DRAWN
