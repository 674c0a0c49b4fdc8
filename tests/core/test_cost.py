import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core import cost


def counted(run):
    with cost.Counter() as counter:
        run()
    return counter.flops


def test_a_matrix_product_counts_two_for_each_product():
    assert counted(lambda: torch.zeros(3, 4) @ torch.zeros(4, 5)) == 2 * 3 * 4 * 5


def test_what_is_done_element_by_element_does_not_count():
    assert counted(lambda: F.relu(torch.zeros(3, 4)).exp().sum()) == 0


def test_a_convolution_forward_and_backward():
    layer, images = nn.Conv2d(3, 8, 5, padding=2), torch.zeros(2, 3, 7, 6)
    forward = 2 * 2 * 8 * 7 * 6 * 3 * 5 * 5
    assert counted(lambda: layer(images)) == forward
    # The images need no gradient, so the backward pass is one product of that size.
    assert counted(lambda: layer(images).sum().backward()) == 2 * forward


@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_layer_by_its_matrices(layers):
    """Four gates, each a product with the inputs and one with the state, at every step."""
    lstm, tokens = nn.LSTM(6, 5, num_layers=layers, batch_first=True), torch.zeros(3, 7, 6)
    forward = 2 * 3 * 7 * (4 * 5 * (6 + 5) + (layers - 1) * 4 * 5 * (5 + 5))
    with torch.no_grad():
        assert counted(lambda: lstm(tokens)) == forward
    assert counted(lambda: lstm(tokens)[0].sum().backward()) == 3 * forward


def test_one_of_steps_that_are_alike_counts_for_all_where_that_is_wanted():
    def run():
        torch.zeros(1, 2) @ torch.zeros(2, 1)
        done.extend(torch.zeros(3, 4) @ torch.zeros(4, 5) for _ in cost.alike(6))

    done = []
    assert counted(run) == 4 + 6 * 2 * 3 * 4 * 5
    assert len(done) == 6
    with cost.shortened() as counter:
        run()
    assert counter.flops == 4 + 6 * 2 * 3 * 4 * 5
    assert len(done) == 7
    with pytest.raises(RuntimeError), cost.shortened():
        raise RuntimeError
    assert list(cost.alike(3)) == [0, 1, 2]


def test_a_clock_counts_the_seconds_of_steps_that_were_left_out():
    def run():
        time.sleep(0.05)
        for step in cost.alike(100):
            done.append(step)
            time.sleep(0.01)

    done = []
    began = time.perf_counter()
    with cost.clocked() as clock:
        run()
        assert clock.total == pytest.approx(1.05, rel=0.3)
    assert time.perf_counter() - began < 0.5
    assert done == [0]
    assert list(cost.alike(3)) == [0, 1, 2]


def test_recurrent_layers_on_gpus_count_all_matrices_and_no_biases():
    shapes = [(20, 6), (20, 5), (20,), (20,), (20, 5), (20, 5), (20,), (20,)]
    found = cost._gpu_recurrent(torch.zeros(3, 7, 6), [torch.zeros(each) for each in shapes])
    assert found == 2 * 3 * 7 * (20 * 6 + 20 * 5 + 2 * 20 * 5)
