import pytest
import torch

from pipeline.core import batches


def test_padding_is_computed_and_left_out():
    calls, told = [], []

    def compute(index):
        calls.append(index.tolist())
        return {"square": index**2, "row": torch.stack([index, -index], dim=1)}

    found = batches.computed(7, 3, compute, told.append)
    assert calls == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert found["square"].tolist() == [0, 1, 4, 9, 16, 25, 36]
    assert found["row"].tolist() == [[i, -i] for i in range(7)]
    assert told == [3, 3, 1]


@pytest.mark.parametrize("n", [1, 3, 4])
def test_few_images_are_one_padded_batch_or_two(n):
    assert batches.computed(n, 3, lambda index: {"i": index})["i"].tolist() == list(range(n))
