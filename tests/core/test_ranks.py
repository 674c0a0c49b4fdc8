import pytest
import torch

from pipeline.core import collectives, ranks, seeds


@pytest.fixture
def place(monkeypatch):
    def take(rank, size):
        monkeypatch.setattr(ranks, "_rank", rank)
        monkeypatch.setattr(ranks, "_size", size)

    return take


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "2"}, (0, 1)),
        ({"WORLD_SIZE": "4"}, (0, 1)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, (0, 1)),
        ({"RANK": "two", "WORLD_SIZE": "4"}, (0, 1)),
    ],
)
def test_places_are_those_of_torchrun(environment, found):
    assert ranks.assigned(environment) == found


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_rows_of_all_ranks_are_the_batch(size, place):
    whole, parts = torch.arange(12).view(6, 2), []
    for rank in range(size):
        place(rank, size)
        parts.append(ranks.rows(whole))
    assert torch.equal(torch.cat(parts), whole)
    assert {len(part) for part in parts} == {6 // size}


def test_rows_that_cannot_be_shared_evenly_are_refused(place):
    place(1, 4)
    with pytest.raises(ValueError, match="6 rows cannot be shared evenly by 4 processes"):
        ranks.rows(torch.zeros(6, 2))


def test_an_image_has_the_same_noise_on_however_many_ranks(place):
    def drawn(n):
        noise = seeds.BatchNoise(torch.Generator().manual_seed(1))
        return noise.normal(n, 3), noise.uniform(n, 2, 2)

    rng = torch.Generator().manual_seed(1)
    expected = [torch.randn(12, 3, generator=rng), torch.rand(12, 2, 2, generator=rng)]
    for size in (1, 2, 3):
        parts = []
        for rank in range(size):
            place(rank, size)
            parts.append(drawn(12 // size))
        for found, whole in zip(map(torch.cat, zip(*parts, strict=True)), expected, strict=True):
            assert torch.equal(found, whole)


def test_a_process_alone_says_nothing():
    value = torch.randn(3, 2, requires_grad=True)
    assert collectives.gathered(value) is value and collectives.mean(value) is value
    terms = {"a/b": torch.ones(())}
    assert collectives.means(terms) is terms
    collectives.join(torch.device("cpu"))
    collectives.average([value])
    assert not torch.distributed.is_initialized()


def test_within_a_block_a_rank_may_be_alone(place):
    place(1, 2)
    with pytest.raises(KeyError), ranks.alone():
        assert (ranks.rank(), ranks.size(), ranks.first()) == (0, 1, True)
        raise KeyError
    assert (ranks.rank(), ranks.size(), ranks.first()) == (1, 2, False)
