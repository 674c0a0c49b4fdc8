import pytest
import torch
from torch import nn

from pipeline.blocks.transformer import Block, Cache

PIECES = [[6], [1] * 6, [2, 1, 3], [5, 1]]


def some_tokens(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def a_block(width=12, heads=3):
    torch.manual_seed(0)
    return Block(0, width, heads).double()


def torchs_own(block, width=12, heads=3):
    """torch's layer of the same shape, with the block's weights."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    pairs = {
        layer.norm1: block.attention_norm,
        layer.norm2: block.perceptron_norm,
        layer.self_attn.out_proj: block.attention_out,
        layer.linear1: block.perceptron_in,
        layer.linear2: block.perceptron_out,
    }
    for theirs, ours in pairs.items():
        theirs.load_state_dict(ours.state_dict())
    layer.self_attn.in_proj_weight.copy_(block.queries_keys_values.weight)
    layer.self_attn.in_proj_bias.copy_(block.queries_keys_values.bias)
    return layer


@pytest.mark.parametrize("pieces", PIECES, ids=str)
@torch.no_grad()
def test_a_block_is_that_of_torch_whatever_was_cached(pieces):
    block, tokens = a_block(), some_tokens(2, 6, 12)
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    expected = torchs_own(block)(tokens, src_mask=mask, is_causal=True)
    cache = Cache()
    found = [block(piece, cache) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(found, dim=1), expected)
