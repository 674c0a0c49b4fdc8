import pytest
import ranked
import torch
from torch import nn

from pipeline.blocks import global_batch
from pipeline.core import ranks

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.slow
def test_batch_normalisation_is_that_of_the_whole_batch(tmp_path):
    """torch's own on one process; gradients, and gradients of gradients, by its own formulas."""
    (alone,), *several = ranked.run("on_ranks:normalised", [1, 2, 3], tmp_path)
    for every in several:
        for layer, expected in alone.items():
            for name, value in expected.items():
                parts = [each[layer][name] for each in every]
                if name in STATISTICS:
                    assert all(torch.equal(parts[0], each) for each in parts)
                    found = parts[0]
                elif name in ("y", "first", "second"):
                    found = torch.cat(parts)
                else:
                    found = torch.stack(parts).sum(0)
                torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-10)


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setattr(ranks, "_rank", 1)
    monkeypatch.setattr(ranks, "_size", 2)


def test_dropout_is_that_of_the_whole_batch(monkeypatch):
    x, layer = torch.randn(8, 50), nn.Dropout(0.3)
    torch.manual_seed(0)
    whole = layer(x)
    global_batch.share(layer)
    for rank, rows in enumerate((x[:4], x[4:])):
        monkeypatch.setattr(ranks, "_rank", rank)
        monkeypatch.setattr(ranks, "_size", 2)
        torch.manual_seed(0)
        torch.testing.assert_close(layer(rows), whole[4 * rank : 4 * rank + 4])
    layer.eval()
    assert layer(x) is x


def test_a_process_that_is_alone_has_torchs_own_bits():
    x = torch.randn(6, 3, 4, 4)
    for layer in (nn.BatchNorm2d(3), nn.Dropout(0.5)):
        torch.manual_seed(0)
        expected = layer(x)
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
        global_batch.share(layer)
        torch.manual_seed(0)
        assert torch.equal(layer(x), expected)


def test_parameters_and_what_is_saved_stay_what_they_are():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.1))
    before, parameters = model.state_dict(), list(model.parameters())
    global_batch.share(model)
    global_batch.share(model)
    assert [type(each) for each in model] == [
        nn.Linear,
        global_batch.BatchNorm1d,
        global_batch.Dropout,
    ]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert before.keys() == model.state_dict().keys()


@pytest.mark.parametrize("layer", [nn.BatchNorm3d(2), nn.Dropout2d(0.5)])
def test_a_layer_that_would_look_at_its_own_rows_alone_is_refused(layer):
    with pytest.raises(NotImplementedError, match=type(layer).__name__):
        global_batch.share(nn.Sequential(layer))
