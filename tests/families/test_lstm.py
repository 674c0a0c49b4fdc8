"""What is its own; what it shares with its like is in test_autoregressive.py."""

import pytest
import torch
from builders import tiny_model

from pipeline.core.images import ImageSpec

COLOUR = ImageSpec(3, 5, 4, 10)


def some_tokens(model, n=3, length=5):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, length, model.token, dtype=torch.float64, generator=rng)


def by_hand(model, tokens):
    """The equations of the LSTM, token by token and layer by layer."""
    outputs, layers = [], model.lstm.num_layers
    h = [torch.zeros(len(tokens), model.lstm.hidden_size, dtype=torch.float64)] * layers
    c = list(h)
    for x in tokens.unbind(dim=1):
        for i in range(layers):
            of_input, of_state, *biases = (getattr(model.lstm, name) for name in names(i))
            gates = x @ of_input.T + h[i] @ of_state.T + sum(biases)
            enter, forget, new, leave = gates.chunk(4, dim=1)
            c[i] = forget.sigmoid() * c[i] + enter.sigmoid() * new.tanh()
            h[i] = x = leave.sigmoid() * c[i].tanh()
        outputs.append(x @ model.known.weight.T + model.known.bias)
    return torch.stack(outputs, dim=1)


def names(layer):
    return [f"{kind}_l{layer}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_reading_is_the_equations_in_one_go_and_token_by_token(layers):
    model = tiny_model("lstm", COLOUR, network={"recurrent_layers": layers}).double()
    tokens = some_tokens(model)
    expected = by_hand(model, tokens)
    torch.testing.assert_close(model.read(tokens, None)[0], expected)
    state, stepped = None, []
    for token in tokens.split(1, dim=1):
        known, state = model.read(token, None, state)
        stepped.append(known)
    torch.testing.assert_close(torch.cat(stepped, dim=1), expected)
